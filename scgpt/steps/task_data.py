"""Step `task-data`: divide a data set into what methods see (C2 data) and the truth."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scgpt.data import contracts
from scgpt.data.io import read_h5ad, write_h5ad
from scgpt.files import digest_of, write_json

if TYPE_CHECKING:
    from pathlib import Path


def run(spec: dict[str, Any], *, dataset: Path, data: Path, truth: Path, card: Path) -> None:
    """Prepare one split (`spec`: see `Plan.task_spec`): data, truth and a card of its sizes."""
    task = importlib.import_module(spec["module"])
    source = read_h5ad(dataset, contracts.DATASET)
    record = source.uns[contracts.KEY]
    prepared, hidden = task.prepare(source, task.Params(**spec["params"]), seed=spec["seed"])
    keys = {key: spec[key] for key in ("scale", "task", "dataset", "split")}
    division = {str(cell): str(part) for cell, part in prepared.obs["split"].items()}
    digest = {"split_sha256": digest_of(division)}
    write_json(card, {**keys, **digest, **task.describe(prepared, hidden)})
    write_h5ad(hidden, truth, task.TRUTH, **keys)
    write_h5ad(prepared, data, contracts.TASK_DATA, **keys, value_kind=record["value_kind"])
