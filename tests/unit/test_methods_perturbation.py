from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from scgpt.data import contracts
from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import MethodContext, parse_params
from scgpt.methods.baselines.perturbation import (
    Additive,
    LinearModel,
    NoChange,
    TechnicalDuplicate,
    TrainingMean,
)
from scgpt.methods.perturbation_data import box_statistics
from scgpt.metrics.registry import compute, metrics_of

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from toy_perturbation import scoring_arrays, task_data

BASELINES = [NoChange, TrainingMean, Additive, LinearModel]
METHODS = [*BASELINES, TechnicalDuplicate]
METRICS = {
    entry.name: entry for entry in metrics_of(["scgpt.metrics.perturbation"], "perturbation")
}


@pytest.fixture(scope="module")
def toy():
    return task_data()


def answered(kind, data, params=None, **context):
    """Fit and predict; return prediction and method."""
    method = kind(parse_params(kind, params or {}), MethodContext(**{"seed": 0, **context}))
    method.fit(data)
    return method.predict(data), method


def mean_of(data, condition):
    rows = (data.obs["condition"] == condition).to_numpy()
    return data.layers["lognorm"][rows].toarray().astype(np.float64).mean(axis=0)


def score(prediction, truth, name, group=""):
    rows = compute(METRICS[name], scoring_arrays(prediction, truth))
    return next(row for row in rows if row["group"] == group)


@pytest.mark.parametrize("kind", METHODS)
def test_schema_order_and_input(kind, toy):
    data, truth = toy
    given, truth_given = data.copy(), truth.copy()
    prediction, _ = answered(kind, given, truth=truth_given)
    schema = contracts.PERTURBATION_PREDICTION
    keys = dict.fromkeys(schema.keys, "toy")
    contracts.check(contracts.stamp(prediction.copy(), schema, **keys), schema)
    assert list(prediction.obs_names) == list(data.uns["queries"])
    assert list(prediction.var_names) == list(data.var_names)
    assert np.array_equal(given.layers["lognorm"].toarray(), data.layers["lognorm"].toarray())
    assert given.obs.equals(data.obs)
    assert np.array_equal(truth_given.layers["other_half"], truth.layers["other_half"])

    rng = np.random.default_rng(3)
    shuffled = data[rng.permutation(data.n_obs)][:, rng.permutation(data.n_vars)].copy()
    shuffled.uns["queries"] = rng.permutation(data.uns["queries"])
    other = answered(kind, shuffled, truth=truth)[0]
    assert list(other.obs_names) == list(shuffled.uns["queries"])
    again = other[prediction.obs_names, prediction.var_names].X
    assert np.array_equal(prediction.X, again)


def test_no_change_and_training_mean_are_means(toy):
    data, _ = toy
    control = answered(NoChange, data)[0]
    assert np.allclose(control.X, mean_of(data, "control"), atol=1e-6)
    train = data.obs.loc[data.obs["split"] == "train", "condition"].unique()
    centroid = np.mean([mean_of(data, name) for name in train if name != "control"], axis=0)
    mean = answered(TrainingMean, data)[0]
    assert np.allclose(mean.X, centroid, atol=1e-6)


def test_a_condition_weighs_the_same_with_one_cell():
    data, _ = task_data(one_cell=True)
    conditions = set(data.obs.loc[data.obs["split"] == "train", "condition"]) - {"control"}
    assert (data.obs["condition"] == "P1").sum() == 1
    centroid = np.mean([mean_of(data, name) for name in conditions], axis=0)
    assert np.allclose(answered(TrainingMean, data)[0].X, centroid, atol=1e-6)


def test_additive_adds_changes_and_says_where_it_guessed(toy):
    data, _ = toy
    prediction, method = answered(Additive, data)
    control, one, two = (mean_of(data, name) for name in ("control", "P0", "P1"))
    assert np.allclose(prediction["P0+P1"].X[0], one + two - control, atol=1e-5)
    mean = answered(TrainingMean, data)[0]
    assert np.allclose(prediction["P6"].X, mean["P6"].X, atol=1e-6)
    expected = one + np.asarray(mean["P6"].X[0]) - control
    assert np.allclose(prediction["P0+P6"].X[0], expected, atol=1e-5)
    assert len(method.notes) == 1
    assert method.notes[0].startswith("4 of 6 queried conditions hold a gene never seen perturbed")
    assert "P6" in method.notes[0]
    # P5 was perturbed in validation cells only; nothing is selected, so it counts as seen.
    data = data.copy()
    data.uns["queries"] = np.array(["P0+P5"])
    prediction, method = answered(Additive, data)
    assert np.allclose(prediction.X[0], one + mean_of(data, "P5") - control, atol=1e-5)
    assert method.notes == []


def test_linear_model_is_the_published_formula(toy):
    data, _ = toy
    prediction, method = answered(LinearModel, data, {"n_components": 3, "ridge": 0.1})
    names = [str(name) for name in sorted(data.obs["condition"].unique()) if name != "control"]
    control = mean_of(data, "control")
    profiles = np.array([control, *(mean_of(data, name) for name in names)]).T
    changes = profiles - control[:, None]
    centred = profiles - profiles.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    genes = centred @ vectors[:, ::-1][:, :3]
    row = {gene: genes[i] for i, gene in enumerate(data.var_names)}
    embed = [np.zeros(3), *(sum(row[gene] for gene in name.split("+")) for name in names)]
    embed = np.array(embed)
    offset = changes.mean(axis=1)
    ridge = 0.1 * np.eye(3)
    inner = np.linalg.inv(genes.T @ genes + ridge) @ genes.T @ (changes - offset[:, None])
    weights = inner @ embed @ np.linalg.inv(embed.T @ embed + ridge)
    for query in data.uns["queries"]:
        asked = sum(row[gene] for gene in query.split("+"))
        expected = control + genes @ weights @ asked + offset
        assert np.allclose(prediction[query].X[0], expected, atol=1e-4), query
    assert method.notes == []


def test_linear_model_adds_nothing_for_an_unmeasured_gene():
    data, _ = task_data(unmeasured=True)
    prediction, method = answered(LinearModel, data)
    names = sorted(set(data.obs["condition"]))
    # Control counts as a condition without change.
    expected = np.mean([mean_of(data, name) for name in names], axis=0)
    assert np.allclose(prediction["U1"].X[0], expected, atol=1e-5)
    assert not np.allclose(prediction["P0+U0"].X[0], expected, atol=1e-2)
    what = "hold a perturbed gene that is not measured and has no embedding: it adds nothing"
    assert method.notes == [
        f"2 of 8 queried conditions {what}: U1, P0+U0",
        f"1 of 9 training conditions {what}: U0",
    ]


def test_the_duplicate_is_the_other_half_and_needs_the_truth(toy):
    data, truth = toy
    prediction = answered(TechnicalDuplicate, data, truth=truth)[0]
    expected = truth[prediction.obs_names, prediction.var_names].layers["other_half"]
    assert np.array_equal(prediction.X, expected)
    with pytest.raises(ConfigError, match="positive_control"):
        answered(TechnicalDuplicate, data)
    with pytest.raises(DataError, match="1 of 6 conditions are not in the truth"):
        answered(TechnicalDuplicate, data, truth=truth[1:])


def test_additive_is_best_where_effects_add_up(toy):
    data, truth = toy
    for name in ("pearson_delta", "pearson_centroid", "discrimination_l2"):
        additive, mean, none = (
            score(answered(kind, data)[0], truth, name, "combo_seen2")["value"]
            for kind in (Additive, TrainingMean, NoChange)
        )
        assert additive > 0.85
        assert additive > max(mean, none) + 0.1, (name, additive, mean, none)


def change(data, **changes):
    data = data.copy()
    for slot, value in changes.items():
        if slot == "queries":
            data.uns["queries"] = np.array(value, dtype=object)
        else:
            data.obs[slot] = value
    return data


def test_odd_task_data_is_refused_in_words(toy):
    data, _ = toy
    no_control = data[data.obs["condition"] != "control"].copy()
    only_control = data[data.obs["condition"] == "control"].copy()
    missing = data.copy()
    missing.obs["condition"] = missing.obs["condition"].where(np.arange(data.n_obs) > 3)
    cases = [
        (no_control, "no control cell"),
        (only_control, "no perturbed cell"),
        (missing, "4 of .* cells have no condition"),
        (change(data, queries=["P0"]), r"have cells in these data, e.g. \['P0'\]"),
        (change(data, queries=["P6", "P6"]), "each once"),
        (change(data, queries=[]), "expected perturbed conditions"),
    ]
    for given, words in cases:
        with pytest.raises(DataError, match=words):
            answered(NoChange, given)
    without = data.copy()
    del without.uns["queries"]
    with pytest.raises(DataError, match="queries"):
        answered(NoChange, without)


def test_box_statistics_by_hand():
    values = np.array([[0.0], [10], [11], [12], [13], [14], [40]])
    found = {name: values[0] for name, values in box_statistics(values).items()}
    assert found == {"low": 10, "q1": 10.5, "median": 12, "q3": 13.5, "high": 14}
    one = box_statistics(np.array([[3.0, 4.0]]))
    assert all(values.tolist() == [3, 4] for values in one.values())
