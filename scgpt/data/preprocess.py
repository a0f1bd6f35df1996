"""From counts to log-normalised values, variable genes, principal components and UMAP.

Every statistic is fitted on the cells given for that, so that nothing leaks from cells a method
must not see. scanpy is imported inside the functions that need it: importing it takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numba import njit
from scipy.sparse import csr_matrix, issparse

from scgpt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

Flavor = Literal["seurat_v3", "cell_ranger", "seurat"]
SHOWN = 5
LARGEST_LOGGED = 30  # exp(30) is more than any sum of counts
UMAP_NEIGHBORS, UMAP_MIN_DIST = 15, 0.3


def looks_logged(matrix: csr_matrix) -> bool:
    """Return whether values look log-transformed rather than counted: fractions, none above 30.

    The published check asks for a value below 1 instead of a fraction, and so misses shallow
    data: one count of 5,000 becomes log(1 + 2) = 1.1 after scaling to 10,000.
    """
    _, n_negative, n_fractional, largest = _scan(_csr(matrix).data)
    return bool(n_fractional and not n_negative and largest <= LARGEST_LOGGED)


def check_counts(
    matrix: csr_matrix,
    *,
    cell_names: Sequence[str] | None = None,
    gene_names: Sequence[str] | None = None,
) -> None:
    """Refuse a matrix that does not hold raw counts, saying what it holds instead.

    Parameters
    ----------
    matrix
        Shape (n_cells, n_genes), CSR.
    cell_names, gene_names
        Used to name empty cells and to find duplicates.

    Raises
    ------
    DataError
        For no cells or genes, duplicate gene names, NaN or infinity, negative, log-transformed or
        fractional values, and cells without any count.
    """
    n_bad, _, n_fractional, _ = _scan(_csr(matrix).data)
    if not n_bad and looks_logged(matrix):
        msg = (
            "the values look log-normalised (fractions, none above "
            f"{LARGEST_LOGGED}), but counts were declared; give raw counts, or declare "
            "value_kind lognorm"
        )
        raise DataError(msg)
    _check_values(matrix, cell_names, gene_names)
    if n_fractional:
        msg = (
            f"{n_fractional} values are not whole numbers; counts are needed (estimated counts "
            "must be rounded first)"
        )
        raise DataError(msg)


def check_lognorm(
    matrix: csr_matrix,
    *,
    cell_names: Sequence[str] | None = None,
    gene_names: Sequence[str] | None = None,
) -> None:
    """Refuse a matrix that does not hold log-normalised values; see `check_counts`."""
    _check_values(matrix, cell_names, gene_names)
    if matrix.nnz and not looks_logged(matrix):
        msg = (
            f"the values are whole numbers or reach above {LARGEST_LOGGED} (largest "
            f"{matrix.data.max():g}): they look like counts or were not log-transformed, but "
            "log-normalised values were declared"
        )
        raise DataError(msg)


def _check_values(
    matrix: csr_matrix, cell_names: Sequence[str] | None, gene_names: Sequence[str] | None
) -> None:
    n_cells, n_genes = matrix.shape
    if not n_cells or not n_genes:
        msg = f"the matrix has {n_cells} cells and {n_genes} genes; both are needed"
        raise DataError(msg)
    if gene_names is not None:
        names = pd.Index(gene_names)
        twice = names[names.duplicated()].unique()
        if len(twice):
            msg = (
                f"{len(twice)} gene names occur more than once ({_some(twice)}); sum or rename "
                "those columns"
            )
            raise DataError(msg)
    n_bad, n_negative, _, _ = _scan(_csr(matrix).data)
    if n_bad:
        msg = f"{n_bad} values are NaN or infinite; remove or correct those cells"
        raise DataError(msg)
    if n_negative:
        msg = f"{n_negative} values are negative (scaled data?); give counts or log-normalised data"
        raise DataError(msg)
    empty = np.flatnonzero(np.asarray(matrix.sum(axis=1)).ravel() == 0)
    if empty.size:
        names = empty if cell_names is None else np.asarray(cell_names)[empty]
        msg = f"{empty.size} cells have no counts at all ({_some(names)}); remove them"
        raise DataError(msg)


@njit(nogil=True, cache=True)
def _scan(values):
    """Return how many values are not finite, negative, fractional, and the largest."""
    n_bad, n_negative, n_fractional, largest = 0, 0, 0, -np.inf
    for value in values:
        if not np.isfinite(value):
            n_bad += 1
            continue
        n_negative += value < 0
        n_fractional += value != np.floor(value)
        largest = max(largest, value)
    return n_bad, n_negative, n_fractional, largest


def _csr(matrix: csr_matrix) -> csr_matrix:
    if not issparse(matrix) or matrix.format != "csr":
        msg = f"a CSR matrix is needed, found {type(matrix).__name__}; convert it first"
        raise DataError(msg)
    return matrix


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:SHOWN]))
    return f"{shown}, ..." if len(names) > SHOWN else shown


def lognormalise(counts: csr_matrix, *, target_sum: float = 1e4) -> csr_matrix:
    """Scale every cell to the same total and take log(1 + x), without leaving sparse storage.

    Equal to scanpy's ``normalize_total`` and ``log1p``; a cell without counts stays empty.

    Parameters
    ----------
    counts
        Shape (n_cells, n_genes), CSR.
    target_sum
        Total of every cell before the logarithm.

    Returns
    -------
    New CSR matrix of float32.
    """
    totals = np.asarray(_csr(counts).sum(axis=1, dtype=np.float64)).ravel()
    scale = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals != 0)
    values = counts.data * np.repeat(scale.astype(np.float32), np.diff(counts.indptr))
    return csr_matrix(
        (np.log1p(values, dtype=np.float32), counts.indices.copy(), counts.indptr.copy()),
        shape=counts.shape,
    )


def genes_with_counts(counts: csr_matrix, min_counts: float) -> np.ndarray:
    """Return which genes have at least `min_counts` counts over all cells, shape (n_genes,)."""
    return np.asarray(counts.sum(axis=0)).ravel() >= min_counts


def highly_variable_genes(
    data: AnnData, *, n_top: int, flavor: Flavor = "seurat_v3", batch_key: str | None = None
) -> np.ndarray:
    """Choose the genes that vary most over the cells given (scanpy's methods).

    Parameters
    ----------
    data
        Cells to choose on; `X` holds counts for ``"seurat_v3"``, log-normalised values for the
        other flavours.
    n_top
        How many genes; with as many as there are, all are chosen.
    flavor
        Which of scanpy's methods.
    batch_key
        Column of `obs`: choose within each batch, prefer genes chosen in many.

    Returns
    -------
    Array of bool, shape (n_genes,).

    Raises
    ------
    DataError
        If the values are of the wrong kind, or too few to fit the method's trend.

    References
    ----------
    Stuart et al., Cell 2019, doi:10.1016/j.cell.2019.05.031 (seurat_v3); Zheng et al., Nat Commun
    2017, doi:10.1038/ncomms14049 (cell_ranger); Satija et al., Nat Biotechnol 2015,
    doi:10.1038/nbt.3192 (seurat).
    """
    if n_top >= data.n_vars:
        return np.ones(data.n_vars, dtype=bool)
    if flavor == "seurat_v3" and _scan(_csr(data.X).data)[2]:
        msg = "seurat_v3 needs counts, found fractions; use flavor cell_ranger on these values"
        raise DataError(msg)
    import anndata
    import scanpy

    # A bare copy of what is needed: scanpy writes into what it is given.
    obs = None if batch_key is None else data.obs[[batch_key]].copy()
    bare = anndata.AnnData(data.X.copy(), obs=obs, var=pd.DataFrame(index=data.var_names))
    try:
        table = scanpy.pp.highly_variable_genes(
            bare, n_top_genes=n_top, flavor=flavor, batch_key=batch_key, inplace=False
        )
    except ValueError as error:
        msg = (
            f"{flavor} could not be fitted on {data.n_obs} cells x {data.n_vars} genes ({error}); "
            "filter rare genes, merge small batches, or use another flavor"
        )
        raise DataError(msg) from error
    return table["highly_variable"].to_numpy(dtype=bool)


def pca(
    values: csr_matrix,
    *,
    n_components: int = 50,
    fit_rows: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Fit principal components on some cells and project all cells on them.

    The sign of a component is fixed: its largest loading is positive.

    Parameters
    ----------
    values
        Log-normalised values of the genes to use, shape (n_cells, n_genes), CSR.
    n_components
        How many; fewer than cells to fit on and than genes.
    fit_rows
        Boolean mask or positions of the cells to fit on; all cells unless given.
    seed
        Start vector of the iteration.

    Returns
    -------
    Array of float32, shape (n_cells, n_components).

    Raises
    ------
    DataError
        If there are too few cells or genes for so many components.
    """
    from sklearn.decomposition import PCA

    values = _csr(values).astype(np.float64)
    fitted = values if fit_rows is None else values[np.asarray(fit_rows)]
    if n_components >= min(fitted.shape):
        msg = (
            f"{n_components} components need more than that many cells and genes, found "
            f"{fitted.shape[0]} cells to fit on and {fitted.shape[1]} genes; lower n_components"
        )
        raise DataError(msg)
    model = PCA(n_components=n_components, svd_solver="arpack", random_state=seed).fit(fitted)
    largest = np.abs(model.components_).argmax(axis=1)
    signs = np.sign(model.components_[np.arange(n_components), largest])
    return (model.transform(values) * signs).astype(np.float32)


def umap(
    coordinates: np.ndarray, *, seed: int = 0, n_neighbors: int = UMAP_NEIGHBORS
) -> np.ndarray:
    """Lay cells out in two dimensions with UMAP on their exact nearest neighbours.

    Parameters
    ----------
    coordinates
        Cells in the space to lay out (principal components, an embedding), shape (n_cells, k).
    seed
        Of the layout.
    n_neighbors
        Neighbours per cell; at most all other cells.

    Returns
    -------
    Array of float32, shape (n_cells, 2).

    References
    ----------
    McInnes et al., arXiv:1802.03426.
    """
    if coordinates.shape[0] <= UMAP_NEIGHBORS // 3:
        msg = f"{coordinates.shape[0]} cells are too few for a UMAP"
        raise DataError(msg)
    import anndata
    import scanpy

    cells = anndata.AnnData(np.asarray(coordinates, dtype=np.float32))
    scanpy.pp.neighbors(
        cells,
        n_neighbors=min(n_neighbors, cells.n_obs - 1),
        use_rep="X",
        transformer="sklearn",
        random_state=seed,
    )
    scanpy.tl.umap(cells, min_dist=UMAP_MIN_DIST, random_state=seed)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)
