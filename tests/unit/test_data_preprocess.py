"""Checks of raw counts, normalisation, variable genes, principal components, UMAP."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scgpt.data import preprocess
from scgpt.errors import DataError


@pytest.fixture(scope="module")
def counts() -> csr_matrix:
    rng = np.random.default_rng(0)
    rates = np.exp(rng.normal(0, 1, size=(1, 120)) + rng.normal(0, 0.7, size=(90, 1)))
    rates[:45, :20] *= 6
    return csr_matrix(rng.poisson(rates).astype(np.float32))


def spoilt(counts: csr_matrix, value: float) -> csr_matrix:
    bad = counts.copy()
    bad.data[17] = value
    return bad


def test_good_counts_pass(counts):
    names = [f"g{i}" for i in range(120)]
    preprocess.check_counts(counts, cell_names=range(90), gene_names=names)
    preprocess.check_counts(counts.astype(np.int32))
    preprocess.check_lognorm(preprocess.lognormalise(counts))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.nan, "1 values are NaN or infinite"),
        (np.inf, "1 values are NaN or infinite"),
        (-3.0, "1 values are negative"),
        (40.5, "1 values are not whole numbers"),
    ],
)
def test_bad_values_are_named(counts, value, text):
    with pytest.raises(DataError, match=text):
        preprocess.check_counts(spoilt(counts, value))


def test_logged_data_are_recognised(counts):
    logged = preprocess.lognormalise(counts)
    assert preprocess.looks_logged(logged)
    assert not preprocess.looks_logged(counts)
    assert not preprocess.looks_logged(spoilt(counts, 40.5))
    with pytest.raises(DataError, match="look log-normalised.*declare value_kind lognorm"):
        preprocess.check_counts(logged)
    with pytest.raises(DataError, match="look like counts"):
        preprocess.check_lognorm(counts)


def test_empty_and_duplicate_names_are_shown(counts):
    emptied = counts.tolil()
    emptied[[3, 8]] = 0
    names = [f"cell{i}" for i in range(90)]
    with pytest.raises(DataError, match=r"2 cells have no counts at all \(cell3, cell8\)"):
        preprocess.check_counts(emptied.tocsr(), cell_names=names)
    genes = ["INS"] * 2 + [f"g{i}" for i in range(118)]
    with pytest.raises(DataError, match=r"1 gene names occur more than once \(INS\)"):
        preprocess.check_counts(counts, gene_names=genes)
    with pytest.raises(DataError, match="0 cells and 5 genes"):
        preprocess.check_counts(csr_matrix((0, 5), dtype=np.float32))
    with pytest.raises(DataError, match="CSR matrix is needed, found ndarray"):
        preprocess.check_counts(counts.toarray())


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_lognormalise_equals_scanpy(counts, kind):
    import scanpy

    expected = anndata.AnnData(counts.copy())
    scanpy.pp.normalize_total(expected, target_sum=1e4)
    scanpy.pp.log1p(expected)
    before = counts.astype(kind)
    ours = preprocess.lognormalise(before)
    assert ours.dtype == np.float32
    assert ours.format == "csr"
    np.testing.assert_array_equal(ours.indices, counts.indices)
    np.testing.assert_allclose(ours.toarray(), expected.X.toarray(), rtol=2e-6)
    np.testing.assert_array_equal(before.toarray(), counts.toarray())
    np.testing.assert_allclose(np.expm1(ours.toarray()).sum(axis=1), 1e4, rtol=1e-5)


def test_lognormalise_keeps_empty_cells_empty():
    matrix = csr_matrix(np.array([[0, 0], [1, 3]], dtype=np.float32))
    expected = [[0, 0], [np.log1p(2.5), np.log1p(7.5)]]
    ours = preprocess.lognormalise(matrix, target_sum=10).toarray()
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_filters_count_totals():
    matrix = csr_matrix(np.array([[0, 2, 0], [1, 1, 0]], dtype=np.float32))
    assert preprocess.genes_with_counts(matrix, 2).tolist() == [False, True, False]


@pytest.mark.parametrize("flavor", ["seurat_v3", "cell_ranger", "seurat"])
def test_variable_genes_find_the_changed_ones(counts, flavor):
    data = anndata.AnnData(counts if flavor == "seurat_v3" else preprocess.lognormalise(counts))
    before = data.X.copy()
    chosen = preprocess.highly_variable_genes(data, n_top=30, flavor=flavor)
    assert chosen.dtype == bool
    assert chosen.sum() == 30
    assert chosen[:20].mean() > 2 * chosen[20:].mean()
    assert (before != data.X).nnz == 0
    assert data.uns == {}
    assert preprocess.highly_variable_genes(data, n_top=120, flavor=flavor).all()


def test_variable_genes_refuse_what_they_cannot_use(counts):
    with pytest.raises(DataError, match="seurat_v3 needs counts"):
        preprocess.highly_variable_genes(
            anndata.AnnData(preprocess.lognormalise(counts)), n_top=10, flavor="seurat_v3"
        )
    constant = anndata.AnnData(csr_matrix(np.ones((5, 40), dtype=np.float32)))
    with pytest.raises(DataError, match="could not be fitted on 5 cells x 40 genes"):
        preprocess.highly_variable_genes(constant, n_top=10, flavor="cell_ranger")


def test_pca_fits_on_some_cells_only(counts):
    from sklearn.decomposition import PCA

    lognorm = preprocess.lognormalise(counts)
    fit = np.arange(90) % 3 > 0
    ours = preprocess.pca(lognorm, n_components=5, fit_rows=fit)
    assert ours.dtype == np.float32
    dense = lognorm.toarray().astype(float)
    model = PCA(5, svd_solver="full").fit(dense[fit])
    expected = model.transform(dense)
    for k in range(5):
        loading = model.components_[k]
        sign = np.sign(loading[np.abs(loading).argmax()])
        np.testing.assert_allclose(ours[:, k], sign * expected[:, k], atol=1e-3)
    # The cells left out must not move the axes.
    changed = lognorm.tolil()
    changed[np.flatnonzero(~fit)[0]] = 9
    again = preprocess.pca(changed.tocsr(), n_components=5, fit_rows=np.flatnonzero(fit))
    np.testing.assert_allclose(again[fit], ours[fit], atol=1e-5)
    with pytest.raises(DataError, match="60 components need more than that"):
        preprocess.pca(lognorm, n_components=60, fit_rows=fit)


def test_pca_does_not_depend_on_the_order_of_cells(counts):
    lognorm = preprocess.lognormalise(counts)
    order = np.random.default_rng(1).permutation(90)
    ours = preprocess.pca(lognorm, n_components=6)
    np.testing.assert_allclose(
        preprocess.pca(lognorm[order], n_components=6), ours[order], atol=1e-4
    )


def test_umap_separates_what_is_separate():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 8)).astype(np.float32)
    points[:30] += 30
    layout = preprocess.umap(points, seed=1)
    assert layout.shape == (60, 2)
    assert np.isfinite(layout).all()
    centres = layout[:30].mean(axis=0), layout[30:].mean(axis=0)
    spread = max(layout[:30].std(), layout[30:].std())
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
    np.testing.assert_array_equal(preprocess.umap(points, seed=1), layout)
    with pytest.raises(DataError, match="4 cells are too few"):
        preprocess.umap(points[:4])
