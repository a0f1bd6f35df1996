"""Values a model cannot use are refused in one clear sentence that says how to mend them."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgpt
from scgpt.errors import ConfigError, DataError
from scgpt.library import counts as inputs

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from toy_model import SYMBOLS, toy_cells, toy_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("model"))


def dense(change):
    cells = toy_cells(8)
    cells.X = cells.X.toarray()
    change(cells)
    return cells


def put(value, row=2, column=3):
    def change(cells):
        cells.X[row, column] = value

    return change


def logged(cells):
    cells.X = np.log1p(cells.X / cells.X.sum(axis=1, keepdims=True) * 1e4)


def scaled(cells):
    cells.X = (cells.X - cells.X.mean(axis=0)) / (cells.X.std(axis=0) + 1)


def normalised(cells):
    cells.X = cells.X / cells.X.sum(axis=1, keepdims=True) * 1e4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (put(np.nan), "X has NaN or infinite values, first in cell 'cell002'; remove or correct"),
        (put(np.inf), "X has NaN or infinite values, first in cell 'cell002'"),
        (put(-1), "X has negative values, first in cell 'cell002'; scaled or corrected data"),
        (scaled, "X has negative values"),
        (logged, "so they look log-normalised, but raw counts are expected.*values='lognorm'"),
        (normalised, "so they look normalised or estimated, but raw counts are expected"),
    ],
)
def test_values_of_the_wrong_kind(model, change, complaint):
    with pytest.raises(DataError, match=complaint):
        scgpt.embed(dense(change), model)


def test_other_matrices_are_offered(model):
    cells = dense(logged)
    cells.layers["counts"] = toy_cells(8).X
    cells.raw = toy_cells(8)
    with pytest.raises(DataError, match=r"other matrices here: layer=counts, raw"):
        scgpt.embed(cells, model)
    scgpt.embed(cells, model, layer="counts")
    from_layer = cells.obsm["X_scgpt"].copy()
    scgpt.embed(cells, model, layer="raw")
    np.testing.assert_array_equal(from_layer, cells.obsm["X_scgpt"])


def test_raw_has_genes_of_its_own(model):
    cells = toy_cells(8)
    expected = scgpt.embed(cells, model, copy=True).obsm["X_scgpt"]
    cells.raw = cells.copy()
    few = cells[:, :20].copy()
    scgpt.embed(few, model, layer="raw")
    np.testing.assert_array_equal(few.obsm["X_scgpt"], expected)


def test_counts_said_to_be_normalised_are_refused(model):
    with pytest.raises(DataError, match="whole numbers .* look like counts.*pass values='counts'"):
        scgpt.embed(toy_cells(8), model, values="lognorm")
    with pytest.raises(DataError, match="'raw', expected 'counts' or 'lognorm'"):
        scgpt.embed(toy_cells(8), model, values="raw")


@pytest.mark.parametrize("change", [logged, normalised])
def test_normalised_values_give_the_vectors_of_the_counts(model, change):
    # Only ranks within a cell reach the model, and neither rule changes ranks.
    counts, other = toy_cells(8), dense(change)
    scgpt.embed(counts, model)
    scgpt.embed(other, model, values="lognorm")
    np.testing.assert_array_equal(other.obsm["X_scgpt"], counts.obsm["X_scgpt"])


def test_cells_without_any_known_gene_are_named(model):
    cells = toy_cells(40)
    cells.X = cells.X.toarray()
    cells.X[[3, 17]] = 0
    with pytest.raises(
        DataError, match="2 of 40 cells express none of the 120 genes .*cell003, cell017; leave"
    ):
        scgpt.embed(cells, model)


def test_cells_that_express_only_unknown_genes_are_named(model):
    cells = toy_cells(5)
    counts = sparse.hstack([cells.X, np.zeros((5, 2))]).toarray()
    counts[4], counts[4, -1] = 0, 50
    var = pd.DataFrame(index=[*SYMBOLS, "unknown1", "unknown2"])
    with pytest.raises(DataError, match="1 of 5 cells express none"):
        scgpt.embed(ad.AnnData(counts, obs=cells.obs, var=var), model)


def test_unnamed_novel_genes_do_not_matter_until_they_hold_much_of_the_counts(model):
    def with_novel(counts_per_cell):
        cells = toy_cells(6)
        novel = np.full((6, 40), counts_per_cell / 40)
        var = pd.DataFrame(index=[*SYMBOLS, *(f"ENSG{i:011d}" for i in range(40))])
        return ad.AnnData(np.hstack([cells.X.toarray(), novel]), var=var)

    few = with_novel(0)
    few.X[:, -1] = 1
    scgpt.embed(few, model)
    with pytest.raises(DataError, match=r"mixed: 120 gene symbols and 40 .*\d\d% of all values"):
        scgpt.embed(with_novel(400), model)


def test_ensembl_ids_of_which_many_counts_have_no_symbol_are_no_mixture(model):
    # The user has said with min_matched that so few genes are meant.
    cells = toy_cells(6)
    cells.var_names = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
    symbols = dict(zip(cells.var_names[:40], SYMBOLS[:40], strict=True))
    scgpt.embed(cells, model, gene_symbols=symbols, min_matched=0.3)
    assert cells.uns["X_scgpt"]["n_genes_matched"] == 40


def test_sums_of_logarithms_are_refused(model):
    cells = dense(logged)
    cells.var_names = [*SYMBOLS[:-1], SYMBOLS[0]]
    with pytest.raises(DataError, match="belong to more than one gene"):
        scgpt.embed(cells, model, values="lognorm")
    with pytest.raises(DataError, match="sums of logarithms"):
        scgpt.embed(cells, model, values="lognorm", duplicates="sum")


def test_duplicates_are_added_up_as_if_they_were_one_gene(model):
    cells = toy_cells(12)
    expected = scgpt.embed(cells, model, copy=True).obsm["X_scgpt"]
    first = np.minimum(cells.X[:, 5].toarray(), 1)
    rest = cells.X[:, 5].toarray() - first
    counts = np.hstack([cells.X.toarray(), rest])
    counts[:, 5] = first[:, 0]
    split = ad.AnnData(counts, var=pd.DataFrame(index=[*SYMBOLS, SYMBOLS[5]]))
    scgpt.embed(split, model, duplicates="sum")
    np.testing.assert_array_equal(split.obsm["X_scgpt"], expected)


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"layer": "counts"}, DataError, "no layer 'counts'; there are: none, and X"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"max_length": 1}, ConfigError, "max_length 1"),
        ({"amp": "fp8"}, ConfigError, "amp is 'fp8'"),
        ({"amp": "fp16"}, ConfigError, "needs a GPU"),
        ({"device": "tpu9"}, ConfigError, "'tpu9' is unknown"),
    ],
)
def test_wrong_options(model, options, error, complaint):
    with pytest.raises(error, match=complaint):
        scgpt.embed(toy_cells(4), model, **options)


def test_what_is_no_anndata_with_numbers(model, tmp_path):
    with pytest.raises(DataError, match=r"expected an AnnData, found PosixPath.*embed_file"):
        scgpt.embed(tmp_path, model)
    with pytest.raises(DataError, match=r"adata\.X is empty"):
        scgpt.embed(ad.AnnData(var=pd.DataFrame(index=SYMBOLS)), model)
    with pytest.raises(DataError, match="X has no cells"):
        scgpt.embed(toy_cells(4)[:0].copy(), model)
    with pytest.raises(ConfigError, match="the model is a int"):
        scgpt.embed(toy_cells(4), 3)
    toy_cells(4).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match="backed by a file"):
        scgpt.embed(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), model)


def test_values_are_checked_in_every_block(model, monkeypatch):
    monkeypatch.setattr(inputs, "SCAN_ROWS", 3)
    with pytest.raises(DataError, match="first in cell 'cell007'"):
        scgpt.embed(dense(put(np.nan, row=7)), model)
    with pytest.raises(DataError, match="1 values that are not whole numbers"):
        scgpt.embed(dense(put(0.5, row=1)), model)
    with pytest.raises(DataError, match="1 of 8 cells.*cell004"):
        scgpt.embed(dense(lambda cells: cells.X.__setitem__(4, 0)), model)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"input_norm": "dsbn", "n_batch_labels": 2, "generative": False}, "statistics of each"),
        ({"n_perturbation_flags": 3, "generative": False}, "perturbation flags"),
    ],
)
def test_models_that_need_more_than_genes_and_values(tmp_path, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        scgpt.embed(toy_cells(4), toy_model(tmp_path, **options))
