"""Steps `collect` and `table`: from the rows of single jobs to the tables people read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from scgpt.data.tables import JOB_KEYS, RUNS, SCORES, read_table, write_table
from scgpt.files import canonical_json, read_json

if TYPE_CHECKING:
    from pathlib import Path


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
    all_runs: Path,
) -> None:
    """Summarise a task over its data sets: mean, error, interval, floor and ceiling.

    Parameters
    ----------
    spec
        Task and roles of its methods (see `Plan.table_spec`).
    scores, runs
        The tables of `collect`, one of each per data set.
    all_scores, summary, all_runs
        Tables to write.
    """
    from scgpt.metrics.statistics import summarise, with_bounds

    table = pd.concat([read_table(path, SCORES) for path in scores], ignore_index=True)
    write_table(table, all_scores, SCORES)
    write_table(with_bounds(summarise(table), spec["roles"]), summary)
    write_table(
        pd.concat([read_table(path, RUNS) for path in runs], ignore_index=True), all_runs, RUNS
    )
