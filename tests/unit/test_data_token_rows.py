"""Rows that need no work are copied, with the same result as row by row; others are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scgpt.tokens import rows as token_rows
from scgpt.tokens.rows import Rows
from scgpt.tokens.tokens import tokenize

MOST, NO_KEYS, N_CELLS, N_GENES = 1000, np.empty(0, dtype=np.uint64), 30, 70


@pytest.fixture
def counts() -> csr_matrix:
    rng = np.random.default_rng(0)
    dense = rng.integers(1, 50, (N_CELLS, N_GENES)) * (
        rng.random((N_CELLS, N_GENES)) < rng.random((N_CELLS, 1))
    )
    dense[4] = 0
    return csr_matrix(dense.astype(np.float32))


def rows_of(counts: csr_matrix, **changes: object) -> Rows:
    fields = {
        "indptr": counts.indptr.astype(np.int64),
        "indices": counts.indices,
        "values": counts.data,
        "gene_ids": (5 + 3 * np.arange(N_GENES)).astype(np.int32),
        "by_token": True,
        "head": 1,
    }
    return Rows(**(fields | changes))


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_copied_rows_equal_rows_filled_one_by_one(counts, head, by_token, kind):
    gene_ids = (5 + 3 * np.arange(N_GENES)).astype(np.int32)
    changes = {} if by_token else {"gene_ids": np.random.default_rng(1).permutation(gene_ids)}
    rows = rows_of(counts.astype(kind), head=head, by_token=by_token, **changes)
    copied = rows.copied(MOST)
    filled = rows.filled(MOST, NO_KEYS, np.uint64(0), include_zero=False)
    assert copied is not None
    indptr = copied[0]
    np.testing.assert_array_equal(indptr, filled[0])
    place = np.arange(indptr[-1])
    is_gene = ~np.isin(place, indptr[:-1]) if head else place >= 0
    for found, expected in zip(copied[1:], filled[1:], strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found[is_gene], expected[is_gene])


def test_rows_with_work_to_do_are_not_copied(counts):
    absent = (5 + 3 * np.arange(N_GENES)).astype(np.int32)
    absent[20] = -1
    zero, unsorted, twice = counts.data.copy(), counts.indices.copy(), counts.indices.copy()
    zero[17] = 0
    start = counts.indptr[7]
    unsorted[[start, start + 1]] = unsorted[[start + 1, start]]
    twice[start + 1] = twice[start]
    longest = int(np.diff(counts.indptr).max())
    assert rows_of(counts).copied(longest) is not None
    for changes, n_places in (
        ({"gene_ids": absent, "by_token": False}, MOST),
        ({"gene_ids": np.arange(N_GENES, dtype=np.int32)[::-1].copy()}, MOST),
        ({"values": zero}, MOST),
        ({"indices": unsorted}, MOST),
        ({"indices": twice}, MOST),
        ({}, longest - 1),
    ):
        assert rows_of(counts, **changes).copied(n_places) is None


def test_tokenize_takes_the_short_way_only_where_it_may(counts, monkeypatch):
    ways = []
    copied = Rows.copied

    def watched(self, n_places):
        ragged = copied(self, n_places)
        ways.append(ragged is not None)
        return ragged

    monkeypatch.setattr(token_rows.Rows, "copied", watched)
    gene_ids = np.arange(N_GENES)
    plain = tokenize(counts, gene_ids, cls_id=N_GENES)
    everything = tokenize(counts, gene_ids, cls_id=N_GENES, include_zero=True)
    reverse = tokenize(counts[:, ::-1], gene_ids[::-1], cls_id=N_GENES)
    assert ways == [True, False]
    np.testing.assert_array_equal(plain.gene_ids, reverse.gene_ids)
    np.testing.assert_array_equal(plain.values, reverse.values)
    assert (everything.lengths == N_GENES + 1).all()
