"""Means, errors and comparisons over replicates of a metrics table.

A replicate is a (split, seed) pair. Seeds are averaged inside a split first, then splits give mean
and error, as in the paper's protocol of five training/validation splits; with a single split the
seeds are the replicates. The splits share one test set and overlap in training data, so the errors
describe the spread of the procedure, not the sampling of new test cells (Nadeau & Bengio 2003,
10.1023/A:1024068626366).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from scgpt.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KEYS = ("task", "dataset", "method", "metric", "group")
REPLICATE = ("split", "seed")
SUMMARY = (
    "mean",
    "standard_error",
    "interval_low",
    "interval_high",
    "n_splits",
    "n_seeds",
    "replicates_over",
    "note",
)
ROLES = ("method", "negative_control", "positive_control", "attack")
CONFIDENCE = 0.95
# Equal differences of scores may still differ in the last bits, which would give t near infinity.
SAME = 1e-12


def summarise(table: pd.DataFrame, *, by: Sequence[str] = KEYS) -> pd.DataFrame:
    """Average replicates and give standard errors and 95 % t intervals.

    Parameters
    ----------
    table
        Metrics table with the columns in `by`, `split`, `seed`, `value` and `note`.
    by
        Columns that identify what is summarised; everything else is a replicate.

    Returns
    -------
    pandas.DataFrame
        The `by` columns and `mean`, `standard_error`, `interval_low`, `interval_high`, `n_splits`,
        `n_seeds` (per split, the largest number), `replicates_over` ("split", "seed" or "none") and
        `note`. Errors are empty, with a note, for a single replicate; the mean is empty where no
        replicate has a value. Intervals are not cut at the bounds of the metric.

    Raises
    ------
    ContractError
        If columns are missing, a replicate occurs twice, or a value is infinite or not a number
        and has no note.
    """
    by = list(by)
    table = _checked(table, by)
    units = _replicates(table, by).groupby(by, sort=False)
    runs = _notes(table, by).to_frame("note").join(_numbers_of_runs(table, by))
    runs = runs.join(units["value"].agg(["mean", "std", "size"])).join(units["over"].first())
    counts = ["n_splits", "n_seeds", "fewest_seeds", "size"]
    runs[counts] = runs[counts].fillna(0).astype(int)
    own = [
        _run_note(*row)
        for row in zip(runs["size"], runs["fewest_seeds"], runs["n_seeds"], strict=True)
    ]
    summary = runs.assign(
        **_interval(runs["mean"], runs["std"], runs["size"]),
        replicates_over=runs["over"].where(runs["size"] > 1, "none"),
        note=[_join(*notes) for notes in zip(runs["note"], own, strict=True)],
    )
    return summary[list(SUMMARY)].reset_index()


def _checked(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    needed = [*by, *REPLICATE, "value", "note"]
    missing = [name for name in needed if name not in table]
    if missing:
        msg = f"metrics table lacks columns {missing}; it has {list(table)}"
        raise ContractError(msg)
    if table.empty:
        msg = "metrics table has no row; nothing to summarise"
        raise ContractError(msg)
    table = _filled(table, [*by, "note"]).assign(value=pd.to_numeric(table["value"]))
    keys = [*by, *REPLICATE]
    twice = table.duplicated(keys)
    if twice.any():
        first = table.loc[twice, keys].iloc[0].to_dict()
        msg = f"metrics table holds {int(twice.sum())} rows twice, the first is {first}"
        raise ContractError(msg)
    wrong = np.isinf(table["value"]) | (table["value"].isna() & (table["note"] == ""))
    if wrong.any():
        first = table.loc[wrong, [*keys, "value"]].iloc[0].to_dict()
        msg = f"{int(wrong.sum())} values are infinite, or empty without a note; first: {first}"
        raise ContractError(msg)
    return table


def _filled(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the table with text in place of the NaN that files give for empty text."""
    return table.assign(**{name: table[name].where(table[name].notna(), "") for name in columns})


def _replicates(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return `by`, `over`, `replicate`, `value`: one row per split, or per seed of a lone split."""
    defined = table[table["value"].notna()]
    several = defined.groupby(by, sort=False)["split"].transform("nunique") > 1
    defined = defined.assign(
        over=np.where(several, "split", "seed"),
        replicate=np.where(several, defined["split"].astype(str), defined["seed"].astype(str)),
    )
    groups = defined.groupby([*by, "over", "replicate"], sort=False)["value"]
    return groups.mean().reset_index()


def _numbers_of_runs(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return, indexed by `by`, the number of splits and the range of seeds per split."""
    defined = table[table["value"].notna()]
    seeds = defined.groupby([*by, "split"], sort=False)["seed"].nunique().groupby(level=by)
    return seeds.agg(n_splits="size", n_seeds="max", fewest_seeds="min")


def _interval(mean: Any, deviation: Any, n: Any) -> dict[str, Any]:
    """Return mean, standard error and t interval (numbers or arrays); NaN where n < 2."""
    several = np.where(np.asarray(n) > 1, n, np.nan)
    error = deviation / np.sqrt(several)
    half = error * stdtrit(several - 1, 0.5 + CONFIDENCE / 2)
    return {
        "mean": mean,
        "standard_error": error,
        "interval_low": mean - half,
        "interval_high": mean + half,
    }


def _notes(table: pd.DataFrame, by: list[str]) -> pd.Series:
    """Return, indexed by `by`, each distinct note with how many of the runs carry it."""
    n_runs = table.groupby(by, sort=False).size()
    found: dict[tuple, list[str]] = {}
    noted = table[table["note"] != ""]
    for (*key, note), carriers in noted.groupby([*by, "note"], sort=False):
        key = tuple(key) if len(by) > 1 else key[0]
        prefix = "no value: " if carriers["value"].isna().all() else ""
        n, n_all = len(carriers), n_runs[key]
        found.setdefault(key, []).append(
            f"{prefix}{note}" + ("" if n == n_all else f" ({n} of {n_all} runs)")
        )
    return pd.Series([_join(*found.get(key, [])) for key in n_runs.index], n_runs.index)


def _run_note(n: int, fewest_seeds: int, most_seeds: int) -> str:
    uneven = f"between {fewest_seeds} and {most_seeds} seeds per split"
    lone = "one replicate: no error"
    return _join(uneven if fewest_seeds < most_seeds else "", lone if n == 1 else "")


def with_replicates(
    summary: pd.DataFrame, table: pd.DataFrame, *, by: Sequence[str] = KEYS
) -> pd.DataFrame:
    """Repeat each summary row for every replicate behind it, for figures that draw both.

    Parameters
    ----------
    summary
        What `summarise` (and perhaps `with_bounds`) made of `table`.
    table
        The metrics table.
    by
        As given to `summarise`.

    Returns
    -------
    pandas.DataFrame
        The summary columns and `replicate` (name of the split or seed) and `value`; one row with
        empty `value` where nothing is defined.
    """
    by = list(by)
    values = _replicates(_checked(table, by), by).drop(columns="over")
    return _filled(summary, by).merge(values, on=by, how="left", validate="one_to_many")


def with_bounds(
    summary: pd.DataFrame,
    roles: Mapping[str, str],
    *,
    higher_is_better: Mapping[str, bool] | None = None,
) -> pd.DataFrame:
    """Add what the controls reached, and each mean on the scale between them.

    Parameters
    ----------
    summary
        Table from `summarise`, with `method`, `metric` and `mean`.
    roles
        Method to role: method, negative_control, positive_control or attack.
    higher_is_better
        Metric to direction; metrics not named improve upwards.

    Returns
    -------
    pandas.DataFrame
        The summary with `role`, `floor` (best negative control), `ceiling` (best positive control)
        of the same task, data set, metric and group, and `scaled` = (mean - floor) /
        (ceiling - floor). Where there is no room between the two, or a control is absent, `scaled`
        is empty and `scaled_note` says so. Scores below the floor stay negative. The `note` of a
        method that is better than the positive control says so: that is a finding about the metric.

    Raises
    ------
    ContractError
        If a method of the table has no role, or a role is unknown.
    """
    _check_roles(summary["method"], roles)
    directions = dict(higher_is_better or {})
    keys = [name for name in ("task", "dataset", "metric", "group") if name in summary]
    summary = _filled(summary, keys).reset_index(drop=True)
    summary["role"] = summary["method"].map(roles)
    parts = []
    for key, part in summary.groupby(keys, sort=False):
        named = dict(zip(keys, key, strict=True))
        sign = 1.0 if directions.get(named["metric"], True) else -1.0
        floor = _best(part, "negative_control", sign)
        ceiling = _best(part, "positive_control", sign)
        problem = _no_room(floor, ceiling, sign)
        scaled = np.nan if problem else (part["mean"] - floor) / (ceiling - floor)
        added = {"floor": floor, "ceiling": ceiling, "scaled": scaled, "scaled_note": problem}
        parts.append(_with_note_above(part.assign(**added), ceiling, sign))
    return pd.concat(parts).loc[summary.index]


def _with_note_above(part: pd.DataFrame, ceiling: float, sign: float) -> pd.DataFrame:
    """Say beside every score that it is better than the best positive control."""
    if "note" not in part or np.isnan(ceiling):
        return part
    above = (part["role"] != "positive_control") & (sign * (part["mean"] - ceiling) > SAME)
    words = f"better than the positive control ({ceiling:.3f})"
    notes = [
        _join("" if pd.isna(note) else note, words if is_above else "")
        for note, is_above in zip(part["note"], above, strict=True)
    ]
    return part.assign(note=notes)


def _check_roles(methods: Iterable[str], roles: Mapping[str, str]) -> None:
    unknown = sorted(set(methods) - set(roles))
    if unknown:
        msg = f"methods {unknown} have no role; known methods: {sorted(roles)}"
        raise ContractError(msg)
    wrong = {method: role for method, role in roles.items() if role not in ROLES}
    if wrong:
        msg = f"unknown roles {wrong}; a role is one of {ROLES}"
        raise ContractError(msg)


def _best(part: pd.DataFrame, role: str, sign: float) -> float:
    values = part.loc[part["role"] == role, "mean"].dropna()
    return float(sign * (sign * values).max()) if len(values) else np.nan


def _no_room(floor: float, ceiling: float, sign: float) -> str:
    if np.isnan(floor):
        return "not scaled: no negative control has a value"
    if np.isnan(ceiling):
        return "not scaled: no positive control has a value"
    if sign * (ceiling - floor) <= 0:
        return f"not scaled: no room between floor {floor:.3f} and ceiling {ceiling:.3f}"
    return ""


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def paired_difference(
    table: pd.DataFrame,
    a: str,
    b: str,
    *,
    by: Sequence[str] = ("task", "dataset", "metric", "group"),
) -> pd.DataFrame:
    """Compare two methods on the replicates they share.

    Parameters
    ----------
    table
        Metrics table.
    a, b
        Methods; the difference is a - b.
    by
        Columns that identify one comparison.

    Returns
    -------
    pandas.DataFrame
        The `by` columns, `a`, `b`, `mean` (of the differences), `standard_error`, `interval_low`,
        `interval_high`, `p_value` (two-sided paired t test, not adjusted: see `holm`), `n_pairs`
        and `note`. Pairs are splits, each method averaged over its seeds, or seeds where only one
        split is shared.

    Raises
    ------
    ContractError
        If a method is not in the table.
    """
    by = list(by)
    table = _checked(table, [*by, "method"])
    absent = [name for name in (a, b) if not (table["method"] == name).any()]
    if absent:
        msg = f"methods {absent} not in the table; it has {sorted(set(table['method']))}"
        raise ContractError(msg)
    rows = []
    for key, part in table[table["method"].isin([a, b])].groupby(by, sort=False):
        differences, note = _differences(part, a, b)
        deviation = np.std(differences, ddof=1) if len(differences) > 1 else np.nan
        mean = np.mean(differences) if len(differences) else np.nan
        row = {"a": a, "b": b, **_interval(mean, deviation, len(differences))}
        row["p_value"] = _p_value(differences)
        row |= {"n_pairs": len(differences), "note": note}
        rows.append(dict(zip(by, key, strict=True)) | row)
    return pd.DataFrame(rows)


def _differences(part: pd.DataFrame, a: str, b: str) -> tuple[np.ndarray, str]:
    defined = part[part["value"].notna()]
    common = set(defined.loc[defined["method"] == a, "split"])
    common &= set(defined.loc[defined["method"] == b, "split"])
    defined = defined[defined["split"].isin(common)]
    over = "split" if len(common) > 1 else "seed"
    values = defined.pivot_table(index=over, columns="method", values="value", aggfunc="mean")
    pairs = values.reindex(columns=[a, b]).dropna()
    n_all = part[over].nunique()
    notes = [] if len(pairs) == n_all else [f"{len(pairs)} of {n_all} {over}s have both methods"]
    if len(pairs) < 2:
        notes.append("fewer than two pairs: no error")
    differences = (pairs[a] - pairs[b]).to_numpy()
    if len(pairs) > 1 and np.ptp(differences) <= SAME:
        notes.append("the same difference in every pair: no test")
    return differences, "; ".join(notes)


def _p_value(differences: np.ndarray) -> float:
    n = len(differences)
    if n < 2 or np.ptp(differences) <= SAME:
        return np.nan
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(n))
    return float(2 * stdtr(n - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjust p values for the number of comparisons; NaN stays NaN and does not count.

    References
    ----------
    Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
