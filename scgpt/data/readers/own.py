"""A user's own h5ad file as a data set: name its columns in the configuration, write no code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from scgpt.data.io import open_h5ad
from scgpt.data.preprocess import check_counts, check_lognorm
from scgpt.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

KEPT = ("batch", "cell_type", "condition", "donor")


def read_h5ad(
    *,
    path: str,
    columns: dict[str, str],
    value_kind: Literal["counts", "lognorm"] = "counts",
    layer: str | None = None,
    gene_symbol: str | None = None,
    gene_id: str | None = None,
    subset_column: str | None = None,
    reference: list[str] | None = None,
) -> AnnData:
    """Read an h5ad file with columns of any name.

    Parameters
    ----------
    path
        The file; relative to the folder that the workflow runs in.
    columns
        Our name (batch, cell_type, condition, donor) to the name of the column in `obs`.
    value_kind
        What the matrix holds: raw counts, or log-normalised values.
    layer
        Layer to use instead of `X`.
    gene_symbol, gene_id
        Columns of `var` with symbols and identifiers; the index where not given.
    subset_column, reference
        Column of `obs` that tells reference from query, and its values that mean reference; cells
        with any other value are the query.

    Returns
    -------
    Data set by contract C1.

    Raises
    ------
    DataError
        If a column or layer is absent, a gene name occurs twice, or the values are not of the
        declared kind.
    """
    source = open_h5ad(path)
    if source.n_obs == 0:
        msg = f"{path}: there are no cells in the file; give one with cells"
        raise DataError(msg)
    obs = _obs(source, columns, path)
    if subset_column is not None:
        obs["subset"] = _subset(source, subset_column, reference or [], path)
    values = _matrix(source, layer, path)
    symbols = _var(source, gene_symbol, path)
    check = check_counts if value_kind == "counts" else check_lognorm
    check(values, cell_names=source.obs_names, gene_names=symbols)
    return _assemble(values, obs, symbols, _var(source, gene_id, path), value_kind)


def _assemble(
    values: sparse.csr_matrix,
    obs: pd.DataFrame,
    symbols: np.ndarray,
    identifiers: np.ndarray,
    value_kind: str,
) -> AnnData:
    import anndata

    var = pd.DataFrame({"gene_id": identifiers, "feature_type": "gene"}, index=pd.Index(symbols))
    var["feature_type"] = var["feature_type"].astype("category")
    adata = anndata.AnnData(values, obs=obs, var=var)
    adata.uns["value_kind"] = value_kind
    return adata


def _obs(source: AnnData, columns: dict[str, str], path: str) -> pd.DataFrame:
    wrong = sorted(set(columns) - set(KEPT))
    if wrong:
        msg = f"columns: {wrong} are not names of ours; known: {', '.join(KEPT)}"
        raise DataError(msg)
    obs = pd.DataFrame(index=source.obs_names)
    for ours, theirs in columns.items():
        values = _column(source.obs, theirs, "obs", path)
        if values.isna().any():
            msg = (
                f"{path}: obs['{theirs}'] has {int(values.isna().sum())} missing values; remove "
                "those cells or name them"
            )
            raise DataError(msg)
        obs[ours] = values.astype(str).astype("category")
    return obs


def _subset(source: AnnData, column: str, reference: list[str], path: str) -> pd.Series:
    values = _column(source.obs, column, "obs", path).astype(str)
    absent = sorted(set(reference) - set(values))
    if absent or not reference:
        msg = (
            f"{path}: reference values {absent or reference} are not in obs['{column}'], which "
            f"has {sorted(values.unique())[:10]}"
        )
        raise DataError(msg)
    return values.isin(reference).map({True: "reference", False: "query"}).astype("category")


def _matrix(source: AnnData, layer: str | None, path: str) -> sparse.csr_matrix:
    if layer is not None and layer not in source.layers:
        msg = f"{path}: there is no layer '{layer}'; it has {sorted(source.layers) or 'none'}"
        raise DataError(msg)
    values = source.X if layer is None else source.layers[layer]
    if values is None:
        msg = f"{path}: X is empty; name the layer that holds the values"
        raise DataError(msg)
    matrix = sparse.csr_matrix(values, dtype=np.float32)
    matrix.eliminate_zeros()
    return matrix


def _var(source: AnnData, column: str | None, path: str) -> np.ndarray:
    if column is None:
        return source.var_names.to_numpy().astype(str)
    return _column(source.var, column, "var", path).to_numpy().astype(str)


def _column(table: pd.DataFrame, name: str, where: str, path: str) -> pd.Series:
    if name not in table:
        msg = f"{path}: {where}['{name}'] does not exist; the file has {list(table.columns)}"
        raise DataError(msg)
    return table[name]
