"""Token sequences: what is in them, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from scgpt.errors import DataError
from scgpt.tokens.binning import bin_values
from scgpt.tokens.keys import name_keys
from scgpt.tokens.tokens import CellRng, length_buckets, mask_values, tokenize

CLS, PAD = 900, 901


@pytest.fixture
def cells() -> tuple[csr_matrix, np.ndarray]:
    rng = np.random.default_rng(0)
    dense = rng.integers(1, 50, size=(40, 130)) * (rng.random((40, 130)) < rng.random((40, 1)))
    return csr_matrix(dense.astype(np.float32)), rng.permutation(800)[:130].astype(np.int32)


def pairs(cells, row: int) -> list[tuple[int, float]]:
    span = slice(cells.indptr[row], cells.indptr[row + 1])
    return list(zip(cells.gene_ids[span].tolist(), cells.values[span].tolist(), strict=True))


def plain(dense: np.ndarray, gene_ids: np.ndarray) -> list[tuple[int, float]]:
    return sorted((int(g), float(v)) for g, v in zip(gene_ids, dense, strict=True) if v and g >= 0)


def same(a, b, rows_of_a) -> None:
    for i, row in enumerate(rows_of_a):
        assert pairs(a, int(row)) == pairs(b, i)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64])
def test_non_zero_genes_in_token_order(cells, kind):
    matrix, gene_ids = cells
    gene_ids = gene_ids.copy()
    gene_ids[::7] = -1
    tokens = tokenize(matrix.astype(kind), gene_ids, cls_id=CLS, cls_value=-2)
    assert tokens.gene_ids.dtype == np.int32
    assert tokens.values.dtype == np.float32
    for row in range(40):
        expected = plain(matrix[row].toarray()[0], gene_ids)
        assert pairs(tokens, row) == [(CLS, -2.0), *expected]
    assert tokens.lengths.tolist() == [len(pairs(tokens, row)) for row in range(40)]


def test_input_order_and_no_cell_token(cells):
    matrix, gene_ids = cells
    tokens = tokenize(matrix, gene_ids, cls_id=None, gene_order="input")
    for row in range(40):
        dense = matrix[row].toarray()[0]
        expected = [(int(g), v) for g, v in zip(gene_ids, dense, strict=True) if v]
        assert pairs(tokens, row) == expected


def test_wide_indices(cells):
    matrix, gene_ids = cells
    wide = matrix.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    expected = tokenize(matrix, gene_ids, cls_id=CLS, max_length=20)
    same(expected, tokenize(wide, gene_ids, cls_id=CLS, max_length=20), range(40))
    drawn = bin_values(wide, ties="random", seed=1)
    np.testing.assert_array_equal(drawn.data, bin_values(matrix, ties="random", seed=1).data)


def test_zeros_can_be_included(cells):
    matrix, gene_ids = cells
    tokens = tokenize(matrix, gene_ids, cls_id=CLS, include_zero=True)
    order = np.argsort(gene_ids)
    assert (tokens.lengths == 131).all()
    for row in range(40):
        got = pairs(tokens, row)
        assert [g for g, _ in got[1:]] == gene_ids[order].tolist()
        assert [v for _, v in got[1:]] == matrix[row].toarray()[0][order].tolist()


def test_unsorted_columns_and_stored_zeros(cells):
    matrix, gene_ids = cells
    expected = tokenize(matrix, gene_ids, cls_id=CLS)
    shuffled = matrix.copy()
    for row in range(40):
        span = slice(shuffled.indptr[row], shuffled.indptr[row + 1])
        order = np.random.default_rng(row).permutation(span.stop - span.start)
        shuffled.indices[span] = shuffled.indices[span][order]
        shuffled.data[span] = shuffled.data[span][order]
    shuffled.has_sorted_indices = False
    same(expected, tokenize(shuffled, gene_ids, cls_id=CLS), range(40))
    zeroed = matrix.copy()
    zeroed.data[::3] = 0
    without = zeroed.copy()
    without.eliminate_zeros()
    same(tokenize(zeroed, gene_ids, cls_id=CLS), tokenize(without, gene_ids, cls_id=CLS), range(40))


@pytest.mark.parametrize("include_zero", [False, True])
def test_long_cells_are_sampled_without_replacement(cells, include_zero):
    matrix, gene_ids = cells
    full = tokenize(matrix, gene_ids, cls_id=CLS, include_zero=include_zero)
    short = tokenize(matrix, gene_ids, cls_id=CLS, include_zero=include_zero, max_length=30)
    np.testing.assert_array_equal(short.lengths, np.minimum(full.lengths, 30))
    for row in range(40):
        kept, all_ = pairs(short, row), pairs(full, row)
        assert kept[0] == (CLS, 0.0)
        assert len(set(kept)) == len(kept)
        assert set(kept) <= set(all_)
        assert [g for g, _ in kept[1:]] == sorted(g for g, _ in kept[1:])


@pytest.mark.parametrize("include_zero", [False, True])
def test_sample_belongs_to_the_cell(cells, include_zero):
    matrix, gene_ids = cells
    options = {"cls_id": CLS, "max_length": 20, "seed": 4, "include_zero": include_zero}
    expected = tokenize(matrix, gene_ids, **options)
    rng = np.random.default_rng(1)
    order, genes = rng.permutation(40), rng.permutation(130)
    same(expected, tokenize(matrix[order], gene_ids, **options), order)
    same(expected, tokenize(csr_matrix(matrix[:, genes]), gene_ids[genes], **options), range(40))
    same(expected, tokenize(matrix[11:17], gene_ids, **options), range(11, 17))
    same(expected, tokenize(matrix.astype(np.uint8), gene_ids, **options), range(40))
    same(expected, tokenize(matrix.astype(np.float64), gene_ids, **options), range(40))
    # Genes outside the vocabulary do not take part in the cell's key.
    wider = csr_matrix(np.hstack([matrix.toarray(), np.ones((40, 3), dtype=np.float32)]))
    same(expected, tokenize(wider, np.append(gene_ids, [-1, -1, -1]), **options), range(40))
    other = tokenize(matrix, gene_ids, **{**options, "seed": 5})
    assert any(pairs(other, row) != pairs(expected, row) for row in range(40))


def test_cells_with_few_expressed_genes_get_different_zeros():
    matrix = csr_matrix(np.eye(6, 200, dtype=np.float32))
    tokens = tokenize(matrix, np.arange(200), cls_id=None, include_zero=True, max_length=20)
    samples = {tuple(tokens.gene_ids[i * 20 : i * 20 + 20]) for i in range(6)}
    assert len(samples) == 6


def test_sample_is_uniform_over_genes():
    # 3,000 different cells of 40 genes, 10 kept: each gene is kept about 750 times.
    values = 1 + np.random.default_rng(2).integers(0, 50, size=(3000, 40))
    matrix = csr_matrix(values.astype(np.float32))
    tokens = tokenize(matrix, np.arange(40), cls_id=None, max_length=10)
    kept = np.bincount(tokens.gene_ids, minlength=40)
    # Variance of a draw without replacement, so the sum is chi-square with 39 degrees of freedom.
    chi_square = ((kept - 750) ** 2 / (750 * (1 - 10 / 40))).sum() * 39 / 40
    assert kept.sum() == 30_000
    assert chi_square < 73  # the 0.1 % point


def test_given_keys_replace_the_content(cells):
    matrix, gene_ids = cells
    matrix = vstack([matrix[0]] * 2 + [matrix[1]] * 2, format="csr")
    options = {"cls_id": CLS, "max_length": 8}
    keys = name_keys(["a", "b", "c", "c"])
    by_name = tokenize(matrix, gene_ids, cell_keys=keys, **options)
    by_content = tokenize(matrix, gene_ids, **options)
    assert pairs(by_content, 0) == pairs(by_content, 1)
    assert pairs(by_name, 0) != pairs(by_name, 1)
    assert pairs(by_name, 2) == pairs(by_name, 3)
    np.testing.assert_array_equal(by_name.keys, keys)
    with pytest.raises(DataError, match="expected 4 uint64"):
        tokenize(matrix, gene_ids, cell_keys=np.arange(4), **options)


def test_collate_pads_and_counts(cells):
    matrix, gene_ids = cells
    tokens = tokenize(matrix, gene_ids, cls_id=CLS)
    rows = [7, 3, 3, 20]
    batch = tokens.collate(rows, pad_id=PAD)
    assert batch.gene_ids.dtype == np.int64
    assert batch.gene_ids.shape == (4, tokens.lengths[rows].max())
    for i, row in enumerate(rows):
        n = tokens.lengths[row]
        got = list(zip(batch.gene_ids[i, :n], batch.values[i, :n], strict=True))
        assert got == pairs(tokens, row)
        assert (batch.gene_ids[i, n:] == PAD).all()
        assert (batch.values[i, n:] == -2).all()
        assert batch.padding[i].tolist() == [False] * n + [True] * (batch.padding.shape[1] - n)
    assert tokens.collate(rows, pad_id=PAD, length=140).gene_ids.shape == (4, 140)
    assert tokens.collate([], pad_id=PAD).gene_ids.shape == (0, 0)
    with pytest.raises(DataError, match="the batch is 3 wide"):
        tokens.collate(rows, pad_id=PAD, length=3)
    with pytest.raises(DataError, match="there are 40 cells"):
        tokens.collate([40], pad_id=PAD)


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.4, 0.75, 1.0])
def test_masking_counts_and_candidates(cells, ratio):
    matrix, gene_ids = cells
    tokens = tokenize(matrix, gene_ids, cls_id=CLS, include_zero=False)
    batch = tokens.collate(np.arange(40), pad_id=PAD)
    for rng in (CellRng(seed=1), np.random.default_rng(0)):
        masked = mask_values(batch, ratio, rng=rng)
        changed = masked != batch.values
        assert not (changed & batch.padding).any()
        assert (masked[changed] == -1).all()
        assert changed.sum(axis=1).tolist() == [int(ratio * n) for n in tokens.lengths]


def test_masking_is_even_over_positions_and_reaches_the_cell_token():
    values = np.random.default_rng(3).integers(0, 3, size=(4000, 9)).astype(np.float32)
    tokens = tokenize(csr_matrix(values), np.arange(9), cls_id=CLS, include_zero=True,
                      cell_keys=name_keys(range(4000)))  # fmt: skip
    batch = tokens.collate(np.arange(4000), pad_id=PAD)
    hits = (mask_values(batch, 0.3, rng=CellRng(seed=0)) == -1).sum(axis=0)
    assert hits.sum() == 3 * 4000
    assert (abs(hits - 1200) < 4 * np.sqrt(1200 * 0.7)).all()


def test_masking_belongs_to_the_cell_and_epoch(cells):
    matrix, gene_ids = cells
    tokens = tokenize(matrix, gene_ids, cls_id=CLS)
    whole = mask_values(tokens.collate(np.arange(40), pad_id=PAD), 0.4, rng=CellRng(seed=7))
    for rows in length_buckets(tokens.lengths, 6, rng=np.random.default_rng(0)):
        part = mask_values(tokens.collate(rows, pad_id=PAD), 0.4, rng=CellRng(seed=7))
        np.testing.assert_array_equal(part, whole[rows, : part.shape[1]])
    batch = tokens.collate(np.arange(40), pad_id=PAD)
    assert (mask_values(batch, 0.4, rng=CellRng(seed=7, epoch=1)) != whole).any()
    assert (mask_values(batch, 0.4, rng=CellRng(seed=8)) != whole).any()
    with pytest.raises(DataError, match="mask ratio is 1.2"):
        mask_values(batch, 1.2, rng=CellRng(seed=7))


def test_buckets_hold_every_cell_once():
    lengths = np.random.default_rng(0).integers(1, 900, size=1003)
    longest_first = length_buckets(lengths, 64)
    assert sorted(np.concatenate(longest_first).tolist()) == list(range(1003))
    assert longest_first[0][0] == lengths.argmax()
    padded = sum(lengths[rows].max() * rows.size for rows in longest_first)
    assert padded < 1.1 * lengths.sum()
    shuffled = length_buckets(lengths, 64, rng=np.random.default_rng(1), pool_batches=4)
    assert sorted(np.concatenate(shuffled).tolist()) == list(range(1003))
    assert [rows.tolist() for rows in shuffled] != [rows.tolist() for rows in longest_first]
    again = length_buckets(lengths, 64, rng=np.random.default_rng(1), pool_batches=4)
    assert [rows.tolist() for rows in shuffled] == [rows.tolist() for rows in again]
    assert length_buckets(np.array([], dtype=int), 4) == []
    with pytest.raises(DataError, match="batch_size is 0"):
        length_buckets(lengths, 0)


def test_bad_input_is_refused(cells):
    matrix, gene_ids = cells
    with pytest.raises(DataError, match="one id per column"):
        tokenize(matrix, gene_ids[:-1], cls_id=CLS)
    with pytest.raises(DataError, match="several columns, first 5"):
        tokenize(matrix, np.where(np.arange(130) < 2, 5, gene_ids + 10), cls_id=CLS)
    with pytest.raises(DataError, match="none of the 130 genes"):
        tokenize(matrix, np.full(130, -1), cls_id=CLS)
    with pytest.raises(DataError, match="no place for a gene"):
        tokenize(matrix, gene_ids, cls_id=CLS, max_length=1)
    with pytest.raises(DataError, match="gene_order"):
        tokenize(matrix, gene_ids, cls_id=CLS, gene_order="random")
    bad = matrix.copy()
    bad.data[bad.indptr[2]] = np.nan
    with pytest.raises(DataError, match="cell 2 has a value that is NaN"):
        tokenize(bad, gene_ids, cls_id=CLS)
    twice = csr_matrix(([1.0, 2.0], [1, 1], [0, 2]), shape=(1, 130))
    with pytest.raises(DataError, match="stores a gene twice"):
        tokenize(twice, gene_ids, cls_id=CLS)
    with pytest.raises(DataError, match="CSR"):
        tokenize(matrix.toarray(), gene_ids, cls_id=CLS)
