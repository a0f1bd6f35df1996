"""Steps `collect` and `table`: from the rows of single jobs to the tables people read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from scgpt.data.tables import JOB_KEYS, RUNS, SCORES, read_table, write_table
from scgpt.files import canonical_json, read_json
from scgpt.metrics.registry import metrics_of
from scgpt.metrics.statistics import holm, paired_difference, summarise, with_bounds

if TYPE_CHECKING:
    from pathlib import Path


COMPARISONS = (
    *("task", "dataset", "metric", "group", "a", "b", "mean", "standard_error"),
    *("interval_low", "interval_high", "p_value", "n_pairs", "note", "p_adjusted"),
)


def collect(*, jobs: list[Path], scores: Path, runs: Path) -> None:
    """Put the scores and run records of the jobs of one data set into two tables.

    Parameters
    ----------
    jobs
        Folders that each hold `metrics.tsv` and `run.json`.
    scores, runs
        Tables to write: C6 rows, and one row per job.
    """
    tables = [read_table(job / "metrics.tsv", SCORES) for job in jobs]
    write_table(pd.concat(tables, ignore_index=True), scores, SCORES)
    rows = [_run_row(read_json(job / "run.json")) for job in jobs]
    write_table(pd.DataFrame(rows), runs, RUNS)


def _run_row(record: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: record[key] for key in JOB_KEYS},
        **{key: record[key] for key in ("wall_seconds", "peak_rss_bytes", "peak_gpu_bytes")},
        "device": record["device"],
        "params": canonical_json(record["params"]),
        "code": record["code"],
        "commit": record["git"]["commit"],
        "prediction_sha256": record["outputs"]["prediction.h5ad"],
    }


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
        The tables of `collect`, one of each per data set.
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
