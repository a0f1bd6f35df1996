"""A user's own h5ad file as a data set: name its columns in the configuration, write no code.

Where the readers of public files mend and say so, this one refuses: the user can mend the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from scgpt.data.io import open_h5ad
from scgpt.data.preprocess import check_counts, check_lognorm
from scgpt.errors import DataError
from scgpt.readers.c1 import as_csr, condition_name, data_set, spellings

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from scgpt.readers.c1 import ValueKind

KEPT = ("batch", "cell_type", "condition", "donor")


def read_h5ad(
    *,
    path: str,
    columns: dict[str, str],
    value_kind: ValueKind = "counts",
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
        The file; relative to the folder that the workflow runs in, or to `SCGPT_LOCAL_DATA`.
    columns
        Our name (batch, cell_type, condition, donor) to the name of the column in `obs`. Conditions
        may be written as `A+ctrl`, `ctrl` and the like.
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
    path = _found(path)
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
    spelled = spellings(obs["condition"]) if "condition" in obs else None
    if spelled is not None:
        obs["condition"] = [condition_name(name) for name in obs["condition"].astype(str)]
    identifiers = _var(source, gene_id, path)
    adata = data_set(values, obs, symbols, gene_ids=identifiers, value_kind=value_kind)
    if spelled is not None:
        adata.uns["written_conditions"] = spelled
    return adata


def _found(path: str) -> str:
    """Return the path of the file: as given, or in the folder of local copies."""
    folder = os.environ.get("SCGPT_LOCAL_DATA")
    places = [Path(path), *([Path(folder) / path] if folder else [])]
    for place in places:
        if place.is_file():
            return str(place)
    looked = " or ".join(str(place) for place in places)
    hint = "" if folder else "; or set SCGPT_LOCAL_DATA to the folder it is in"
    msg = f"{looked}: no such file; put it there{hint}"
    raise DataError(msg)


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
        obs[ours] = values
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
    return values.isin(reference).map({True: "reference", False: "query"})


def _matrix(source: AnnData, layer: str | None, path: str) -> csr_matrix:
    if layer is not None and layer not in source.layers:
        msg = f"{path}: there is no layer '{layer}'; it has {sorted(source.layers) or 'none'}"
        raise DataError(msg)
    values = source.X if layer is None else source.layers[layer]
    if values is None:
        msg = f"{path}: X is empty; name the layer that holds the values"
        raise DataError(msg)
    return as_csr(values)


def _var(source: AnnData, column: str | None, path: str) -> list[str]:
    if column is None:
        return source.var_names.astype(str).tolist()
    return _column(source.var, column, "var", path).astype(str).tolist()


def _column(table: pd.DataFrame, name: str, where: str, path: str) -> pd.Series:
    if name not in table:
        msg = f"{path}: {where}['{name}'] does not exist; the file has {list(table.columns)}"
        raise DataError(msg)
    return table[name]
