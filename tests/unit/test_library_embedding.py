"""The same cell gets the same vector, and it is the vector that the definition gives."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scgpt
from scgpt.errors import DataError
from scgpt.library import embedding, encoder

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from toy_model import SYMBOLS, toy_cells, toy_folder, toy_model

SHORT = 60  # about half of the toy cells are longer
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cells():
    return toy_cells(60)


def vectors(cells, model, **options):
    return scgpt.embed(cells, model, copy=True, **options).obsm["X_scgpt"]


def test_vectors_equal_the_definition(cells, model):
    # One cell at a time, NumPy bins, the whole network without tables and without padding.
    expected = []
    for counts in cells.X.toarray():
        genes = np.flatnonzero(counts)
        edges = np.quantile(counts[genes], np.linspace(0, 1, 50))
        bins = np.digitize(counts[genes], edges)
        ids = torch.tensor([[model.vocab["<cls>"], *model.vocab.ids(np.array(SYMBOLS)[genes])]])
        with torch.no_grad():
            hidden = model.model.encode(ids, torch.tensor([[-2.0, *bins]]))
        expected.append(hidden[0, 0].numpy() / np.linalg.norm(hidden[0, 0].numpy()))
    found = vectors(cells, model)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)
    # The test is worth something only if cells differ by much more than that.
    distances = np.linalg.norm(found[:, None] - found, axis=-1)[np.triu_indices(60, 1)]
    assert distances.min() > 100 * ROUNDING


def reordered_cells(cells):
    order = np.random.default_rng(1).permutation(cells.n_obs)
    return cells[order].copy(), np.argsort(order)


def same(change):
    return lambda cells: (change(cells.copy()), slice(None))


def with_x(convert):
    def change(cells):
        cells.X = convert(cells.X)
        return cells

    return same(change)


def with_stored_zeros(x):
    coo = x.tocoo()
    rows, columns = np.r_[coo.row, [0, 1]], np.r_[coo.col, [7, 8]]
    assert x[0, 7] * x[1, 8] == 0
    values = np.r_[coo.data, [0.0, 0.0]].astype(np.float32)
    return sparse.csr_matrix((values, (rows, columns)), shape=x.shape)


def with_split_entries(x):
    halves = [np.minimum(x.data, 1), np.maximum(x.data - 1, 0)]
    indptr = 2 * x.indptr
    values = np.stack(halves, axis=1).ravel().astype(np.float32)
    return sparse.csr_matrix((values, np.repeat(x.indices, 2), indptr), shape=x.shape)


def with_unknown_genes(cells):
    noise = np.random.default_rng(2).poisson(3, (cells.n_obs, 30))
    names = [*cells.var_names, *(f"unknown{i}" for i in range(30))]
    order = np.random.default_rng(3).permutation(len(names))
    counts = np.hstack([cells.X.toarray(), noise])[:, order]
    return ad.AnnData(counts, obs=cells.obs, var=pd.DataFrame(index=np.array(names)[order]))


SAME_BATCHES = {
    "cells in another order": reordered_cells,
    "genes in another order": same(lambda cells: cells[:, ::-1].copy()),
    "other cell names": same(lambda cells: ad.AnnData(cells.X, var=cells.var)),
    "more genes, unknown to the model": same(with_unknown_genes),
    "dense": with_x(lambda x: x.toarray()),
    "dense, columns first": with_x(lambda x: np.asfortranarray(x.toarray())),
    "CSC": with_x(sparse.csc_matrix),
    "sparse array": with_x(sparse.csr_array),
    "unsorted rows": with_x(lambda x: x[:, ::-1][:, ::-1]),
    "stored zeros": with_x(with_stored_zeros),
    "entries in two parts": with_x(with_split_entries),
    **{
        f"{dtype}": with_x(lambda x, dtype=dtype: x.astype(dtype))
        for dtype in ("float64", "int8", "uint16", "int32", "int64", "uint64")
    },
    "dense float16": with_x(lambda x: x.toarray().astype(np.float16)),
}


@pytest.mark.parametrize("max_length", [1200, SHORT])
@pytest.mark.parametrize("name", SAME_BATCHES)
def test_not_a_bit_depends_on_order_storage_or_type(cells, model, name, max_length):
    expected = vectors(cells, model, max_length=max_length)
    changed, back = SAME_BATCHES[name](cells)
    found = vectors(changed, model, max_length=max_length)[back]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_not_a_bit_depends_on_the_number_of_threads(cells, model, threads):
    before = torch.get_num_threads()
    np.testing.assert_array_equal(
        vectors(cells, model, threads=threads), vectors(cells, model, threads=3 - threads)
    )
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("max_length", [1200, SHORT])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_other_batches_change_rounding_alone(cells, model, batch_size, max_length, monkeypatch):
    expected = vectors(cells, model, max_length=max_length)
    found = vectors(cells, model, max_length=max_length, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)
    monkeypatch.setattr(embedding, "BLOCK_ROWS", 11)
    monkeypatch.setattr(encoder, "CPU_BATCH_NUMBERS", 4000)
    found = vectors(cells, model, max_length=max_length, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def test_other_cells_around_a_cell_change_rounding_alone(cells, model):
    expected = vectors(cells, model, max_length=SHORT)
    for rows in ([5], [5, 9, 30], slice(10, 40)):
        found = vectors(cells[rows].copy(), model, max_length=SHORT)
        np.testing.assert_allclose(found, expected[rows], rtol=0, atol=ROUNDING)
    more = ad.concat([toy_cells(30, seed=9), cells, toy_cells(20, seed=8)])
    more.obs_names_make_unique()
    found = vectors(more, model, max_length=SHORT)[30:90]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def test_equal_cells_in_batches_of_one_shape_get_equal_bits(cells, model):
    # The same 16 cells twice, among different neighbours.
    rows = np.argsort(-np.diff(cells.X.indptr), kind="stable")[:16]
    found = encoder.CellEncoder(model, model.vocab.ids(SYMBOLS))
    tokens = found.tokens(cells.X[rows])
    alone = found.cell_embeddings(tokens)
    order = np.random.default_rng(0).permutation(16)
    with torch.no_grad():
        batch = found.network(*found.inputs(tokens, order), heads=("cell_embedding",))
    np.testing.assert_array_equal(batch["cell_embedding"].numpy(), alone[order])


def test_values_that_are_no_bins_are_refused_before_they_reach_the_network(cells, model):
    found = encoder.CellEncoder(model, model.vocab.ids(SYMBOLS))
    tokens = found.tokens(cells.X[:4])
    wrong = dataclasses.replace(tokens, values=tokens.values + 0.5)
    with pytest.raises(DataError, match="not among the binned values"):
        found.encode(wrong)


def test_long_cells_are_sampled_by_seed_and_content(cells, model):
    lengths = np.diff(cells.X.indptr) + 1
    is_long = lengths > SHORT
    assert 10 < is_long.sum() < 50
    first = vectors(cells, model, max_length=SHORT)
    second = vectors(cells, model, max_length=SHORT, seed=1)
    whole = vectors(cells, model)
    moved = np.abs(first - second).max(axis=1) > 1e-3
    assert moved[is_long].mean() > 0.9
    np.testing.assert_allclose(first[~is_long], second[~is_long], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(first[~is_long], whole[~is_long], rtol=0, atol=ROUNDING)
    done = scgpt.embed(cells, model, copy=True, max_length=SHORT).uns["X_scgpt"]
    assert done["n_cells_sampled"] == is_long.sum()


def test_the_result_stands_where_scanpy_looks_for_it(cells, model, tmp_path):
    own = cells.copy()
    assert scgpt.embed(own, model, key_added="X_mine", seed=4) is None
    assert own.obsm["X_mine"].shape == (60, 32)
    np.testing.assert_allclose(np.linalg.norm(own.obsm["X_mine"], axis=1), 1, atol=1e-6)
    own.write_h5ad(tmp_path / "embedded.h5ad")
    done = ad.read_h5ad(tmp_path / "embedded.h5ad").uns["X_mine"]
    assert done["scgpt_version"] == scgpt.__version__
    assert done["model_digest"] == model.digest()
    assert (done["n_genes"], done["n_genes_matched"], done["seed"]) == (120, 120, 4)
    assert (done["matrix"], done["values"], done["precision"]) == ("X", "counts", "fp32")


def test_copy_leaves_the_input_as_it_is(cells, model):
    own = cells.copy()
    copied = scgpt.embed(own, model, copy=True)
    assert "X_scgpt" in copied.obsm
    assert not own.obsm
    assert not own.uns
    assert (own.X != cells.X).nnz == 0


def test_neither_the_model_nor_the_generators_are_changed(cells, model):
    before = model.digest()
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    vectors(cells, model)
    assert model.digest() == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.model.training


def test_a_folder_will_do_for_a_model(cells, model, tmp_path):
    folder = toy_folder(tmp_path)
    np.testing.assert_array_equal(vectors(cells, folder), vectors(cells, model))


@pytest.mark.parametrize("style", ["avg-pool", "w-pool"])
def test_pooled_embeddings_do_not_depend_on_padding(cells, tmp_path, style):
    toy_folder(tmp_path)
    pooled = scgpt.load_model(tmp_path, cell_embedding=style)
    expected = vectors(cells, pooled, batch_size=1)
    np.testing.assert_allclose(vectors(cells, pooled), expected, rtol=0, atol=ROUNDING)


def test_category_models_take_their_own_padding_value(cells, tmp_path):
    own = toy_model(tmp_path, value_encoding="category", pad_value=51, mask_value=52)
    found = vectors(cells, own)
    np.testing.assert_allclose(vectors(cells, own, batch_size=1), found, rtol=0, atol=ROUNDING)


def test_bf16_is_close_to_single_precision(cells, model):
    found, expected = vectors(cells, model, amp="bf16"), vectors(cells, model)
    cosine = (found * expected).sum(axis=1)
    assert not np.array_equal(found, expected)
    assert cosine.min() > 0.99


def test_a_model_that_diverged_is_reported(cells, tmp_path):
    broken = toy_model(tmp_path)
    with torch.no_grad():
        broken.model.transformer.layers[0].linear_1.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="60 cells got vectors that have no direction"):
        vectors(cells, broken)


def test_progress_goes_to_standard_error_alone(cells, model, capfd):
    vectors(cells, model)
    assert capfd.readouterr() == ("", "")
    vectors(cells, model, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "60/60" in shown.err
