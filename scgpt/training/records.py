"""Means over cells, and the rows of a training curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CELLS = "n_cells"


def add(sums: dict[str, float], values: Mapping[str, float], n_cells: int) -> None:
    """Add the values of one batch to running sums, weighted by its number of cells."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value * n_cells
    sums[CELLS] = sums.get(CELLS, 0.0) + n_cells


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the mean over cells of everything summed."""
    return {name: value / sums[CELLS] for name, value in sums.items() if name != CELLS}


def rows(
    values: Mapping[str, float],
    *,
    epoch: int,
    step: int,
    phase: str,
    lr: float | None = None,
    seconds: float = 0.0,
    cells_per_second: float | None = None,
) -> list[dict[str, Any]]:
    """Return one history row per objective."""
    return [
        {
            "epoch": epoch,
            "step": step,
            "phase": phase,
            "objective": objective,
            "value": float(value),
            "lr": lr,
            "seconds": seconds,
            "cells_per_second": cells_per_second,
        }
        for objective, value in values.items()
    ]
