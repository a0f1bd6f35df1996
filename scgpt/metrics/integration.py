"""Scores of integration: cell types kept apart, batches mixed, as scib computes them.

All that is expensive is made once per embedding by `scgpt.metrics.integration_arrays`; the metrics
only read it.
Values are those of scib 1.1.7 on the same arrays. Where scib answers by convention (a type of one
cell is connected; a cell alone among its kind in a batch counts as mixed) or leaves a type out, the
note says so, and where it would answer NaN the metric is undefined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgpt.errors import MetricUndefined
from scgpt.metrics.neighbors import N_NEIGHBORS
from scgpt.metrics.registry import Score, metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    import scipy.sparse as sp

    from scgpt.metrics.clustering import Sweep

PAPER = "10.1038/s41592-024-02201-0"
SCIB = f"Luecken et al. 2022, 10.1038/s41592-021-01336-8 (scib 1.1.7); as used in {PAPER}"
LOUVAIN = f"Luecken et al. 2022, 10.1038/s41592-021-01336-8 (scib up to 1.0); as used in {PAPER}"
SUMMARY = f"as used in {PAPER}"
BIO_SHARE = 0.6  # of the overall score, as in scib
SHOWN = 5


@metric(task="integration", higher_is_better=True, bounds=(0, 1), title="NMI", reference=SCIB)
def nmi(cell_types: np.ndarray, leiden: Sweep) -> Score:
    """Normalised mutual information of cell types and the Leiden clustering that fits them best.

    The best of ten resolutions is chosen by this very score, so it is an upper estimate. The mean
    of both entropies normalises.

    References
    ----------
    10.1038/s41592-021-01336-8
    """
    value, _, note = _best(cell_types, leiden)
    return Score(value, len(cell_types), note)


@metric(task="integration", higher_is_better=True, bounds=(-0.5, 1), title="ARI", reference=SCIB)
def ari(cell_types: np.ndarray, leiden: Sweep) -> Score:
    """Agreement over pairs of cells (ARI) of types and the Leiden clustering of best NMI.

    References
    ----------
    10.1007/BF01908075 (index); 10.1038/s41592-021-01336-8 (choice of the clustering)
    """
    return _adjusted_rand(cell_types, leiden)


@metric(
    task="integration",
    higher_is_better=True,
    bounds=(0, 1),
    title="NMI, Louvain",
    reference=LOUVAIN,
)
def nmi_louvain(cell_types: np.ndarray, louvain: Sweep) -> Score:
    """Normalised mutual information of cell types and the best of 20 Louvain clusterings.

    References
    ----------
    10.1038/s41592-021-01336-8
    """
    value, _, note = _best(cell_types, louvain)
    return Score(value, len(cell_types), note)


@metric(
    task="integration",
    higher_is_better=True,
    bounds=(-0.5, 1),
    title="ARI, Louvain",
    reference=LOUVAIN,
)
def ari_louvain(cell_types: np.ndarray, louvain: Sweep) -> Score:
    """Agreement over pairs of cells (ARI) of types and the Louvain clustering of best NMI.

    References
    ----------
    10.1007/BF01908075 (index); 10.1038/s41592-021-01336-8 (choice of the clustering)
    """
    return _adjusted_rand(cell_types, louvain)


def _adjusted_rand(cell_types: np.ndarray, sweep: Sweep) -> Score:
    from sklearn.metrics import adjusted_rand_score

    _, resolution, note = _best(cell_types, sweep)
    codes = np.unique(cell_types, return_inverse=True)[1]
    value = float(adjusted_rand_score(codes, sweep[resolution]))
    return Score(value, len(cell_types), note)


def _best(cell_types: np.ndarray, sweep: Sweep) -> tuple[float, float, str]:
    """Return the highest NMI, the first resolution that has it, and a note if it may be too low."""
    from sklearn.metrics import normalized_mutual_info_score

    types, codes = np.unique(cell_types, return_inverse=True)
    _at_least_two(types, "cell type", "agreement with clusters says nothing")
    values = {r: float(normalized_mutual_info_score(sweep[r], codes)) for r in sorted(sweep)}
    best = max(values, key=values.__getitem__)
    lower, upper = min(values), max(values)
    note = ""
    if best == upper > lower:
        note = f"the best resolution, {best:g}, is the highest one tried: NMI may still rise"
    return min(values[best], 1.0), best, note


@metric(
    task="integration",
    higher_is_better=True,
    bounds=(0, 1),
    title="ASW, cell type",
    reference=SCIB,
)
def asw_label(cell_types: np.ndarray, type_widths: np.ndarray) -> Score:
    """Mean silhouette width by cell type, scaled to (mean + 1) / 2.

    References
    ----------
    10.1016/0377-0427(87)90125-7 (silhouette); 10.1038/s41592-021-01336-8 (scaling)
    """
    types, sizes = np.unique(cell_types, return_counts=True)
    _at_least_two(types, "cell type", "there is no other type to be apart from")
    if len(types) == len(cell_types):
        msg = "every cell is a type of its own, so no silhouette is defined"
        raise MetricUndefined(msg)
    single = types[sizes == 1]
    note = f"silhouette 0 by convention for types of one cell: {_names(single)}"
    return Score(float((type_widths.mean() + 1) / 2), len(cell_types), note if len(single) else "")


@metric(
    task="integration", higher_is_better=True, bounds=(0, 1), title="ASW, batch", reference=SCIB
)
def asw_batch(cell_types: np.ndarray, batches: np.ndarray, batch_widths: np.ndarray) -> Score:
    """Mean over types of the mean of 1 - |silhouette width by batch| among the type's cells.

    It can reward an embedding in which batches overlap for want of any structure. Types of one
    batch only, and types whose cells are all of different batches, take no part; n counts the
    cells of the others.

    References
    ----------
    10.1038/s41592-021-01336-8; its limits: 10.1038/s41587-025-02743-4
    """
    names, sizes = np.unique(batches, return_counts=True)
    _at_least_two(names, "batch", "there is nothing to mix")
    counted = ~np.isnan(batch_widths)
    types = np.unique(cell_types)
    included = np.unique(cell_types[counted])
    if not len(included):
        msg = f"none of {len(types)} cell types has two batches and more cells than batches"
        raise MetricUndefined(msg)
    means = [np.mean(1 - np.abs(batch_widths[cell_types == name])) for name in included]
    notes = []
    left_out = np.setdiff1d(types, included)
    if len(left_out):
        notes.append(
            f"{len(left_out)} of {len(types)} types take no part, being in one batch only or of "
            f"one cell per batch: {_names(left_out)}"
        )
    n_alone = _n_alone(cell_types[counted], batches[counted])
    if n_alone:
        notes.append(
            f"cells that are the only ones of their type in their batch count as mixed: {n_alone}"
        )
    small = names[sizes < N_NEIGHBORS]
    if len(small):
        notes.append(f"batches of fewer than {N_NEIGHBORS} cells: {_names(small)}")
    return Score(float(np.mean(means)), int(counted.sum()), "; ".join(notes))


def _n_alone(cell_types: np.ndarray, batches: np.ndarray) -> int:
    pairs = np.unique(np.stack([cell_types, batches]), axis=1, return_counts=True)[1]
    return int((pairs == 1).sum())


@metric(
    task="integration",
    higher_is_better=True,
    bounds=(0, 1),
    title="Graph connectivity",
    reference=SCIB,
)
def graph_connectivity(cell_types: np.ndarray, graph: sp.csr_matrix) -> Score:
    """Mean over types of the share of cells in the largest connected part of the type's graph.

    References
    ----------
    10.1038/s41592-021-01336-8
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    types, codes, sizes = np.unique(cell_types, return_inverse=True, return_counts=True)
    edges = graph.tocoo()
    same = codes[edges.row] == codes[edges.col]
    kept = csr_matrix((edges.data[same], (edges.row[same], edges.col[same])), shape=graph.shape)
    _, parts = connected_components(kept, directed=False)
    # A part lies within one type, so its size and its type are those of any of its cells.
    part_sizes = np.bincount(parts)
    largest = np.zeros(len(types), dtype=np.int64)
    np.maximum.at(largest, codes, part_sizes[parts])
    single = types[sizes == 1]
    note = f"connected by convention, being types of one cell: {_names(single)}"
    return Score(float(np.mean(largest / sizes)), len(cell_types), note if len(single) else "")


@metric(
    task="integration",
    higher_is_better=True,
    bounds=(-1 / 6, 1),
    title="AvgBIO",
    reference=SUMMARY,
)
def avg_bio(cell_types: np.ndarray, leiden: Sweep, type_widths: np.ndarray) -> Score:
    """Mean of NMI, ARI and ASW of cell types: how well an embedding keeps types apart.

    References
    ----------
    10.1038/s41592-024-02201-0
    """
    parts = [nmi(cell_types, leiden), ari(cell_types, leiden), asw_label(cell_types, type_widths)]
    return _weighted(parts, (1 / 3, 1 / 3, 1 / 3))


@metric(
    task="integration",
    higher_is_better=True,
    bounds=(-1 / 6, 1),
    title="AvgBIO, Louvain",
    reference=SUMMARY,
)
def avg_bio_louvain(cell_types: np.ndarray, louvain: Sweep, type_widths: np.ndarray) -> Score:
    """Mean of NMI, ARI (both by Louvain, as in the paper) and ASW of cell types.

    References
    ----------
    10.1038/s41592-024-02201-0
    """
    return avg_bio(cell_types, louvain, type_widths)


@metric(
    task="integration", higher_is_better=True, bounds=(0, 1), title="AvgBATCH", reference=SUMMARY
)
def avg_batch(
    cell_types: np.ndarray, batches: np.ndarray, batch_widths: np.ndarray, graph: sp.csr_matrix
) -> Score:
    """Mean of ASW of batches and graph connectivity: how well an embedding mixes batches.

    References
    ----------
    10.1038/s41592-024-02201-0
    """
    parts = [asw_batch(cell_types, batches, batch_widths), graph_connectivity(cell_types, graph)]
    return _weighted(parts, (1 / 2, 1 / 2))


@metric(
    task="integration", higher_is_better=True, bounds=(-0.1, 1), title="Overall", reference=SUMMARY
)
def overall(
    cell_types: np.ndarray,
    batches: np.ndarray,
    leiden: Sweep,
    type_widths: np.ndarray,
    batch_widths: np.ndarray,
    graph: sp.csr_matrix,
) -> Score:
    """Return 0.6 AvgBIO + 0.4 AvgBATCH.

    References
    ----------
    10.1038/s41592-021-01336-8 (weights)
    """
    parts = [
        avg_bio(cell_types, leiden, type_widths),
        avg_batch(cell_types, batches, batch_widths, graph),
    ]
    return _weighted(parts, (BIO_SHARE, 1 - BIO_SHARE))


@metric(
    task="integration",
    higher_is_better=True,
    bounds=(-0.1, 1),
    title="Overall, Louvain",
    reference=SUMMARY,
)
def overall_louvain(
    cell_types: np.ndarray,
    batches: np.ndarray,
    louvain: Sweep,
    type_widths: np.ndarray,
    batch_widths: np.ndarray,
    graph: sp.csr_matrix,
) -> Score:
    """Return 0.6 AvgBIO + 0.4 AvgBATCH with clusters by Louvain, as in the paper.

    References
    ----------
    10.1038/s41592-021-01336-8 (weights)
    """
    return overall(cell_types, batches, louvain, type_widths, batch_widths, graph)


def _weighted(parts: Iterable[Score], weights: Iterable[float]) -> Score:
    """Return the weighted sum of scores, with every distinct note of theirs."""
    parts = list(parts)
    value = sum(weight * part.value for weight, part in zip(weights, parts, strict=True))
    notes = dict.fromkeys(note for part in parts for note in part.note.split("; ") if note)
    return Score(value, min(part.n for part in parts), "; ".join(notes))


def _at_least_two(names: np.ndarray, what: str, why: str) -> None:
    if len(names) < 2:
        msg = f"all cells are of one {what} ({_names(names)}): {why}"
        raise MetricUndefined(msg)


def _names(names: np.ndarray) -> str:
    shown = ", ".join(map(str, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
