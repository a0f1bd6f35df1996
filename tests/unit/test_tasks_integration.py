"""Integration: what is hidden, and the stated rule for every odd set of batches."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt.data import contracts
from scgpt.errors import ConfigError, ContractError, DataError
from scgpt.methods.predictions import embedding_prediction
from scgpt.metrics.registry import compute, metrics_of
from scgpt.tasks import integration

KEYS = {"scale": "tiny", "task": "integration", "dataset": "toy", "split": "split_1"}


def dataset(sizes=(80, 60), *, types=("A", "B", "C"), n_genes=80, seed=0, value_kind="counts"):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    kinds = np.arange(n) % len(types)
    rates = np.exp(rng.normal(0, 0.5, (len(types), n_genes)))
    counts = rng.poisson(3 * rates[kinds]).astype(np.float32)
    values = counts if value_kind == "counts" else np.log1p(counts / 3)
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(np.repeat([f"b{i}" for i in range(len(sizes))], sizes)),
            "cell_type": pd.Categorical(np.array(types)[kinds]),
        },
        index=[f"c{i}" for i in rng.permutation(n)],
    )
    var = pd.DataFrame({"gene_id": [f"E{i}" for i in range(n_genes)]})
    var.index = [f"G{i}" for i in range(n_genes)]
    var["feature_type"] = pd.Categorical(["gene"] * n_genes)
    adata = ad.AnnData(sparse.csr_matrix(values.astype(np.float32)), obs=obs, var=var)
    return contracts.stamp(adata, contracts.DATASET, dataset="toy", value_kind=value_kind)


def prepared(source, **params):
    params = integration.Params(n_highly_variable=40, n_pcs=10, **params)
    return integration.prepare(source, params, seed=1)


@pytest.mark.parametrize("value_kind", ["counts", "lognorm"])
def test_files_pass_their_contracts_and_types_are_hidden(value_kind):
    source = dataset(value_kind=value_kind)
    data, truth = prepared(source)
    contracts.stamp(data, contracts.TASK_DATA, **KEYS, value_kind=value_kind)
    contracts.check(data, contracts.TASK_DATA)
    contracts.check(contracts.stamp(truth, integration.TRUTH, **KEYS), integration.TRUTH)
    assert "cell_type" not in data.obs
    assert "cell_type" in source.obs
    assert data.var["highly_variable"].sum() == 40
    assert (data.obs["split"] == "valid").sum() == 14
    assert truth.obs["cell_type"].equals(source.obs["cell_type"])
    sizes = integration.describe(data, truth)["sizes"]
    assert sizes == {"train": 126, "valid": 14}


def test_the_division_follows_the_seed_and_not_the_order():
    source = dataset()
    first, _ = prepared(source)
    again, _ = prepared(source[::-1].copy())
    assert (
        again.obs["split"]
        .astype(str)
        .equals(first.obs["split"].astype(str).reindex(again.obs_names))
    )
    params = integration.Params(n_highly_variable=40, n_pcs=10)
    other, _ = integration.prepare(source, params, seed=2)
    assert not other.obs["split"].equals(first.obs["split"])


def test_rare_genes_are_left_out():
    source = dataset()
    values = source.X.toarray()
    values[:, 0] = 0
    values[3, 0] = 2
    source.X = sparse.csr_matrix(values)
    data, _ = prepared(source)
    assert "G0" not in data.var_names
    assert data.n_vars == source.n_vars - 1


@pytest.mark.parametrize("missing", ["batch", "cell_type"])
def test_a_missing_column_is_named(missing):
    source = dataset()
    del source.obs[missing]
    with pytest.raises(DataError, match=rf"needs obs\['{missing}'\]"):
        prepared(source)


def scores(source, embedding=None):
    data, truth = prepared(source)
    rng = np.random.default_rng(0)
    values = data.obsm["X_pca"] if embedding is None else embedding
    prediction = embedding_prediction(
        data, data.obs_names, values + rng.normal(0, 1e-6, values.shape)
    )
    arrays = integration.scoring_arrays(prediction[::-1].copy(), truth)
    found = [
        row
        for metric in metrics_of(["scgpt.metrics.integration"], "integration")
        for row in compute(metric, arrays)
    ]
    return {row["metric"]: row for row in found}, truth


def test_one_batch_has_biology_but_no_mixing():
    found, truth = scores(dataset(sizes=(120,)))
    for name in ("nmi", "ari", "asw_label", "avg_bio", "graph_connectivity"):
        assert np.isfinite(found[name]["value"])
    for name in ("asw_batch", "avg_batch", "overall"):
        assert found[name]["value"] is None
        assert "batch" in found[name]["note"]
    assert any("nothing to integrate" in note for note in truth.uns["notes"])


def test_a_batch_of_three_cells_takes_no_part_in_choosing_genes():
    found, truth = scores(dataset(sizes=(90, 60, 3)))
    note = next(note for note in truth.uns["notes"] if "fewer than 20 cells" in note)
    assert "(b2)" in note
    assert all(row["value"] is not None for row in found.values())


def test_a_type_in_one_batch_only_is_named():
    source = dataset(sizes=(80, 60))
    labels = source.obs["cell_type"].astype(str)
    labels[(source.obs["batch"] == "b0") & (np.arange(140) % 7 == 0)] = "lonely"
    source.obs["cell_type"] = labels.astype("category")
    found, _ = scores(source)
    assert "lonely" in found["asw_batch"]["note"]
    assert found["asw_batch"]["value"] is not None


def test_predictions_are_matched_by_name_and_must_be_complete():
    data, truth = prepared(dataset())
    prediction = embedding_prediction(data, data.obs_names, data.obsm["X_pca"])
    shuffled = prediction[np.random.default_rng(0).permutation(data.n_obs)].copy()
    first = integration.scoring_arrays(prediction, truth)["embedding"]
    assert np.array_equal(first, integration.scoring_arrays(shuffled, truth)["embedding"])
    with pytest.raises(ContractError, match="1 are missing"):
        integration.scoring_arrays(prediction[1:].copy(), truth)


def test_the_table_of_cells_has_what_figures_colour_by():
    data, truth = prepared(dataset())
    prediction = embedding_prediction(data, data.obs_names, data.obsm["X_pca"])
    options = {"max_cells": 10, "seed": 0}
    table = integration.coordinates(data, truth, prediction, table="cells", **options)
    assert list(table) == ["cell", "x", "y", "cell_type", "batch"]
    assert len(table) == data.n_obs
    with pytest.raises(ConfigError, match="'cells'"):
        integration.coordinates(data, truth, prediction, table="changes", **options)
