"""The nearest neighbour graph of an embedding, exact and the same in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgpt.errors import DataError
from scgpt.metrics.umap_weights import umap_weights

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import ArrayLike

N_NEIGHBORS = 15
FEWEST_CELLS = 4


def neighbor_graph(embedding: ArrayLike, *, n_neighbors: int = N_NEIGHBORS) -> sp.csr_matrix:
    """Return the weighted graph of nearest neighbours that clustering and connectivity use.

    The graph is that of scanpy with `transformer="sklearn"`: exact neighbours, weights of UMAP.
    Up to some 50,000 cells exact search is faster than the approximate one that scanpy and scib
    take by default, and it misses no neighbour.

    Parameters
    ----------
    embedding
        One vector per cell, shape (n_cells, width).
    n_neighbors
        Size of the neighbourhood including the cell itself, as scanpy counts; at most all cells.

    Returns
    -------
    Symmetric CSR matrix of connectivities in [0, 1], shape (n_cells, n_cells), float32.

    Raises
    ------
    DataError
        If the embedding is not a finite two-dimensional array, or has fewer than four cells.

    References
    ----------
    McInnes et al., arXiv:1802.03426 (weights); Wolf et al. 2018, 10.1186/s13059-017-1382-0
    (scanpy); k = 15 as in Luecken et al. 2022, 10.1038/s41592-021-01336-8.
    """
    vectors = finite_vectors(embedding)
    if len(vectors) < FEWEST_CELLS:
        msg = f"a neighbour graph needs at least {FEWEST_CELLS} cells, found {len(vectors)}"
        raise DataError(msg)
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(n_neighbors, len(vectors) - 1), algorithm="brute")
    distances, indices = search.fit(vectors).kneighbors(vectors)
    return umap_weights(*_itself_first(indices, distances))


def _itself_first(indices: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put every cell before its neighbours, which ties at distance 0 may have shuffled."""
    is_itself = indices == np.arange(len(indices))[:, None]
    # A cell that many others coincide with may be missing among its own neighbours.
    is_itself[~is_itself.any(axis=1), -1] = True
    order = np.argsort(~is_itself, axis=1, kind="stable")
    indices = np.take_along_axis(indices, order, axis=1)
    distances = np.take_along_axis(distances, order, axis=1)
    indices[:, 0], distances[:, 0] = np.arange(len(indices)), 0
    return indices, distances


def finite_vectors(embedding: ArrayLike) -> np.ndarray:
    """Return an embedding as float64 of shape (n_cells, width).

    Raises
    ------
    DataError
        If it has another number of dimensions, no column, or a value that is NaN or infinite.
    """
    vectors = np.asarray(embedding, dtype=np.float64)
    if vectors.ndim != 2 or not vectors.shape[1]:
        msg = f"an embedding is an array of shape (n_cells, width), found shape {vectors.shape}"
        raise DataError(msg)
    n_bad = int((~np.isfinite(vectors)).any(axis=1).sum())
    if n_bad:
        msg = f"the vectors of {n_bad} of {len(vectors)} cells hold NaN or infinite values"
        raise DataError(msg)
    return vectors
