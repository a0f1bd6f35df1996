"""Sparse rows into rows of tokens: copied where nothing has to be done to them, else one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scgpt.errors import DataError
from scgpt.tokens import token_kernels as kernels

Ragged = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Sparse rows, the token of each column, and the order of tokens wanted.

    Parameters
    ----------
    indptr, indices, values
        The rows in CSR form; int64, int32 and any number.
    gene_ids
        Token of each column, -1 for columns to leave out, int32.
    by_token
        Sort the tokens of a row by id rather than by column.
    head
        Free places before each row: 0, or 1 for `<cls>`.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    gene_ids: np.ndarray
    by_token: bool
    head: int

    def copied(self, n_places: int) -> Ragged | None:
        """Return row starts, ids and values if every stored value is a token, in order and place.

        None if anything has to be left out, sorted or sampled. Most data are as simple as that,
        and then the work is done at the speed of copying.
        """
        in_order = not self.by_token or (np.diff(self.gene_ids) > 0).all()
        if (
            not in_order
            or self.gene_ids.min() < 0
            or np.diff(self.indptr).max(initial=0) > n_places
            or not kernels.no_zeros(self.values)
        ):
            return None
        indptr = self.indptr + self.head * np.arange(self.indptr.size)
        ids, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        if not kernels.copy_tokens(self.indptr, self.indices, self.gene_ids, self.head, ids):
            return None
        kernels.copy_values(self.indptr, self.values, self.head, values)
        return indptr, ids, values

    def filled(
        self, n_places: int, keys: np.ndarray, seed_key: np.uint64, *, include_zero: bool
    ) -> Ragged:
        """Return row starts, ids and values of any matrix."""
        column_rank, rank_token = _ranks(self.gene_ids, by_token=self.by_token)
        # The length of a cell is known only once it is filled: reserve the most it can take.
        most = np.diff(self.indptr)
        most = np.minimum(np.full_like(most, rank_token.size) if include_zero else most, n_places)
        reserved = int(most.sum()) + self.head * most.size
        indptr = np.zeros(most.size + 1, dtype=np.int64)
        ids, values = np.empty(reserved, dtype=np.int32), np.empty(reserved, dtype=np.float32)
        twice = kernels.fill_tokens(
            self.indptr, self.indices, self.values, self.gene_ids, self.by_token, column_rank,
            rank_token, include_zero, n_places, keys, seed_key, self.head, indptr, ids, values,
        )  # fmt: skip
        if twice >= 0:
            msg = f"cell {twice} stores a gene twice; call sum_duplicates() on the matrix first"
            raise DataError(msg)
        return indptr, ids[: indptr[-1]], values[: indptr[-1]]


def _ranks(gene_ids: np.ndarray, *, by_token: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's place in the order of genes (-1: left out), and the tokens by place."""
    columns = np.flatnonzero(gene_ids >= 0)
    if by_token:
        columns = columns[np.argsort(gene_ids[columns])]
    column_rank = np.full(gene_ids.size, -1, dtype=np.int32)
    column_rank[columns] = np.arange(columns.size)
    return column_rank, gene_ids[columns]
