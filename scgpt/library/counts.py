"""The expression values of a user: where they are, whether they are fit for a model, cell by cell.

Everything is read in blocks of rows, so that memory does not depend on the number of cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from scipy import sparse

from scgpt.errors import DataError
from scgpt.library.matching import NOTICEABLE, SHOWN, mixed_identifiers
from scgpt.tokens.keys import content_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from anndata import AnnData

    from scgpt.library.matching import GeneMatch

Values = Literal["counts", "lognorm"]
RAW = "raw"
SCAN_ROWS = 1024
LARGEST_LOGGED = 30  # exp(30) is more than any sum of counts


class CellMatrix(Protocol):
    """Cells x genes, wherever they are stored.

    Attributes
    ----------
    n_cells, n_genes
        Its shape.
    where
        What to call it in messages.
    others
        Other matrices of the same data set, for messages.
    """

    n_cells: int
    n_genes: int
    where: str
    others: Sequence[str]

    def block(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells from `start` to `stop` as CSR of float32."""

    def cell_names(self, rows: Sequence[int]) -> list[str]:
        """Return the names of some cells."""


class MemoryMatrix:
    """A matrix of an AnnData in memory (a `CellMatrix`)."""

    def __init__(self, adata: AnnData, layer: str | None) -> None:
        values, self.where = _stored(adata, layer)
        # Rows are taken out one batch after the other, which only row-wise storage does fast.
        other_format = sparse.issparse(values) and values.format != "csr"
        self.values = sparse.csr_matrix(values) if other_format else values
        self.n_cells, self.n_genes = values.shape
        self.others = [name for name in other_matrices(adata.layers, adata.raw) if name != layer]
        self._names = adata.obs_names

    def block(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells from `start` to `stop` as CSR of float32."""
        return as_float(self.values[start:stop])

    def take(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Return some cells, in the order given."""
        return as_float(self.values[rows])

    def cell_names(self, rows: Sequence[int]) -> list[str]:
        """Return the names of some cells."""
        return self._names[list(rows)].astype(str).tolist()


def genes_of(adata: AnnData, layer: str | None) -> pd.DataFrame:
    """Return the table of the genes of a layer; `raw` has its own."""
    is_raw = layer == RAW and RAW not in adata.layers
    return adata.raw.var if is_raw and adata.raw is not None else adata.var


def other_matrices(layers: Sequence[str], raw: object) -> list[str]:
    """Return the names by which the matrices besides X can be asked for."""
    return [*map(str, layers), *([RAW] if raw is not None and RAW not in layers else [])]


def no_such_layer(layer: str, others: Sequence[str]) -> DataError:
    """Return the error for a layer that is not there."""
    known = ", ".join(others) or "none"
    return DataError(f"there is no layer {layer!r}; there are: {known}, and X without a layer")


def as_float(values: object) -> sparse.csr_matrix:
    """Return a block of values as CSR of float32 in which no gene is stored twice in a cell."""
    if sparse.issparse(values):
        block = sparse.csr_matrix(values).astype(np.float32)
    else:
        block = sparse.csr_matrix(np.asarray(values, dtype=np.float32))
    if not block.has_canonical_format:
        block.sum_duplicates()
    return block


def _stored(adata: AnnData, layer: str | None) -> tuple[object, str]:
    if adata.isbacked:
        msg = (
            "the AnnData is backed by a file; read it into memory with adata.to_memory(), or embed "
            "the file itself with scgpt.library.streaming.embed_file"
        )
        raise DataError(msg)
    if layer is None:
        if adata.X is None:
            msg = "adata.X is empty; name the layer that holds the values"
            raise DataError(msg)
        return _readable(adata.X, "X"), "X"
    if layer in adata.layers:
        return _readable(adata.layers[layer], f"layers[{layer!r}]"), f"layers[{layer!r}]"
    if layer == RAW and adata.raw is not None:
        return _readable(adata.raw.X, "raw.X"), "raw.X"
    raise no_such_layer(layer, other_matrices(adata.layers, adata.raw))


def _readable(values: object, where: str) -> object:
    if sparse.issparse(values) or isinstance(values, np.ndarray):
        if values.dtype.kind in "biuf":
            return values
        what = f"values of type {values.dtype}"
    else:
        what = f"a {type(values).__module__.split('.')[0]} {type(values).__name__}"
    msg = f"{where} holds {what}; expected numbers in a NumPy array or a SciPy sparse matrix"
    raise DataError(msg)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one pass over all cells found.

    Attributes
    ----------
    n_expressed
        Genes of the model with a value other than zero, per cell, shape (n_cells,), int32.
    keys
        Hash of the content of each cell, shape (n_cells,), uint64.
    """

    n_expressed: np.ndarray
    keys: np.ndarray


def scan(matrix: CellMatrix, match: GeneMatch, *, values: Values = "counts") -> Scan:
    """Look at every value once and refuse what a model cannot use.

    Parameters
    ----------
    matrix
        The cells.
    match
        Their genes.
    values
        What the matrix is said to hold: raw counts, or normalised values (logged or not), of which
        only the ranks within a cell reach the model.

    Raises
    ------
    DataError
        For no cells, values that are not finite, negative, or not of the kind said, mixed
        identifiers, and cells that express none of the genes.
    """
    if values not in ("counts", "lognorm"):
        msg = f"values is {values!r}, expected 'counts' or 'lognorm'"
        raise DataError(msg)
    if not matrix.n_cells:
        msg = f"{matrix.where} has no cells"
        raise DataError(msg)
    if match.sums and values == "lognorm":
        msg = (
            "duplicates='sum' adds up counts, but values='lognorm' was said: sums of logarithms "
            "mean nothing; give counts, or keep one gene of each symbol"
        )
        raise DataError(msg)
    n_expressed = np.empty(matrix.n_cells, dtype=np.int32)
    keys = np.empty(matrix.n_cells, dtype=np.uint64)
    n_fractional, largest, total, lost = 0, 0.0, 0.0, 0.0
    for start, stop in blocks(matrix.n_cells, SCAN_ROWS):
        block = matrix.block(start, stop)
        _refuse_unusable(block, matrix, start)
        n_fractional += int((block.data != np.floor(block.data)).sum())
        largest = max(largest, float(block.data.max(initial=0.0)))
        total += float(block.data.sum(dtype=np.float64))
        unresolved = match.unresolved_ensembl[block.indices]
        lost += float(block.data[unresolved].sum(dtype=np.float64))
        chosen = match.select(block)
        n_expressed[start:stop] = np.diff(chosen.indptr)
        keys[start:stop] = content_keys(chosen, match.gene_ids)
    _check_kind(matrix, values, n_fractional, largest)
    if match.n_symbols and lost > NOTICEABLE * total:
        share = f", which hold {lost / total:.0%} of all values"
        raise mixed_identifiers(int(match.unresolved_ensembl.sum()), match.n_symbols, share)
    _check_expressed(matrix, n_expressed, match)
    return Scan(n_expressed=n_expressed, keys=keys)


def blocks(n_rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield first and last row (exclusive) of consecutive blocks."""
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)


def _refuse_unusable(block: sparse.csr_matrix, matrix: CellMatrix, start: int) -> None:
    for wrong, what, remedy in (
        (~np.isfinite(block.data), "NaN or infinite", "remove or correct those cells"),
        (
            block.data < 0,
            "negative",
            "scaled or corrected data cannot be used; give raw counts" + _elsewhere(matrix),
        ),
    ):
        if wrong.any():
            first = np.searchsorted(block.indptr, np.flatnonzero(wrong)[0], side="right") - 1
            name = matrix.cell_names([start + int(first)])[0]
            msg = f"{matrix.where} has {what} values, first in cell {name!r}; {remedy}"
            raise DataError(msg)


def _check_kind(matrix: CellMatrix, values: Values, n_fractional: int, largest: float) -> None:
    if values == "counts" and n_fractional:
        kind = "log-normalised" if largest <= LARGEST_LOGGED else "normalised or estimated"
        msg = (
            f"{matrix.where} has {n_fractional} values that are not whole numbers (largest "
            f"{largest:g}), so they look {kind}, but raw counts are expected; give raw counts"
            f"{_elsewhere(matrix)}, round estimated counts, or pass values='lognorm' if normalised "
            "values are meant (only their ranks within a cell reach the model)"
        )
        raise DataError(msg)
    if values == "lognorm" and not n_fractional:
        msg = (
            f"{matrix.where} holds whole numbers (largest {largest:g}), which look like counts, "
            "but values='lognorm' was said; pass values='counts'"
        )
        raise DataError(msg)


def _elsewhere(matrix: CellMatrix) -> str:
    return f" (other matrices here: layer={', '.join(matrix.others)})" if matrix.others else ""


def _check_expressed(matrix: CellMatrix, n_expressed: np.ndarray, match: GeneMatch) -> None:
    empty = np.flatnonzero(n_expressed == 0)
    if empty.size:
        names = ", ".join(matrix.cell_names(empty[:SHOWN].tolist()))
        more = ", ..." if empty.size > SHOWN else ""
        msg = (
            f"{empty.size} of {matrix.n_cells} cells express none of the {match.n_matched} genes "
            f"that the model knows: {names}{more}; leave these cells out first"
        )
        raise DataError(msg)
