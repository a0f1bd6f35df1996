"""Step `score`: compare the predictions of a split with the truth, one row per metric (C6).

All methods of a split are scored in one process, since starting one costs more than most scores. So
that a new or changed method still costs its own scores only, each job keeps its rows beside its
prediction (`metrics.tsv`) with a note of what they were made from (`metrics.json`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgpt.data import contracts
from scgpt.data.io import read_h5ad
from scgpt.data.tables import JOB_KEYS, RUNS, SCORES, read_table, write_table
from scgpt.errors import ContractError
from scgpt.files import canonical_json, digest_of, read_json, sha256_file, write_json
from scgpt.metrics.registry import compute, metrics_of

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from anndata import AnnData


def run(
    spec: dict[str, Any],
    *,
    jobs: list[Path],
    truth: Path,
    code: str,
    scores: Path,
    runs: Path,
) -> None:
    """Score the jobs of a split.

    Parameters
    ----------
    spec
        Task, its module and its metrics (see `Plan.score_spec`).
    jobs
        Folders that each hold `prediction.h5ad` and `run.json`.
    truth
        C2 file of the split.
    code
        Digest of the code, as the workflow knows it: other code, other scores.
    scores, runs
        Tables to write: C6 rows of all jobs, and one row per job.
    """
    task = importlib.import_module(spec["module"])
    hidden = read_h5ad(truth, task.TRUTH)
    same = {"spec": spec, "code": code, "truth": sha256_file(truth)}
    tables = [_kept_or_scored(job, task, hidden, spec, same) for job in jobs]
    write_table(pd.concat(tables, ignore_index=True), scores, SCORES)
    rows = [_run_row(read_json(job / "run.json")) for job in jobs]
    write_table(pd.DataFrame(rows), runs, RUNS)


def _kept_or_scored(
    job: Path, task: ModuleType, hidden: AnnData, spec: dict[str, Any], same: dict[str, Any]
) -> pd.DataFrame:
    table, note = job / "metrics.tsv", job / "metrics.json"
    made_from = digest_of({**same, "prediction": sha256_file(job / "prediction.h5ad")})
    if not _is_current(table, note, made_from):
        predicted = read_h5ad(job / "prediction.h5ad", task.PREDICTION)
        write_table(score(predicted, hidden, task, spec), table, SCORES)
        write_json(note, {"made_from": made_from, "sha256": sha256_file(table)})
    return read_table(table, SCORES)


def _is_current(table: Path, note: Path, made_from: str) -> bool:
    """Tell whether the rows are of this prediction, truth and code, and nobody edited them."""
    if not (table.is_file() and note.is_file()):
        return False
    try:
        found = read_json(note)
    except ContractError:
        return False  # cut off while it was written: score again
    return found == {"made_from": made_from, "sha256": sha256_file(table)}


def score(
    predicted: AnnData, hidden: AnnData, task: ModuleType, spec: dict[str, Any]
) -> pd.DataFrame:
    """Return the scores of one prediction, one row per metric and group.

    Every rule that odd data, or a method faced with them, made necessary goes into the note of
    every row: no score of such a run is read without it.
    """
    arrays = task.scoring_arrays(predicted, hidden)
    record = predicted.uns[contracts.KEY]
    rows = [
        row
        for metric in metrics_of(spec["metrics"], spec["task"])
        for row in compute(metric, arrays)
    ]
    notes = [str(note) for adata in (hidden, predicted) for note in adata.uns.get("notes", ())]
    table = pd.DataFrame(rows)
    table["note"] = ["; ".join([note] * bool(note) + notes) for note in table["note"]]
    for position, key in enumerate(JOB_KEYS):
        table.insert(position, key, record[key])
    return table


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
