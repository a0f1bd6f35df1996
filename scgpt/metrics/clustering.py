"""Clusterings of a neighbour graph over a range of resolutions, on igraph."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scgpt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import igraph

Sweep = dict[float, np.ndarray]

# scib 1.1.7: ten steps up to 2. The paper (scib up to 1.0): twenty.
LEIDEN_RESOLUTIONS = tuple(2 * (step + 1) / 10 for step in range(10))
LOUVAIN_RESOLUTIONS = tuple(2 * (step + 1) / 20 for step in range(20))


def leiden_sweep(
    graph: sp.spmatrix, *, resolutions: Iterable[float] = LEIDEN_RESOLUTIONS, seed: int = 0
) -> Sweep:
    """Cluster a graph with the Leiden algorithm at every resolution.

    Optimises modularity with a resolution parameter until no further move improves it
    (`n_iterations=-1`), the objective of scanpy's Leiden.

    Parameters
    ----------
    graph
        Symmetric matrix of edge weights, shape (n_cells, n_cells).
    resolutions
        Greater values give more clusters.
    seed
        Of every resolution anew, so that one clustering does not depend on which others are asked.

    Returns
    -------
    Resolution to integer labels of shape (n_cells,).

    References
    ----------
    Traag et al. 2019, 10.1038/s41598-019-41695-z.
    """
    network = _network(graph)
    labels: Sweep = {}
    for resolution in resolutions:
        with _seeded(seed):
            found = network.community_leiden(
                objective_function="modularity",
                weights="weight",
                resolution=resolution,
                n_iterations=-1,
            )
        labels[float(resolution)] = np.asarray(found.membership, dtype=np.int64)
    return labels


def louvain_sweep(
    graph: sp.spmatrix, *, resolutions: Iterable[float] = LOUVAIN_RESOLUTIONS, seed: int = 0
) -> Sweep:
    """Cluster a graph with the Louvain algorithm at every resolution; all edges count the same.

    scanpy's Louvain ignores the weights of edges unless told otherwise, and scib never did.

    Parameters
    ----------
    graph
        Symmetric matrix, shape (n_cells, n_cells); what is not zero is an edge.
    resolutions
        Greater values give more clusters.
    seed
        Of every resolution anew.

    Returns
    -------
    Resolution to integer labels of shape (n_cells,).

    References
    ----------
    Blondel et al. 2008, 10.1088/1742-5468/2008/10/P10008.
    """
    network = _network(graph)
    labels: Sweep = {}
    for resolution in resolutions:
        with _seeded(seed):
            found = network.community_multilevel(resolution=resolution)
        labels[float(resolution)] = np.asarray(found.membership, dtype=np.int64)
    return labels


def _network(graph: sp.spmatrix) -> igraph.Graph:
    """Return the graph with every edge once; modularity does not change with the weights' unit."""
    import igraph

    if graph.ndim != 2 or graph.shape[0] != graph.shape[1]:
        msg = f"a graph is a square matrix of edge weights, found shape {graph.shape}"
        raise DataError(msg)
    half = sp.triu(graph, k=1, format="coo")
    edges = np.column_stack([half.row, half.col]).astype(np.int64)
    network = igraph.Graph(n=graph.shape[0], edges=edges, directed=False)
    network.es["weight"] = half.data.astype(np.float64)
    return network


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give igraph a generator of its own, then Python's module `random`, its default, again."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)
