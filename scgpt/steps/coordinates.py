"""Step `coordinates`: what figures draw of one job, as a tidy table: they read nothing else."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scgpt.data import contracts
from scgpt.data.io import read_h5ad
from scgpt.data.tables import write_table

if TYPE_CHECKING:
    from pathlib import Path

MAX_CELLS = 2000  # rows of the embedding table: more than a printed heatmap can resolve


def run(
    spec: dict[str, Any],
    *,
    data: Path,
    truth: Path,
    prediction: Path,
    table: str,
    output: Path,
) -> None:
    """Write one table of a job (`spec`: see `Plan.coordinates_spec`)."""
    task = importlib.import_module(spec["module"])
    predicted = read_h5ad(prediction, task.PREDICTION)
    drawn = task.coordinates(
        read_h5ad(data, contracts.TASK_DATA),
        read_h5ad(truth, task.TRUTH),
        predicted,
        table=table,
        max_cells=MAX_CELLS,
        seed=0,
    )
    record = predicted.uns[contracts.KEY]
    drawn.insert(0, "method", record["method"])
    drawn.insert(0, "dataset", record["dataset"])
    write_table(drawn, output)
