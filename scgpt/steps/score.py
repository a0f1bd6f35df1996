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
    """Score one prediction (`spec`: see `Plan.score_spec`)."""
    task = importlib.import_module(spec["module"])
    predicted = read_h5ad(prediction, task.PREDICTION)
    arrays = task.scoring_arrays(predicted, read_h5ad(truth, task.TRUTH))
    record = predicted.uns[contracts.KEY]
    rows = [
        row
        for metric in metrics_of(spec["metrics"], spec["task"])
        for row in compute(metric, arrays)
    ]
    table = pd.DataFrame(rows)
    for position, key in enumerate(JOB_KEYS):
        table.insert(position, key, record[key])
    write_table(table, output, SCORES)
