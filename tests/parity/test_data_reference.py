"""Our preprocessing equals stored outputs of the official code.

Exact where its rule is deterministic; where it draws random numbers, counts, ranges and membership.
"""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scgpt.data.preprocess import genes_with_counts, highly_variable_genes, lognormalise
from scgpt.tokens.binning import bin_values
from scgpt.tokens.tokens import CellRng, mask_values, tokenize

PAD, CLS = 157, 158
MASK_RATIO = 0.4


@pytest.fixture(scope="module")
def stored(root):
    with np.load(root / "tests/golden/data/reference.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def pairs(genes, values) -> set[tuple[int, float]]:
    return {(int(g), float(v)) for g, v in zip(genes, values, strict=True)}


def ranges(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    edges = np.quantile(row[row != 0], np.linspace(0, 1, 50))
    upper = (edges[:, None] <= row).sum(axis=0)
    lower = np.minimum((edges[:, None] < row).sum(axis=0) + 1, upper)
    return np.where(row == 0, 0, lower), np.where(row == 0, 0, upper)


def test_copy_is_faithful(stored, shared_dir):
    for branch in ("main", "devtemp"):
        with np.load(
            shared_dir / f"reference/data/data_{branch}.npz", allow_pickle=False
        ) as source:
            for name, values in stored.items():
                if name.startswith(branch):
                    np.testing.assert_array_equal(source[name.removeprefix(f"{branch}/")], values)


@pytest.mark.parametrize("flavor", ["seurat_v3", "cell_ranger"])
def test_preprocessing_chain(stored, flavor):
    # The published order: filter genes, normalise, log1p, then variable genes from the raw counts.
    counts = csr_matrix(stored["main/counts"])
    kept = np.flatnonzero(genes_with_counts(counts, 3))
    counts = csr_matrix(counts[:, kept])
    obs = pd.DataFrame({"batch": ["0"] * 20 + ["1"] * 20}, dtype="category")
    data = anndata.AnnData(counts, obs=obs.set_index(obs.index.astype(str)))
    chosen = highly_variable_genes(data, n_top=60, flavor=flavor, batch_key="batch")
    np.testing.assert_array_equal(kept[chosen], stored[f"main/pp.{flavor}.genes"])
    lognorm = csr_matrix(lognormalise(counts)[:, chosen])
    np.testing.assert_allclose(
        lognorm.toarray(), stored[f"main/pp.{flavor}.X_log1p"], rtol=0, atol=1e-6
    )
    for row, official in zip(
        stored[f"main/pp.{flavor}.X_log1p"], stored[f"main/pp.{flavor}.X_binned"], strict=True
    ):
        low, high = ranges(row)
        assert ((official >= low) & (official <= high)).all()
        np.testing.assert_array_equal(bin_values(csr_matrix(row)).toarray()[0], high)


def test_bin_edges_of_the_official_preprocessor(stored):
    # It prefixes the 50 edges with 0.
    for flavor in ("seurat_v3", "cell_ranger"):
        for row, edges in zip(
            stored[f"main/pp.{flavor}.X_log1p"], stored[f"main/pp.{flavor}.bin_edges"], strict=True
        ):
            ours = np.quantile(row[row != 0], np.linspace(0, 1, 50))
            np.testing.assert_array_equal(ours, edges[1:])


def test_binning_without_ties_is_exact(stored):
    values = stored["main/bin.cont.in"]
    binned = bin_values(csr_matrix(values)).toarray()
    np.testing.assert_array_equal(binned, stored["main/bin.cont.out"])
    np.testing.assert_array_equal(binned[0], stored["main/bin.tensor.out"])
    random = bin_values(csr_matrix(values), ties="random", seed=0).toarray()
    np.testing.assert_array_equal(random, binned)
    np.testing.assert_array_equal(
        bin_values(csr_matrix(values[:, :157])).toarray(), stored["main/tok.in"]
    )


def test_binning_with_ties(stored):
    counts = stored["main/bin.ties.in"]
    upper = bin_values(csr_matrix(counts)).toarray()
    np.testing.assert_array_equal(upper, stored["devtemp/bin.ties.out"])
    drawn = bin_values(csr_matrix(counts), ties="random", seed=0).toarray()
    for row, official, ours in zip(counts, stored["main/bin.ties.out"], drawn, strict=True):
        low, high = ranges(row)
        assert ((official >= low) & (official <= high)).all()
        assert ((ours >= low) & (ours <= high)).all()


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("nz", {"cls_id": CLS}),
        ("zero", {"cls_id": CLS, "include_zero": True}),
    ],
)
def test_tokens_are_exact(stored, case, options):
    cells = csr_matrix(stored["main/tok.in"])
    tokens = tokenize(cells, stored["main/tok.gene_ids"], gene_order="input", **options)
    batch = tokens.collate(np.arange(6), pad_id=PAD)
    np.testing.assert_array_equal(batch.gene_ids, stored[f"main/tok.{case}.genes"])
    np.testing.assert_array_equal(batch.values, stored[f"main/tok.{case}.values"])
    sorted_ = tokenize(cells, stored["main/tok.gene_ids"], **options)
    for row in range(6):
        span = slice(sorted_.indptr[row] + 1, sorted_.indptr[row + 1])
        assert (np.diff(sorted_.gene_ids[span]) > 0).all()
        ours = pairs(sorted_.gene_ids[span], sorted_.values[span])
        assert ours == pairs(batch.gene_ids[row, 1:], batch.values[row, 1:])


@pytest.mark.parametrize(("case", "cls_id"), [("trunc", CLS), ("nocls", None)])
def test_truncation_has_the_same_shape_and_source(stored, case, cls_id):
    cells, gene_ids = csr_matrix(stored["main/tok.in"]), stored["main/tok.gene_ids"]
    full = tokenize(cells, gene_ids, cls_id=cls_id)
    tokens = tokenize(cells, gene_ids, cls_id=cls_id, max_length=50)
    batch = tokens.collate(np.arange(6), pad_id=PAD)
    official = stored[f"main/tok.{case}.genes"], stored[f"main/tok.{case}.values"]
    assert batch.gene_ids.shape == official[0].shape
    for row in range(6):
        span = slice(full.indptr[row], full.indptr[row + 1])
        source = pairs(full.gene_ids[span], full.values[span])
        for genes, values in ((batch.gene_ids, batch.values), official):
            kept = pairs(genes[row], values[row])
            assert len(kept) == 50
            assert kept <= source
            assert cls_id is None or genes[row, 0] == CLS


@pytest.mark.parametrize("case", ["nz", "zero", "trunc", "nocls"])
def test_masks_have_the_same_size_and_candidates(stored, case):
    options = {
        "nz": {},
        "zero": {"include_zero": True},
        "trunc": {"max_length": 50},
        "nocls": {"max_length": 50, "cls_id": None},
    }[case]
    tokens = tokenize(
        csr_matrix(stored["main/tok.in"]), stored["main/tok.gene_ids"], **{"cls_id": CLS, **options}
    )
    batch = tokens.collate(np.arange(6), pad_id=PAD)
    ours = mask_values(batch, MASK_RATIO, rng=CellRng(seed=0))
    official = stored[f"main/tok.{case}.masked"]
    values = stored[f"main/tok.{case}.values"]
    np.testing.assert_array_equal((ours == -1).sum(axis=1), (official == -1).sum(axis=1))
    for masked, plain in ((ours, batch.values), (official, values)):
        np.testing.assert_array_equal(masked[masked != -1], plain[masked != -1])


def test_collator_of_the_embedding_is_exact(stored):
    # Non-zero genes, <cls> with the padding value, bins of the continuous values.
    bins = bin_values(csr_matrix(stored["main/bin.cont.in"][:4, :157]))
    tokens = tokenize(bins, np.arange(157), cls_id=CLS, cls_value=-2)
    batch = tokens.collate(np.arange(4), pad_id=PAD)
    np.testing.assert_array_equal(batch.gene_ids, stored["main/coll.full.mlm0.gene"])
    np.testing.assert_array_equal(batch.values, stored["main/coll.full.mlm0.expr"])
    short = tokenize(bins, np.arange(157), cls_id=CLS, cls_value=-2, max_length=60)
    ours = short.collate(np.arange(4), pad_id=PAD)
    official = stored["main/coll.short.mlm0.gene"], stored["main/coll.short.mlm0.expr"]
    assert ours.gene_ids.shape == official[0].shape
    for row in range(4):
        source = pairs(batch.gene_ids[row], batch.values[row])
        assert pairs(ours.gene_ids[row], ours.values[row]) < source
        assert pairs(official[0][row], official[1][row]) < source


def test_pretraining_tokens_are_exact(stored):
    bins = bin_values(csr_matrix(stored["main/counts"][:6]))
    tokens = tokenize(bins, np.arange(157), cls_id=CLS, cls_value=-2)
    batch = tokens.collate(np.arange(6), pad_id=PAD)
    np.testing.assert_array_equal(batch.gene_ids, stored["devtemp/coll.full.pcpt.gene"])
    np.testing.assert_array_equal(batch.values, stored["devtemp/coll.full.pcpt.expr"])
    # Perception and generation together hold the same genes and bins.
    for row in range(6):
        together = set()
        for part in ("pcpt_gene", "pcpt_expr"), ("gen_gene", "gen_expr_target"):
            genes, values = (stored[f"devtemp/coll.full.both.{name}"][row] for name in part)
            together |= pairs(genes[genes != PAD], values[genes != PAD])
        ids = batch.gene_ids[row]
        assert together == pairs(ids[ids != PAD], batch.values[row][ids != PAD])
