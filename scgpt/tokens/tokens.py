"""Cells as sequences of (gene token, value): ragged storage, padded batches, masking.

Nothing here depends on where a cell stands. Which genes of a long cell are kept, and which are
masked, follows from a seed and from the cell itself (its content, or a key the caller gives), so
the order of cells and genes, the batch size and the chunking cannot change a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.sparse import csr_matrix, issparse

from scgpt.errors import DataError
from scgpt.tokens import token_kernels as kernels
from scgpt.tokens.keys import MASKING, TRUNCATION, seed_key
from scgpt.tokens.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

PAD_VALUE = -2.0
MASK_VALUE = -1.0
CLS_VALUE_FINETUNING = 0.0
CLS_VALUE_PRETRAINING = -2.0
NO_KEYS = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True)
class TokenizedCells:
    """Cells of different lengths, one after the other.

    Attributes
    ----------
    indptr
        Cell `i` holds the tokens ``indptr[i]`` to ``indptr[i + 1]``, shape (n_cells + 1,), int64.
    gene_ids
        Token ids, int32.
    values
        Values, float32.
    cell_keys
        The keys the caller gave, shape (n_cells,), uint64, or None.
    """

    indptr: np.ndarray
    gene_ids: np.ndarray
    values: np.ndarray
    cell_keys: np.ndarray | None = None

    def __len__(self) -> int:
        return self.indptr.size - 1

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per cell including `<cls>`, shape (n_cells,)."""
        return np.diff(self.indptr)

    @cached_property
    def keys(self) -> np.ndarray:
        """What random choices are keyed by: the given keys, or hashes of the cells' tokens."""
        if self.cell_keys is not None:
            return self.cell_keys
        keys = np.empty(len(self), dtype=np.uint64)
        bits = self.values.view(np.uint32)
        kernels.content_keys(self.indptr, self.gene_ids, bits, keys)
        return keys

    def collate(
        self,
        rows: Sequence[int] | np.ndarray,
        *,
        pad_id: int,
        pad_value: float = PAD_VALUE,
        length: int | None = None,
    ) -> Batch:
        """Put some cells into one padded batch.

        Parameters
        ----------
        rows
            Which cells, in the order wanted.
        pad_id, pad_value
            What fills the places without a token.
        length
            Width of the batch; the longest of the cells unless given.
        """
        rows = np.asarray(rows, dtype=np.int64)
        longest = kernels.longest_row(rows, self.indptr)
        if longest < 0:
            msg = f"rows reach from {rows.min()} to {rows.max()}, there are {len(self)} cells"
            raise DataError(msg)
        length = longest if length is None else length
        if length < longest:
            msg = f"the batch is {length} wide, one of its cells has {longest} tokens"
            raise DataError(msg)
        shape = (rows.size, length)
        gene_ids, values = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
        padding = np.empty(shape, dtype=bool)
        kernels.collate_rows(
            rows, self.indptr, self.gene_ids, self.values, pad_id, pad_value,
            gene_ids, values, padding,
        )  # fmt: skip
        return Batch(gene_ids=gene_ids, values=values, padding=padding, cells=self, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded cells.

    Attributes
    ----------
    gene_ids
        Token ids, shape (n_cells, length), int64.
    values
        Values, shape (n_cells, length), float32.
    padding
        True where there is no token, shape (n_cells, length).
    cells, rows
        Where the batch comes from.
    """

    gene_ids: np.ndarray
    values: np.ndarray
    padding: np.ndarray
    cells: TokenizedCells
    rows: np.ndarray

    @property
    def keys(self) -> np.ndarray:
        """What random choices about each cell are keyed by, shape (n_cells,), uint64."""
        return self.cells.keys[self.rows]


def tokenize(
    values: csr_matrix,
    gene_ids: np.ndarray,
    *,
    cls_id: int | None,
    cls_value: float = CLS_VALUE_FINETUNING,
    include_zero: bool = False,
    max_length: int | None = None,
    seed: int = 0,
    cell_keys: np.ndarray | None = None,
    gene_order: Literal["token", "input"] = "token",
) -> TokenizedCells:
    """Turn sparse rows into token sequences.

    Parameters
    ----------
    values
        Values the model will see (usually bins), shape (n_cells, n_genes), CSR.
    gene_ids
        Token id of every column, -1 where the vocabulary lacks the gene: such columns are left
        out. Shape (n_genes,).
    cls_id
        Token put first in every cell; None for no such token.
    cls_value
        Its value: 0 in fine-tuning, -2 in pretraining and embedding (the published models
        differ in this).
    include_zero
        Take all genes of the vocabulary instead of those with a non-zero value.
    max_length
        Longer cells keep `<cls>` and a sample of the rest without replacement.
    seed
        Of that sample, together with the cell's key.
    cell_keys
        One uint64 per cell; without it the key is a hash of the cell's genes and values.
    gene_order
        ``"token"`` sorts the genes of a cell by token id, so that the order of the columns does
        not matter; ``"input"`` keeps the order of the columns.

    Raises
    ------
    DataError
        If shapes do not fit, columns share a token, a value is not finite or a row repeats a gene.
    """
    gene_ids = _checked_gene_ids(values, gene_ids)
    keys = _checked_keys(cell_keys, values.shape[0])
    matrix = Rows(
        indptr=values.indptr.astype(np.int64),
        indices=values.indices.astype(np.int32, copy=False),
        values=_finite_values(values),
        gene_ids=gene_ids,
        by_token=_sorts_by_token(gene_order),
        head=int(cls_id is not None),
    )
    n_places, key = _places(max_length, cls_id), seed_key(seed, TRUNCATION)[()]
    copied = None if include_zero else matrix.copied(n_places)
    filled = copied or matrix.filled(n_places, keys, key, include_zero=include_zero)
    indptr, out_ids, out_values = filled
    if cls_id is not None:
        out_ids[indptr[:-1]], out_values[indptr[:-1]] = cls_id, cls_value
    return TokenizedCells(indptr=indptr, gene_ids=out_ids, values=out_values, cell_keys=cell_keys)


@dataclass(frozen=True, kw_only=True)
class CellRng:
    """Randomness keyed by the cell: the same in whatever batch the cell comes."""

    seed: int
    epoch: int = 0

    def keys(self, batch: Batch) -> np.ndarray:
        """Return one fresh key per cell of the batch."""
        return seed_key(self.seed, MASKING, batch.keys, epoch=self.epoch)


def mask_values(
    batch: Batch,
    ratio: float,
    *,
    rng: CellRng | np.random.Generator,
    mask_value: float = MASK_VALUE,
) -> np.ndarray:
    """Return the values of a batch with ``int(ratio * n)`` of the `n` tokens of each cell masked.

    Every token that is not padding can be chosen, zeros and `<cls>` included, as in the published
    recipe. With a `CellRng` the choice depends on seed, epoch and cell; with a NumPy generator
    on the order of calls.

    Returns
    -------
    Array of shape (n_cells, length), float32.
    """
    if not 0 <= ratio <= 1:
        msg = f"the mask ratio is {ratio}, expected a number from 0 to 1"
        raise DataError(msg)
    if isinstance(rng, CellRng):
        keys = rng.keys(batch)
    else:
        keys = rng.integers(0, 1 << 64, size=batch.rows.size, dtype=np.uint64)
    masked = np.empty_like(batch.values)
    kernels.mask_rows(
        batch.gene_ids, batch.values, batch.padding, keys, float(ratio), mask_value, masked
    )
    return masked


def length_buckets(
    lengths: np.ndarray,
    batch_size: int,
    *,
    rng: np.random.Generator | None = None,
    pool_batches: int = 32,
) -> list[np.ndarray]:
    """Group cells of similar length into batches, so that little padding is needed.

    Parameters
    ----------
    lengths
        Tokens per cell, shape (n_cells,).
    batch_size
        Cells per batch; one batch may be smaller.
    rng
        Without it, longest cells first (a lack of memory shows at once). With it, cells are
        shuffled, sorted by length only within pools of `pool_batches` batches, and the batches
        are shuffled, as training needs.

    Returns
    -------
    List of arrays of row numbers; every row occurs once.
    """
    if batch_size < 1:
        msg = f"batch_size is {batch_size}, expected at least 1"
        raise DataError(msg)
    lengths = np.asarray(lengths)
    if rng is None:
        return _chunks(np.argsort(-lengths, kind="stable"), batch_size)
    batches = []
    for pool in _chunks(rng.permutation(lengths.size), batch_size * pool_batches):
        batches += _chunks(pool[np.argsort(-lengths[pool], kind="stable")], batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, rows.size, size)]


def _checked_gene_ids(values: csr_matrix, gene_ids: np.ndarray) -> np.ndarray:
    if not issparse(values) or values.format != "csr":
        msg = f"tokenize needs a CSR matrix, found {type(values).__name__}; convert it first"
        raise DataError(msg)
    gene_ids = np.asarray(gene_ids, dtype=np.int32)
    if gene_ids.shape != (values.shape[1],):
        msg = f"{gene_ids.shape} gene ids for {values.shape[1]} columns; give one id per column"
        raise DataError(msg)
    known, times = np.unique(gene_ids[gene_ids >= 0], return_counts=True)
    if known.size == 0:
        msg = (
            f"none of the {gene_ids.size} genes is in the vocabulary; check the kind of gene names"
        )
        raise DataError(msg)
    if times.max() > 1:
        msg = f"{(times > 1).sum()} tokens belong to several columns, first {known[times > 1][0]}"
        raise DataError(msg)
    return gene_ids


def _places(max_length: int | None, cls_id: int | None) -> int:
    if max_length is None:
        return np.iinfo(np.int64).max
    places = max_length - (cls_id is not None)
    if places < 1:
        msg = f"max_length is {max_length}, there is no place for a gene"
        raise DataError(msg)
    return places


def _sorts_by_token(gene_order: str) -> bool:
    if gene_order not in ("token", "input"):
        msg = f"gene_order is {gene_order!r}, expected 'token' or 'input'"
        raise DataError(msg)
    return gene_order == "token"


def _checked_keys(cell_keys: np.ndarray | None, n_cells: int) -> np.ndarray:
    if cell_keys is None:
        return NO_KEYS
    cell_keys = np.asarray(cell_keys)
    if cell_keys.shape != (n_cells,) or cell_keys.dtype != np.uint64:
        msg = (
            f"cell keys are {cell_keys.dtype} of shape {cell_keys.shape}, expected {n_cells} uint64"
        )
        raise DataError(msg)
    return cell_keys


def _finite_values(values: csr_matrix) -> np.ndarray:
    if values.dtype == np.uint8:
        return values.data
    data = np.ascontiguousarray(values.data, dtype=np.float32)
    if values.dtype.kind == "f" and not np.isfinite(data).all():
        bad = np.flatnonzero(~np.isfinite(data))[0]
        cell = np.searchsorted(values.indptr, bad, side="right") - 1
        msg = f"cell {cell} has a value that is NaN or infinite; clean the data first"
        raise DataError(msg)
    return data
