"""From what a file holds to a data set by contract C1: names, labels and values put in order.

What had to be put in order is said in `uns["warnings"]`, which the data card shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from scgpt.data.conditions import CONTROL
from scgpt.data.preprocess import looks_logged
from scgpt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData

ValueKind = Literal["counts", "lognorm"]
_CONTROL_WORDS = {"ctrl", "control", "non-targeting", "nt", ""}


def data_set(
    values: object,
    obs: pd.DataFrame,
    symbols: Sequence[str],
    *,
    gene_ids: Sequence[str] | None = None,
    feature_types: str | Sequence[str] = "gene",
    value_kind: ValueKind,
    warnings: Iterable[str] = (),
) -> AnnData:
    """Return a data set by contract C1.

    Parameters
    ----------
    values
        Cells x features, dense or sparse.
    obs
        One row per cell with the columns of C1; the index names the cells.
    symbols
        Name of each feature. One that occurs again gets its identifier or a number appended.
    gene_ids
        Identifiers; the symbols where there are none.
    feature_types
        gene, peak or protein: one word for all, or one per feature.
    value_kind
        What the values are declared to be. Where they are clearly the other kind, that is what is
        returned, with a warning.
    warnings
        What the reader has noticed already.

    Returns
    -------
    `uns` holds `value_kind` and `warnings`. Cells without any value are removed.

    Raises
    ------
    DataError
        If the parts do not fit together.
    """
    import anndata

    notes = list(warnings)
    matrix = as_csr(values)
    if matrix.shape != (len(obs), len(symbols)):
        msg = (
            f"the matrix is {matrix.shape}, but {len(obs)} cells and {len(symbols)} genes are named"
        )
        raise DataError(msg)
    kind = settle_value_kind(matrix, value_kind, notes)
    identifiers = list(symbols) if gene_ids is None else [str(name) for name in gene_ids]
    names = unique_names([str(name) for name in symbols], identifiers, notes)
    obs = obs.copy()
    obs.index = pd.Index(unique_names([str(name) for name in obs.index], None, notes, what="cells"))
    for column in obs:
        obs[column] = as_category(obs[column])
    filled = np.diff(matrix.indptr) > 0
    if not filled.all():
        notes.append(f"{int((~filled).sum())} cells without any value were removed")
        matrix, obs = matrix[filled], obs[filled]
    var = pd.DataFrame({"gene_id": identifiers}, index=pd.Index(names))
    var["feature_type"] = pd.Categorical(
        [feature_types] * len(names) if isinstance(feature_types, str) else feature_types
    )
    adata = anndata.AnnData(matrix, obs=obs, var=var)
    adata.uns = {"value_kind": kind, "warnings": notes}
    return adata


def as_csr(values: object) -> csr_matrix:
    """Return a matrix as CSR of float32 without stored zeros, sorted by gene."""
    matrix = csr_matrix(values) if not issparse(values) else values.tocsr()
    matrix = csr_matrix(
        (matrix.data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def as_category(column: pd.Series) -> pd.Series:
    """Return labels as text in a category without unused values; missing ones stay missing."""
    text = column.astype("object").where(column.notna(), None)
    return text.map(str, na_action="ignore").astype("category")


def settle_value_kind(matrix: csr_matrix, declared: ValueKind, notes: list[str]) -> ValueKind:
    """Return what the values are, and note where that is not what was declared.

    Values that are neither stay what was declared: the contract refuses them then.
    """
    whole = bool((matrix.data == np.floor(matrix.data)).all() and (matrix.data >= 0).all())
    found = "counts" if whole else "lognorm" if looks_logged(matrix) else declared
    if found != declared:
        words = {"counts": "whole numbers", "lognorm": "log-normalised values"}
        notes.append(f"declared {declared}, but the file holds {words[found]}: used as {found}")
    return found


def unique_names(
    names: Sequence[str],
    identifiers: Sequence[str] | None,
    notes: list[str],
    *,
    what: str = "genes",
) -> list[str]:
    """Return names that differ: the first of equal ones keeps its name.

    A later one gets its identifier appended, or a number where that does not help.
    """
    originals, taken = set(names), set()
    result, n_renamed = [], 0
    for i, name in enumerate(names):
        new, number = name, 0
        while new in taken or (number and new in originals):
            number += 1
            tail = identifiers[i] if identifiers is not None and number == 1 else number
            new = f"{name}-{tail}"
        n_renamed += number > 0
        taken.add(new)
        result.append(new)
    if n_renamed:
        notes.append(f"{n_renamed} {what} had a name that occurs before; theirs was extended")
    return result


def condition_name(written: str) -> str:
    """Return a perturbation as C1 has it: `control`, or the sorted genes joined by `+`.

    Examples
    --------
    >>> condition_name("ctrl+KLF1"), condition_name("KLF1+BAK1"), condition_name("ctrl")
    ('KLF1', 'BAK1+KLF1', 'control')
    """
    genes = {part.strip() for part in str(written).split("+")}
    genes = {gene for gene in genes if gene.lower() not in _CONTROL_WORDS}
    return "+".join(sorted(genes)) or CONTROL


def spellings(written: pd.Series) -> pd.DataFrame:
    """Return how a file spells each condition: index as C1 has it, column `written`.

    The spelling of a pair decides how GEARS divides the conditions; of several, the first counts.
    """
    text = written.astype(str)
    table = pd.DataFrame({"written": text.to_numpy()}, index=text.map(condition_name).to_numpy())
    return table[~table.index.duplicated()]


def column_of(
    obs: pd.DataFrame, names: str | Sequence[str], *, where: str, optional: bool = False
) -> pd.Series | None:
    """Return the first column of `obs` that has one of the `names`.

    Raises
    ------
    DataError
        If there is none, with the columns that there are; None is returned if it is optional.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name in obs.columns:
            return obs[name]
    if optional:
        return None
    there = ", ".join(map(str, obs.columns)) or "none"
    msg = f"{where}: no column {' or '.join(map(repr, wanted))}; it has {there}"
    raise DataError(msg)


def names_of(
    var: pd.DataFrame, names: str | Sequence[str] | None, *, where: str = "var"
) -> list[str]:
    """Return a column of `var` as text; `index`, alone or in a list, stands for its index.

    Raises
    ------
    DataError
        As `column_of`.
    """
    wanted = ["index"] if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name in var.columns:
            return var[name].astype(str).tolist()
        if name == "index":
            return var.index.astype(str).tolist()
    return column_of(var, wanted, where=where).astype(str).tolist()
