"""Graph, clusterings and silhouettes of an embedding, computed once for all metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from scgpt.errors import DataError
from scgpt.metrics.clustering import leiden_sweep, louvain_sweep
from scgpt.metrics.neighbors import N_NEIGHBORS, finite_vectors, neighbor_graph
from scgpt.metrics.silhouette import silhouette_widths


def integration_arrays(
    embedding: np.ndarray,
    batches: np.ndarray,
    cell_types: np.ndarray,
    *,
    n_neighbors: int = N_NEIGHBORS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return everything the metrics of integration name as their arguments, computed once.

    Parameters
    ----------
    embedding
        One vector per cell, shape (n_cells, width).
    batches, cell_types
        Text, shape (n_cells,).
    n_neighbors
        Of the neighbour graph.
    seed
        Of the clusterings.

    Returns
    -------
    `embedding`, `batches`, `cell_types`; `graph` (see `neighbor_graph`); `leiden` and `louvain`
    (see `leiden_sweep`); `type_widths`, silhouette widths by cell type, shape (n_cells,), all NaN
    where undefined; `batch_widths`, those by batch among the cells of the same type, NaN for cells
    of a type that takes no part.

    Raises
    ------
    DataError
        If the arrays do not fit each other, or there are too few cells for a graph.
    """
    vectors = finite_vectors(embedding)
    batches, cell_types = (
        _labels(name, labels, len(vectors))
        for name, labels in (("batch", batches), ("cell type", cell_types))
    )
    graph = neighbor_graph(vectors, n_neighbors=n_neighbors)
    return {
        "embedding": vectors,
        "batches": batches,
        "cell_types": cell_types,
        "graph": graph,
        "leiden": leiden_sweep(graph, seed=seed),
        "louvain": louvain_sweep(graph, seed=seed),
        "type_widths": type_widths(vectors, cell_types),
        "batch_widths": batch_widths(vectors, batches, cell_types),
    }


def _labels(name: str, labels: np.ndarray, n_cells: int) -> np.ndarray:
    import pandas as pd

    labels = np.asarray(labels, dtype=object)
    if labels.shape != (n_cells,):
        msg = f"expected one {name} for each of {n_cells} cells, found shape {labels.shape}"
        raise DataError(msg)
    n_missing = int(pd.isna(labels).sum())
    if n_missing:
        msg = f"{n_missing} of {n_cells} cells have no {name}; every cell needs one"
        raise DataError(msg)
    return labels.astype(str)


def type_widths(vectors: np.ndarray, cell_types: np.ndarray) -> np.ndarray:
    """Return silhouette widths by cell type, shape (n_cells,); all NaN where undefined."""
    if not 2 <= len(set(cell_types)) < len(cell_types):
        return np.full(len(cell_types), np.nan)
    return silhouette_widths(vectors, cell_types)


def batch_widths(vectors: np.ndarray, batches: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Return silhouette widths by batch among the cells of each type, shape (n_cells,).

    They are NaN for the cells of a type in one batch only, or in as many batches as cells.
    """
    widths = np.full(len(types), np.nan)
    for name in np.unique(types):
        cells = np.flatnonzero(types == name)
        if 2 <= len(set(batches[cells])) < len(cells):
            widths[cells] = silhouette_widths(vectors[cells], batches[cells])
    return widths
