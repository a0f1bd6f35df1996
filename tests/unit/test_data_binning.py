"""Binning equals a plain NumPy implementation of the rule, value by value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_matrix

from scgpt.errors import DataError
from scgpt.tokens.binning import bin_values
from scgpt.tokens.keys import name_keys


def ranges(row: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest bin of each value: the rule, written down plainly."""
    edges = np.quantile(row[row != 0], np.linspace(0, 1, n_bins - 1))
    upper = np.array([(edges <= x).sum() for x in row])
    below = np.array([(edges < x).sum() for x in row])
    lower = np.minimum(below + 1, upper)
    return np.where(row == 0, 0, lower), np.where(row == 0, 0, upper)


def check(dense: np.ndarray, n_bins: int) -> None:
    matrix = csr_matrix(dense)
    upper = bin_values(matrix, n_bins=n_bins)
    drawn = bin_values(matrix, n_bins=n_bins, ties="random", seed=3)
    assert upper.dtype == drawn.dtype == np.uint8
    for row in range(dense.shape[0]):
        if not dense[row].any():
            assert not upper[row].toarray().any()
            continue
        low, high = ranges(dense[row], n_bins)
        np.testing.assert_array_equal(upper[row].toarray()[0], high)
        got = drawn[row].toarray()[0]
        assert ((got >= low) & (got <= high)).all()


small_counts = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 6)
)
positive = st.floats(0, 2.0**100, width=32)


@given(small_counts, st.sampled_from([2, 3, 7, 51, 256]))
@settings(max_examples=50, deadline=None)
def test_counts_with_ties(dense: np.ndarray, n_bins: int):
    check(dense, n_bins)


@given(
    st.sampled_from([np.float32, np.float64]).flatmap(
        lambda kind: hnp.arrays(kind, (3, 90), elements=positive)
    ),
    st.sampled_from([3, 51]),
)
@settings(max_examples=50, deadline=None)
def test_floating_point_values(dense: np.ndarray, n_bins: int):
    check(dense, n_bins)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("n_values", [1, 2, 49, 50, 51, 99, 197, 300, 1471])
def test_edges_that_hit_values_exactly(kind, n_values):
    # (n - 1) * q is a whole number for many of these, and often only up to rounding.
    rng = np.random.default_rng(n_values)
    dense = rng.permuted(np.log1p(rng.integers(1, 60, size=(4, n_values)) * 3.7), axis=1)
    check(dense.astype(kind), 51)
    check(rng.random((4, n_values)).astype(kind), 51)


def test_every_kind_of_number_gives_the_same_bins():
    counts = np.random.default_rng(0).poisson(1.2, size=(30, 80))
    expected = bin_values(csr_matrix(counts.astype(np.float32))).toarray()
    for kind in (np.uint8, np.uint16, np.int32, np.int64, np.float64):
        np.testing.assert_array_equal(
            bin_values(csr_matrix(counts.astype(kind))).toarray(), expected
        )
    large = csr_matrix(np.array([[2**24, 2**24 + 1, 2**24 + 2]]))
    assert bin_values(large, n_bins=3).toarray().tolist() == [[1, 1, 2]]


def test_special_rows():
    rows = np.zeros((3, 60), dtype=np.float32)
    rows[1, 7] = 0.25
    rows[2] = 5
    binned = bin_values(csr_matrix(rows)).toarray()
    assert binned[0].max() == 0
    assert binned[1, 7] == 50
    assert (binned[2] == 50).all()
    empty = bin_values(csr_matrix((0, 5), dtype=np.float32))
    assert empty.shape == (0, 5)


def test_stored_zeros_stay_zero_and_sparsity_is_kept():
    matrix = csr_matrix(np.array([[1.0, 2.0, 3.0, 4.0]], dtype=np.float32))
    matrix.data[1] = 0
    binned = bin_values(matrix)
    assert binned.indices.tolist() == [0, 1, 2, 3]
    low, high = ranges(matrix.toarray()[0], 51)
    assert binned.data.tolist() == high.tolist()
    assert low[1] == 0
    assert matrix.data[1] == 0


def test_random_ties_are_uniform_over_their_bins():
    # All values equal: every one of the 50 edges ties, so the draws are uniform on 1 ... 50.
    matrix = csr_matrix(np.ones((400, 200), dtype=np.float32))
    drawn = bin_values(matrix, ties="random", seed=11, cell_keys=name_keys(range(400))).data
    observed = np.bincount(drawn, minlength=51)[1:]
    chi_square = ((observed - 1600) ** 2 / 1600).sum()
    assert observed.sum() == drawn.size
    assert chi_square < 85.4  # the 0.1 % point of 49 degrees of freedom


def test_random_ties_belong_to_the_cell_not_to_its_place():
    dense = np.random.default_rng(5).poisson(1.0, size=(50, 70)).astype(np.float32)
    matrix = csr_matrix(dense)
    drawn = bin_values(matrix, ties="random", seed=1).toarray()
    order = np.random.default_rng(6).permutation(50)
    np.testing.assert_array_equal(
        bin_values(matrix[order], ties="random", seed=1).toarray(), drawn[order]
    )
    np.testing.assert_array_equal(
        bin_values(matrix[20:31], ties="random", seed=1).toarray(), drawn[20:31]
    )
    np.testing.assert_array_equal(
        bin_values(matrix.astype(np.float64), ties="random", seed=1).toarray(), drawn
    )
    assert (bin_values(matrix, ties="random", seed=2).toarray() != drawn).any()
    genes = np.random.default_rng(7).permutation(70)
    by_gene = bin_values(csr_matrix(matrix[:, genes]), ties="random", seed=1, gene_ids=genes)
    np.testing.assert_array_equal(by_gene.toarray(), drawn[:, genes])


@pytest.mark.parametrize(
    ("bad", "text"),
    [(-1.0, "negative"), (np.nan, "NaN or infinity"), (np.inf, "NaN or infinity")],
)
def test_bad_values_are_refused(bad, text):
    matrix = csr_matrix(np.ones((3, 4), dtype=np.float32))
    matrix.data[9] = bad
    with pytest.raises(DataError, match=f"cell 2 has.*{text}"):
        bin_values(matrix)


def test_bad_options_are_refused():
    matrix = csr_matrix(np.ones((3, 4), dtype=np.float32))
    with pytest.raises(DataError, match="random ties need a seed"):
        bin_values(matrix, ties="random")
    with pytest.raises(DataError, match="n_bins is 300"):
        bin_values(matrix, n_bins=300)
    with pytest.raises(DataError, match="'upper' or 'random'"):
        bin_values(matrix, ties="lower")
    with pytest.raises(DataError, match="CSR"):
        bin_values(matrix.toarray())
    with pytest.raises(DataError, match="cannot be binned"):
        bin_values(matrix.astype(complex))
