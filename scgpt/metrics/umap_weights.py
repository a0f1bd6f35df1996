"""The weights that UMAP gives to the edges of a graph of nearest neighbours.

The same numbers as the package umap, whose functions are compiled anew in every process: for the
few thousand cells of most scores that takes a hundred times as long as the work itself.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

N_STEPS = 64
TOLERANCE = 1e-5
SMALLEST_SCALE = 1e-3  # of a bandwidth, relative to the mean distance


def umap_weights(indices: np.ndarray, distances: np.ndarray) -> sp.csr_matrix:
    """Return the symmetric weights of the edges to the nearest neighbours.

    Parameters
    ----------
    indices, distances
        Nearest cells of each cell, itself included, and their distances, nearest first; shape
        (n_cells, n_neighbors).

    Returns
    -------
    CSR matrix of weights in [0, 1], shape (n_cells, n_cells), float32.

    References
    ----------
    McInnes et al., arXiv:1802.03426, sections 3.1 and 4.1: weight exp(-(d - rho) / sigma) with rho
    the distance of the nearest other cell and sigma such that the weights of a cell sum to log2(k);
    the two directions of an edge are joined as a + b - ab.
    """
    distances = distances.astype(np.float32)
    nearest = _nearest(distances)
    scales = _bandwidths(distances, nearest)
    beyond = np.maximum(distances - nearest[:, None], 0)
    # The scale is 0 where all distances are: weight 1, as for the nearest cell.
    scales = np.where(scales > 0, scales, 1)[:, None]
    weights = np.exp(-beyond / scales)
    n_cells, n_neighbors = indices.shape
    rows = np.repeat(np.arange(n_cells), n_neighbors)
    weights[indices == np.arange(n_cells)[:, None]] = 0
    directed = sp.csr_matrix(
        (weights.ravel().astype(np.float32), (rows, indices.ravel())), shape=(n_cells, n_cells)
    )
    directed.eliminate_zeros()
    other = directed.T.tocsr()
    graph = (directed + other - directed.multiply(other)).tocsr()
    graph.eliminate_zeros()
    graph.sort_indices()
    return graph


def _nearest(distances: np.ndarray) -> np.ndarray:
    """Return the smallest distance above zero of each cell, 0 where there is none."""
    positive = np.where(distances > 0, distances, np.inf).min(axis=1)
    return np.where(np.isfinite(positive), positive, 0).astype(np.float32)


def _bandwidths(distances: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return the scale of each cell, found by bisection for all cells at once."""
    target = np.log2(distances.shape[1])
    beyond = (distances[:, 1:] - nearest[:, None]).astype(np.float64)
    low, high = np.zeros(len(distances)), np.full(len(distances), np.inf)
    middle = np.ones(len(distances))
    searching = np.ones(len(distances), dtype=bool)
    for _ in range(N_STEPS):
        part = beyond[searching]
        total = np.where(part > 0, np.exp(-np.maximum(part, 0) / middle[searching, None]), 1)
        excess = total.sum(axis=1) - target
        found = np.flatnonzero(searching)[np.abs(excess) < TOLERANCE]
        searching[found] = False
        excess = excess[np.abs(excess) >= TOLERANCE]
        if not searching.any():
            break
        above, below = (np.flatnonzero(searching)[side] for side in (excess > 0, excess <= 0))
        high[above] = middle[above]
        middle[above] = (low[above] + high[above]) / 2
        low[below] = middle[below]
        open_end = np.isinf(high[below])
        middle[below] = np.where(open_end, 2 * middle[below], (low[below] + high[below]) / 2)
    mean = np.where(nearest > 0, distances.mean(axis=1), distances.mean())
    return np.maximum(middle, SMALLEST_SCALE * mean).astype(np.float32)
