"""Perturbation: what is divided and hidden, and the stated rule for odd conditions."""

from __future__ import annotations

import itertools

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt.data import contracts
from scgpt.data.conditions import five_numbers
from scgpt.errors import ConfigError, ContractError, DataError
from scgpt.methods.predictions import perturbation_prediction
from scgpt.metrics import perturbation as metrics
from scgpt.tasks import perturbation

KEYS = {"scale": "tiny", "task": "perturbation", "dataset": "toy", "split": "split_1"}
GENES = [f"P{i:02d}" for i in range(16)]


def dataset(*, n_cells=12, pairs=True, unmeasured=(), sizes=None, seed=0):
    rng = np.random.default_rng(seed)
    names = ["control", *GENES]
    if pairs:
        names += ["+".join(pair) for pair in itertools.combinations(GENES[:8], 2)]
    sizes = dict.fromkeys(names, n_cells) | {"control": 40} | (sizes or {})
    conditions = np.repeat(names, [sizes[name] for name in names])
    measured = [name for name in [*GENES, *(f"X{i}" for i in range(30))] if name not in unmeasured]
    values = rng.gamma(2, 0.5, (len(conditions), len(measured)))
    for row, name in enumerate(conditions):
        for gene in name.split("+"):
            values[row, [j for j, m in enumerate(measured) if m == gene]] += 2
            values[row, (sum(map(ord, gene)) * 7) % len(measured)] += 1
    obs = pd.DataFrame({"condition": pd.Categorical(conditions)})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame({"gene_id": measured}, index=measured)
    var["feature_type"] = pd.Categorical(["gene"] * len(measured))
    adata = ad.AnnData(sparse.csr_matrix(values.astype(np.float32)), obs=obs, var=var)
    return contracts.stamp(adata, contracts.DATASET, dataset="toy", value_kind="lognorm")


def prepared(source, *, seed=1, **params):
    return perturbation.prepare(source, perturbation.Params(n_pcs=5, **params), seed=seed)


def test_files_pass_their_contracts_and_test_cells_are_gone():
    source = dataset()
    data, truth = prepared(source)
    contracts.stamp(data, contracts.TASK_DATA, **KEYS, value_kind="lognorm")
    contracts.check(data, contracts.TASK_DATA)
    contracts.check(contracts.stamp(truth, perturbation.TRUTH, **KEYS), perturbation.TRUTH)
    queries = list(data.uns["queries"])
    assert queries == list(truth.obs_names)
    seen = set(data.obs["condition"].astype(str))
    assert not seen & set(queries)
    assert seen | set(queries) == set(source.obs["condition"].astype(str))
    assert set(data.obs.loc[data.obs["condition"] == "control", "split"]) == {"train"}
    assert {"unseen_single", "combo_seen1", "combo_seen2"} <= set(truth.obs["subgroup"])


def test_what_changes_in_the_test_is_not_in_the_data():
    source = dataset()
    source.uns["changed_genes"] = pd.DataFrame({"1": "X1"}, index=["P00"])
    data, _ = prepared(source)
    assert set(data.uns) == {"scgpt", "queries"}


def test_halves_means_and_centroid():
    source = dataset()
    data, truth = prepared(source)
    values = source.X.toarray().astype(float)
    conditions = source.obs["condition"].astype(str).to_numpy()
    name = truth.obs_names[0]
    whole = values[conditions == name].mean(axis=0)
    halves = (np.asarray(truth.X[0]) + truth.layers["other_half"][0]) / 2
    assert np.allclose(halves, whole, atol=1e-5)  # 12 cells: equal halves
    assert not np.allclose(truth.X[0], truth.layers["other_half"][0], atol=1e-3)
    assert np.allclose(truth.var["control_mean"], values[conditions == "control"].mean(axis=0))
    train = data.obs.loc[data.obs["split"] == "train", "condition"].astype(str).unique()
    means = [values[conditions == n].mean(axis=0) for n in train if n != "control"]
    assert np.allclose(truth.var["training_centroid"], np.mean(means, axis=0))
    assert np.array_equal(
        truth.layers["box_median"][0],
        np.median(values[conditions == name], axis=0).astype(np.float32),
    )


def test_the_changed_genes_of_the_file_are_used_where_it_has_them():
    source = dataset()
    _, truth = prepared(source)
    first = truth.obs_names[0]
    own = truth.layers["de_rank"][0]
    assert sorted(own[own > 0]) == list(range(1, 21))
    genes = [f"X{i}" for i in range(20)]
    source.uns["changed_genes"] = pd.DataFrame([genes], index=[first], columns=map(str, range(20)))
    _, published = prepared(source)
    ranks = published.layers["de_rank"][0]
    assert [published.var_names[np.flatnonzero(ranks == r)[0]] for r in range(1, 21)] == genes
    assert np.array_equal(published.layers["de_rank"][1], truth.layers["de_rank"][1])


def test_the_spelling_of_the_source_decides_the_division():
    source = dataset()
    plain, _ = prepared(source)
    names = [n for n in source.obs["condition"].astype(str).unique() if n != "control"]
    reverse = {n: "+".join(n.split("+")[::-1]) if "+" in n else f"ctrl+{n}" for n in names}
    source.uns["written_conditions"] = pd.DataFrame({"written": reverse})
    respelled, _ = prepared(source)
    assert set(plain.uns["queries"]) != set(respelled.uns["queries"])
    singles = [{q for q in d.uns["queries"] if "+" not in q} for d in (plain, respelled)]
    assert singles[0] == singles[1]  # genes are drawn by name alone


def test_a_condition_with_one_cell_is_not_scored_and_named():
    _, truth = prepared(dataset())
    small = truth.obs_names[1]
    _, found = prepared(dataset(sizes={small: 1}))
    assert small not in found.obs_names
    assert any(f"{small}: 1" in note and "not scored" in note for note in found.uns["notes"])


@pytest.mark.parametrize(
    ("n_cells", "other_half", "n_scored"), [(2, 0.5, 1), (3, 0.5, 2), (2, 0.1, 1)]
)
def test_the_scored_part_is_never_the_smaller_one(n_cells, other_half, n_scored):
    _, truth = prepared(dataset())
    small = truth.obs_names[1]
    _, truth = prepared(dataset(sizes={small: n_cells}), other_half=other_half)
    row = truth.obs.loc[small]
    assert (row["n_cells"], row["n_cells_scored"]) == (n_cells, n_scored)
    arrays = perturbation.scoring_arrays(truth, truth)
    asked = ("predicted", "observed", "control", "subgroups", "cells_per_condition")
    note = metrics.pearson_delta(**{name: arrays[name] for name in asked})[""].note
    assert ("conditions measured on a single cell" in note) == (n_scored == 1)


def test_a_training_condition_with_one_cell_is_kept_and_named():
    data, _ = prepared(dataset())
    conditions = data.obs.loc[data.obs["split"] == "train", "condition"].astype(str)
    name = next(n for n in conditions if n != "control")
    again, truth = prepared(dataset(sizes={name: 1}))
    assert (again.obs["condition"] == name).sum() == 1
    assert any(name in note and "one cell" in note for note in truth.uns["notes"])


def test_unmeasured_genes_are_named():
    _, truth = prepared(dataset())
    gene = truth.obs_names[truth.obs["subgroup"] == "unseen_single"][0]
    data, truth = prepared(dataset(unmeasured=(gene,)))
    assert any(gene in note for note in perturbation.describe(data, truth)["notes"])


def test_no_control_or_nothing_to_test_is_one_clear_error():
    source = dataset()
    with pytest.raises(DataError, match="needs control cells, found 0"):
        prepared(source[source.obs["condition"] != "control"].copy())
    few = source[source.obs["condition"].isin(["control", "P01"])].copy()
    with pytest.raises(DataError, match="left for training"):
        prepared(few)


def test_chosen_pairs_keep_their_singles_in_training():
    data, truth = prepared(dataset(), test=["pairs_seen"])
    assert set(truth.obs["subgroup"]) == {"combo_seen2"}
    assert len(truth) == 28
    train = set(data.obs.loc[data.obs["split"] == "train", "condition"].astype(str))
    assert set(GENES[:8]) <= train
    assert (data.obs["split"] == "valid").any()
    with pytest.raises(DataError, match="are not in the data"):
        prepared(dataset(), test=["P00+P99"])


def test_a_screen_without_pairs_has_no_such_subgroup():
    data, truth = prepared(dataset(pairs=False))
    assert set(truth.obs["subgroup"]) == {"unseen_single"}
    assert "0 combo seen2" in perturbation.describe(data, truth)["notes"][0]


def test_the_digest_tells_divisions_apart():
    source = dataset()
    first = perturbation.describe(*prepared(source))
    assert first["split_sha256"] == perturbation.describe(*prepared(source))["split_sha256"]
    other = perturbation.describe(*prepared(source, seed=2))
    assert other["split_sha256"] != first["split_sha256"]
    assert sorted(first["conditions"]["test"]) == sorted(first["subgroups"])


def test_scoring_matches_conditions_and_genes_by_name():
    _data, truth = prepared(dataset())
    rng = np.random.default_rng(0)
    values = rng.random((truth.n_obs, truth.n_vars)).astype(np.float32)
    prediction = perturbation_prediction(truth.obs_names, truth.var_names, values)
    rows, columns = rng.permutation(truth.n_obs), rng.permutation(truth.n_vars)
    arrays = perturbation.scoring_arrays(prediction[rows][:, columns].copy(), truth)
    assert np.allclose(arrays["predicted"], values)
    with pytest.raises(ContractError, match="condition once"):
        perturbation.scoring_arrays(prediction[1:].copy(), truth)
    with pytest.raises(ContractError, match="genes"):
        perturbation.scoring_arrays(prediction[:, 1:].copy(), truth)


def test_the_table_of_changes():
    data, truth = prepared(dataset())
    prediction = perturbation_prediction(truth.obs_names, truth.var_names, np.asarray(truth.X))
    options = {"max_cells": 10, "seed": 0}
    table = perturbation.coordinates(data, truth, prediction, table="changes", **options)
    assert len(table) == truth.n_obs * 20 * 2
    one = table[table["condition"] == truth.obs_names[0]]
    assert list(one["rank"]) == list(np.repeat(np.arange(1, 21), 2))
    predicted = one[one["kind"] == "predicted"]
    assert np.allclose(predicted["low"], predicted["mean"])  # means only: a line
    with pytest.raises(ConfigError, match="'changes'"):
        perturbation.coordinates(data, truth, prediction, table="cells", **options)


def test_five_numbers_are_those_of_a_box_plot():
    from matplotlib.cbook import boxplot_stats

    values = np.random.default_rng(0).exponential(size=(50, 4))
    found = five_numbers(values)
    for column, stats in enumerate(boxplot_stats(values)):
        names = ("whislo", "q1", "med", "q3", "whishi")
        assert np.allclose(found[:, column], [stats[name] for name in names])


def test_a_published_ranking_with_genes_that_are_gone_is_made_anew():
    source = dataset()
    _, own = prepared(source)
    first = own.obs_names[0]
    gone = ["gone", *(f"X{i}" for i in range(19))]
    source.uns["changed_genes"] = pd.DataFrame([gone], index=[first], columns=map(str, range(20)))
    _, truth = prepared(source)
    assert np.array_equal(truth.layers["de_rank"], own.layers["de_rank"])
