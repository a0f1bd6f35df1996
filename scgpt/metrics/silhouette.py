"""Exact silhouette widths in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgpt.errors import DataError, MetricUndefined
from scgpt.metrics.neighbors import finite_vectors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BLOCK_BYTES = 16 * 2**20


def silhouette_widths(
    embedding: ArrayLike, labels: ArrayLike, *, block_bytes: int = BLOCK_BYTES
) -> np.ndarray:
    """Return the silhouette width of every cell, by Euclidean distance.

    Equal to `sklearn.metrics.silhouette_samples`: with a the mean distance to the other cells of
    the same group and b the smallest mean distance to another group, (b - a) / max(a, b). A cell
    that is alone in its group has width 0, and so has one at distance 0 from all others.

    Parameters
    ----------
    embedding
        Shape (n_cells, width).
    labels
        Group of every cell, shape (n_cells,).
    block_bytes
        Memory for the distances held at any one time.

    Returns
    -------
    Widths in [-1, 1], float64, shape (n_cells,).

    Raises
    ------
    DataError
        If the arrays do not fit each other.
    MetricUndefined
        If there is one group only, or as many groups as cells.

    References
    ----------
    Rousseeuw 1987, 10.1016/0377-0427(87)90125-7.
    """
    vectors = finite_vectors(embedding)
    groups, codes = np.unique(np.asarray(labels), return_inverse=True)
    if codes.shape != (len(vectors),):
        msg = f"expected one label for each of {len(vectors)} cells, found shape {codes.shape}"
        raise DataError(msg)
    if not 2 <= len(groups) < len(vectors):
        msg = f"a silhouette needs at least 2 groups and fewer groups than cells: {len(groups)}"
        msg += f" groups, {len(vectors)} cells"
        raise MetricUndefined(msg)
    order = np.argsort(codes, kind="stable")
    sums = np.empty((len(vectors), len(groups)))
    sums[order] = _distance_sums(vectors[order], codes[order], len(groups), block_bytes)
    return _widths(sums, codes)


def _distance_sums(
    vectors: np.ndarray, codes: np.ndarray, n_groups: int, block_bytes: int
) -> np.ndarray:
    """Return the summed distances of every cell to every group; cells are sorted by group."""
    # Squared distances come from inner products, which lose digits far from the origin. The first
    # shift makes the second one exact where all cells are equal.
    vectors = vectors - vectors[0]
    vectors -= vectors.mean(axis=0)
    squares = np.einsum("ij,ij->i", vectors, vectors)[:, None]
    ones = np.ones_like(squares)
    left = np.hstack([vectors, squares, ones])
    right = np.hstack([-2 * vectors, ones, squares]).T
    starts = np.searchsorted(codes, np.arange(n_groups))
    n_rows = max(1, min(len(vectors), block_bytes // (8 * len(vectors))))
    buffer = np.empty(n_rows * len(vectors))
    sums = np.zeros((len(vectors), n_groups))
    for start in range(0, len(vectors), n_rows):
        stop = min(start + n_rows, len(vectors))
        shape = (stop - start, len(vectors) - start)
        block = buffer[: shape[0] * shape[1]].reshape(shape)
        np.matmul(left[start:stop], right[:, start:], out=block)
        np.maximum(block, 0, out=block)
        np.fill_diagonal(block, 0)
        np.sqrt(block, out=block)
        # Each distance is computed once: rows to the columns not yet seen, and back.
        first = codes[start]
        ends = np.maximum(starts[first:] - start, 0)
        sums[start:stop, first:] += np.add.reduceat(block, ends, axis=1)
        if stop < len(vectors):
            last = codes[stop - 1] + 1
            back = np.add.reduceat(block[:, shape[0] :], ends[: last - first], axis=0)
            sums[stop:, first:last] += back.T
    return sums


def _widths(sums: np.ndarray, codes: np.ndarray) -> np.ndarray:
    cells = np.arange(len(codes))
    sizes = np.bincount(codes)
    own = sums[cells, codes] / np.maximum(sizes[codes] - 1, 1)
    others = sums / sizes
    others[cells, codes] = np.inf
    nearest = others.min(axis=1)
    largest = np.maximum(own, nearest)
    widths = np.zeros(len(codes))
    defined = (sizes[codes] > 1) & (largest > 0)
    np.divide(nearest - own, largest, out=widths, where=defined)
    return widths
