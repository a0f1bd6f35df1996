"""Divide cells into training, validation and test, by name: the order of cells cannot matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.errors import DataError
from scgpt.tokens.keys import SPLIT, name_keys, seed_key

if TYPE_CHECKING:
    from collections.abc import Sequence

SPLITS = ("train", "valid", "test")


def split_reference(
    names: Sequence[str],
    is_reference: np.ndarray,
    *,
    labels: Sequence[str] | None = None,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> pd.Categorical:
    """Hold out some reference cells for validation; query cells become the test cells.

    The published recipe holds out 10 % at random, not stratified.

    Parameters
    ----------
    names
        Cell names, unique.
    is_reference
        True for reference cells, shape (n_cells,).
    labels
        With labels, the same fraction of every label is held out, and at least one cell of each
        label stays in training.
    valid_fraction
        Share of the reference that is held out.
    seed
        Another seed holds out other cells.

    Returns
    -------
    Categories train, valid, test; one value per cell.

    Raises
    ------
    DataError
        If names repeat, or the reference is too small to divide.
    """
    is_reference = np.asarray(is_reference, dtype=bool)
    reference = np.flatnonzero(is_reference)
    names = np.asarray(names, dtype=object)
    chosen = hold_out(
        names[reference],
        valid_fraction,
        labels=None if labels is None else np.asarray(labels, dtype=object)[reference],
        seed=seed,
    )
    codes = np.full(names.size, SPLITS.index("test"))
    codes[reference] = np.where(chosen, SPLITS.index("valid"), SPLITS.index("train"))
    return pd.Categorical.from_codes(codes, categories=list(SPLITS))


def hold_out(
    names: Sequence[str],
    fraction: float,
    *,
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Choose ``round(fraction * n)`` cells by the hashes of their names.

    With labels the number is shared out in proportion (largest remainders first), and a label
    never loses its last cell.

    Returns
    -------
    Array of bool, shape (n_cells,); True for the chosen cells.

    Raises
    ------
    DataError
        If names repeat, the fraction is not between 0 and 1, or one side would be empty.
    """
    if not 0 < fraction < 1:
        msg = f"the fraction to hold out is {fraction}, expected a number between 0 and 1"
        raise DataError(msg)
    index = pd.Index(names)
    if not index.is_unique:
        msg = f"cell names must be unique to be divided, {index[index.duplicated()][0]!r} is not"
        raise DataError(msg)
    n_chosen = round(fraction * len(index))
    if not 0 < n_chosen < len(index):
        msg = f"{len(index)} cells cannot be divided with a held-out fraction of {fraction}"
        raise DataError(msg)
    order = np.argsort(seed_key(seed, SPLIT, name_keys(index)), kind="stable")
    if labels is None:
        chosen = order[:n_chosen]
    else:
        groups, counts = _codes(labels)
        quotas = _shares(counts, n_chosen)
        rank = pd.Series(groups[order]).groupby(groups[order]).cumcount().to_numpy()
        chosen = order[rank < quotas[groups[order]]]
    mask = np.zeros(len(index), dtype=bool)
    mask[chosen] = True
    return mask


def _codes(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    codes, _ = pd.factorize(np.asarray(labels, dtype=object), sort=True)
    if (codes < 0).any():
        msg = f"{(codes < 0).sum()} cells have no label; a stratified division needs all labels"
        raise DataError(msg)
    return codes, np.bincount(codes)


def _shares(counts: np.ndarray, n_chosen: int) -> np.ndarray:
    """Share `n_chosen` out over groups in proportion, never a whole group."""
    exact = counts * (n_chosen / counts.sum())
    shares = np.floor(exact).astype(int)
    by_remainder = np.argsort(-(exact - shares), kind="stable")
    while (missing := n_chosen - shares.sum()) > 0:
        open_groups = by_remainder[shares[by_remainder] < counts[by_remainder] - 1]
        if not open_groups.size:
            break
        shares[open_groups[:missing]] += 1
    return shares
