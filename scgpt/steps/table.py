"""Step `table`: from the scores of splits to the tables people read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from scgpt.data.tables import RUNS, SCORES, read_table, write_table
from scgpt.metrics.registry import metrics_of
from scgpt.metrics.statistics import holm, paired_difference, summarise, with_bounds

if TYPE_CHECKING:
    from pathlib import Path


COMPARISONS = (
    *("task", "dataset", "metric", "group", "a", "b", "mean", "standard_error"),
    *("interval_low", "interval_high", "p_value", "n_pairs", "note", "p_adjusted"),
)


def run(
    spec: dict[str, Any],
    *,
    scores: list[Path],
    runs: list[Path],
    all_scores: Path,
    summary: Path,
    comparisons: Path,
    all_runs: Path,
) -> None:
    """Summarise a task over its data sets: mean, error, interval, floor and ceiling.

    Parameters
    ----------
    spec
        Task, roles of its methods, metrics, the method compared (see `Plan.table_spec`).
    scores, runs
        The tables of `score`, one of each per split of a data set.
    all_scores, summary, comparisons, all_runs
        Tables to write.
    """
    table = pd.concat([read_table(path, SCORES) for path in scores], ignore_index=True)
    write_table(table, all_scores, SCORES)
    direction = {
        metric.name: metric.higher_is_better for metric in metrics_of(spec["metrics"], spec["task"])
    }
    bounded = with_bounds(summarise(table), spec["roles"], higher_is_better=direction)
    write_table(bounded, summary)
    write_table(compare(table, spec), comparisons)
    gathered = pd.concat([read_table(path, RUNS) for path in runs], ignore_index=True)
    write_table(gathered, all_runs, RUNS)


def compare(table: pd.DataFrame, spec: dict[str, Any]) -> pd.DataFrame:
    """Compare one method with every other on the replicates they share, p values by Holm.

    Controls are left out: that a method beats them is shown by floor and ceiling.
    """
    others = [
        name
        for name, role in spec["roles"].items()
        if role == "method" and name != spec["compared"]
    ]
    if spec["compared"] is None or not others:
        return pd.DataFrame(columns=COMPARISONS)
    shown = table[table["metric"].isin(spec["headline"]) & (table["group"].fillna("") == "")]
    rows = pd.concat(
        [paired_difference(shown, spec["compared"], other) for other in others], ignore_index=True
    )
    return rows.assign(p_adjusted=holm(rows["p_value"]))
