"""Labels that fit: shortened, wrapped, or moved apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Beyond this many categories, hues alone are hard to match: the categories are numbered as well.
N_WITHOUT_NUMBERS = 8
# Mean width of a character of a tick label (6.5 points), and height of a line of text, in inches.
CHARACTER = 0.053
LINE = 0.132


def panel_inches(ax: Axes) -> tuple[float, float]:
    """Return width and height of the panel that holds the axes, its labels included."""
    box = ax.figure.bbox
    return box.width / ax.figure.dpi, box.height / ax.figure.dpi


def shorten(text: str, inches: float) -> str:
    """Return text that fits a width, with its middle left out if it is too long.

    Names of cell types tell each other apart at the start (lineage) and at the end (subtype).
    """
    n = max(8, int(inches / CHARACTER))
    if len(text) <= n:
        return text
    tail = (n - 1) // 2
    return f"{text[: n - 1 - tail].rstrip()}…{text[-tail:].lstrip()}"


def spread(positions: np.ndarray, *, low: float, high: float, gap: float) -> np.ndarray:
    """Move sorted positions as little as possible so that neighbours are `gap` apart.

    Parameters
    ----------
    positions
        Increasing positions.
    low, high
        Range that must hold all of them; (n - 1) * gap must fit.
    gap
        Smallest distance.

    Notes
    -----
    With the offsets i * gap taken out this is isotonic regression: pooled means of neighbours that
    would overlap.
    """
    offsets = gap * np.arange(len(positions))
    blocks: list[list[float]] = []
    for value in positions - offsets:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, n = blocks.pop()
            before, n_before = blocks.pop()
            total = n + n_before
            blocks.append([(mean * n + before * n_before) / total, total])
    pooled = np.repeat([mean for mean, _ in blocks], [n for _, n in blocks])
    return np.clip(pooled, low, high - offsets[-1]) + offsets
