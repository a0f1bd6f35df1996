"""How far two results may differ, and the table that says how far they do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["absolute", "relative"]
OUTPUT_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
PARAMETER_TOLERANCE = 1e-5
GRADIENT_FLOOR = 1e-5
"""Smaller gradient norms than this share of the total norm are compared as if they were as large:
those that are zero but for rounding have no relative difference worth the name."""


@dataclass(frozen=True)
class Comparison:
    """The largest difference found in one output.

    Parameters
    ----------
    name
        Official name of the output.
    difference
        Largest difference; infinity if the output is missing or has another shape.
    tolerance
        Largest one allowed.
    kind
        Whether both are absolute or relative to the stored value.
    note
        Which parameter it was, or what is wrong.
    """

    name: str
    difference: float
    tolerance: float
    kind: Kind
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance


def compare_output(
    name: str,
    ours: Tensor,
    stored: Tensor,
    *,
    valid: Tensor | None = None,
    tolerance: float = OUTPUT_TOLERANCE,
) -> Comparison:
    """Compare tensors, at the positions where `valid` is True (its shape may be shorter)."""
    if ours.shape != stored.shape:
        note = f"shape {tuple(ours.shape)}, stored {tuple(stored.shape)}"
        return Comparison(name, math.inf, tolerance, "absolute", note)
    difference = (ours.detach().double() - stored.double()).abs()
    if valid is not None:
        difference = difference[valid]
    largest = float(difference.max()) if difference.numel() else 0.0
    return Comparison(name, largest, tolerance, "absolute")


def compare_number(name: str, ours: float, stored: float) -> Comparison:
    """Compare two losses, relative to the stored one."""
    difference = abs(ours - stored) / max(abs(stored), torch.finfo(torch.float32).tiny)
    return Comparison(name, difference, LOSS_TOLERANCE, "relative")


def missing(name: str, why: str) -> Comparison:
    """Return the comparison of something that one side does not have."""
    return Comparison(name, math.inf, 0.0, "absolute", why)


def table(comparisons: list[Comparison]) -> str:
    """Return the comparisons as lines of text, one each."""
    width = max((len(row.name) for row in comparisons), default=0)
    return "\n".join(
        f"  {row.name:<{width}}  {row.difference:9.2e}  {row.kind}, allowed {row.tolerance:.0e}  "
        f"{'ok' if row.passed else 'DIFFERS'}{f'  ({row.note})' if row.note else ''}"
        for row in comparisons
    )
