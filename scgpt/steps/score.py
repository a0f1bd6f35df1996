"""Step `score`: compare one prediction with the truth, one row per metric and group (C6)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgpt.data import contracts
from scgpt.data.io import read_h5ad
from scgpt.data.tables import JOB_KEYS, SCORES, write_table
from scgpt.metrics.registry import compute, metrics_of

if TYPE_CHECKING:
    from pathlib import Path


def run(spec: dict[str, Any], *, prediction: Path, truth: Path, output: Path) -> None:
    """Score one prediction (`spec`: see `Plan.score_spec`).

    Every rule that odd data, or a method faced with them, made necessary goes into the note of
    every row: no score of such a run is read without it.
    """
    task = importlib.import_module(spec["module"])
    predicted, hidden = read_h5ad(prediction, task.PREDICTION), read_h5ad(truth, task.TRUTH)
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
    write_table(table, output, SCORES)
