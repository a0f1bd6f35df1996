"""Controls, logistic regression and k nearest neighbours on data with a known answer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import MethodContext, load_method, parse_params
from scgpt.methods.baselines.knn import vote
from scgpt.methods.task_data import uniform_by_name

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from toy_annotation import accuracy, task_data

CONTROLS = "scgpt.methods.controls.annotation"
REGRESSION = "scgpt.methods.baselines.logistic_regression:LogisticRegression"
NEIGHBORS = "scgpt.methods.baselines.knn:KNearestNeighbors"


def predict(entry_point, data, *, truth=None, seed=0, **params):
    found = load_method(entry_point)
    method = found(parse_params(found, params), MethodContext(seed=seed, truth=truth))
    method.fit(data)
    return method.predict(data), method


def test_majority_answers_the_most_frequent_training_type():
    data, truth = task_data()
    prediction, _ = predict(f"{CONTROLS}:MajorityVote", data)
    labels = data.obs["cell_type"][data.obs["split"] == "train"]
    assert set(prediction.obs["cell_type_pred"]) == {"T"}
    assert prediction.obs["confidence"].iloc[0] == pytest.approx((labels == "T").mean())
    assert accuracy(prediction, truth) == pytest.approx((truth.obs["cell_type"] == "T").mean())


def test_majority_breaks_a_tie_by_name():
    data, _ = task_data(16)
    data.obs["split"] = pd.Categorical(["train"] * 4 + ["test"] * 12)
    data.obs["cell_type"] = pd.Categorical(["T", "B", "T", "B"] + [np.nan] * 12)
    prediction, _ = predict(f"{CONTROLS}:MajorityVote", data)
    assert set(prediction.obs["cell_type_pred"]) == {"B"}


def test_shuffled_labels_have_the_training_frequencies_and_know_nothing():
    data, truth = task_data(8000, 20)
    prediction, _ = predict(f"{CONTROLS}:ShuffledLabels", data)
    train = data.obs["cell_type"][data.obs["split"] == "train"].astype(str).value_counts(True)
    found = prediction.obs["cell_type_pred"].astype(str).value_counts(True)
    assert np.allclose(found[train.index], train, atol=0.03)
    by_chance = (train**2).sum()
    assert accuracy(prediction, truth) == pytest.approx(by_chance, abs=0.03)


def test_shuffled_labels_depend_on_seed_and_cell_name_only():
    data, _ = task_data()
    first, _ = predict(f"{CONTROLS}:ShuffledLabels", data)
    other, _ = predict(f"{CONTROLS}:ShuffledLabels", data, seed=1)
    assert (first.obs["cell_type_pred"] != other.obs["cell_type_pred"]).any()
    half = data[data.obs["split"].isin(["train"]) | (np.arange(data.n_obs) % 2 == 0)]
    fewer, _ = predict(f"{CONTROLS}:ShuffledLabels", half)
    assert 0 < fewer.n_obs < first.n_obs
    assert (first[fewer.obs_names].obs["cell_type_pred"] == fewer.obs["cell_type_pred"]).all()


def test_uniform_numbers_are_uniform():
    draws = np.array([uniform_by_name(0, f"cell{i}") for i in range(4000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.allclose(np.histogram(draws, 10, (0, 1))[0] / 4000, 0.1, atol=0.02)


def test_true_labels_repeat_the_truth_and_nothing_else():
    data, truth = task_data()
    prediction, _ = predict(f"{CONTROLS}:TrueLabels", data, truth=truth)
    assert accuracy(prediction, truth) == 1.0
    with pytest.raises(ConfigError, match="positive_control"):
        predict(f"{CONTROLS}:TrueLabels", data)
    with pytest.raises(DataError, match="not in the truth"):
        predict(f"{CONTROLS}:TrueLabels", data, truth=truth[1:].copy())


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"penalty": "l2"},
        {"scale": "max_abs"},
        {"penalty": "l2", "C_grid": [0.001, 1.0]},
        {"genes": "all"},
    ],
)
def test_regression_recovers_separable_types(params):
    data, truth = task_data(depth=3.0)
    prediction, method = predict(REGRESSION, data, **params)
    assert accuracy(prediction, truth) > 0.95
    assert prediction.obs["confidence"].between(0.25, 1).all()
    assert [r["value"] for r in method.history if r["objective"] == "converged"] == [1.0] * len(
        params.get("C_grid", [1])
    )


def test_l1_uses_fewer_genes_than_l2():
    data, _ = task_data()
    _, lasso = predict(REGRESSION, data, C=0.3)
    _, ridge = predict(REGRESSION, data, penalty="l2", C=0.3)
    used = [
        np.count_nonzero(np.vstack([one.coef_ for one in lasso.model.estimators_])),
        np.count_nonzero(ridge.model.coef_),
    ]
    assert used[0] < 0.7 * used[1]


def test_the_grid_takes_the_lowest_validation_loss():
    data, _ = task_data(depth=0.5)
    _, method = predict(REGRESSION, data, penalty="l2", C_grid=[10.0, 0.1, 1e-5])
    rows = [r for r in method.history if (r["phase"], r["objective"]) == ("valid", "cls")]
    losses = dict(zip([1e-5, 0.1, 10.0], [r["value"] for r in rows], strict=True))
    assert losses[method.chosen] == min(losses.values())
    assert method.chosen == method.model.C
    assert len(set(losses.values())) == 3


def test_validation_cells_never_train():
    data, _ = task_data()
    changed = data.copy()
    rows = (data.obs["split"] == "valid").to_numpy()
    changed.layers["lognorm"] = sparse.csr_matrix(
        sparse.diags((~rows) * 1.0) @ data.layers["lognorm"]
    )
    first, _ = predict(REGRESSION, data)
    second, _ = predict(REGRESSION, changed)
    assert np.array_equal(first.obs["confidence"], second.obs["confidence"])


def test_missing_convergence_is_said(caplog):
    data, _ = task_data(depth=0.5)
    _, method = predict(REGRESSION, data, penalty="l2", C=100.0, max_iter=2)
    assert [r["value"] for r in method.history if r["objective"] == "converged"] == [0.0]
    assert "did not converge in max_iter=2" in caplog.text


def test_regression_says_what_it_lacks():
    data, _ = task_data()
    with pytest.raises(DataError, match="layers\\['lognorm'\\] is missing"):
        bare = data.copy()
        del bare.layers["lognorm"]
        predict(REGRESSION, bare)
    with pytest.raises(DataError, match="highly_variable"):
        bare = data.copy()
        del bare.var["highly_variable"]
        predict(REGRESSION, bare)
    with pytest.raises(DataError, match="two types"):
        one = data.copy()
        one.obs["cell_type"] = one.obs["cell_type"].where(one.obs["cell_type"] == "T")
        one = one[one.obs["cell_type"].notna() | (one.obs["split"] == "test")].copy()
        predict(REGRESSION, one)
    with pytest.raises(DataError, match="validation cells to choose by"):
        predict(REGRESSION, data[data.obs["split"] != "valid"].copy(), C_grid=[0.1, 1.0])
    with pytest.raises(DataError, match="NaN"):
        broken = data.copy()
        broken.layers["lognorm"].data[0] = np.nan
        predict(REGRESSION, broken, genes="all")


def test_unlabelled_training_cells_are_refused_by_name():
    data, _ = task_data()
    cell = data.obs_names[(data.obs["split"] == "train").argmax()]
    data.obs.loc[cell, "cell_type"] = np.nan
    for entry_point in (f"{CONTROLS}:MajorityVote", REGRESSION, NEIGHBORS):
        with pytest.raises(DataError, match=cell):
            predict(entry_point, data)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_named(split):
    data, _ = task_data()
    data = data[data.obs["split"] != split].copy()
    for entry_point in (f"{CONTROLS}:MajorityVote", REGRESSION, NEIGHBORS):
        with pytest.raises(DataError, match=f"no cell has split '{split}'"):
            predict(entry_point, data)


def test_neighbors_equal_scikit_learn_where_there_is_no_tie():
    data, truth = task_data(depth=2.0)
    train, test = (data[data.obs["split"] == name] for name in ("train", "test"))
    reference = KNeighborsClassifier(5).fit(train.obsm["X_pca"], train.obs["cell_type"].astype(str))
    shares = reference.predict_proba(test.obsm["X_pca"])
    clear = np.sort(shares, axis=1)[:, -1] > np.sort(shares, axis=1)[:, -2]
    prediction, _ = predict(NEIGHBORS, data, n_neighbors=5)
    assert (prediction.obs_names == test.obs_names).all()
    expected = reference.classes_[shares.argmax(axis=1)]
    assert clear.sum() > 40
    assert (prediction.obs["cell_type_pred"].to_numpy()[clear] == expected[clear]).all()
    assert np.allclose(prediction.obs["confidence"], shares.max(axis=1))
    assert accuracy(prediction, truth) > 0.9


def test_votes_break_ties_by_distance_and_then_by_name():
    codes = np.array([[2, 0, 0, 2], [1, 0, 1, 0], [0, 1, 1, 2]])
    distances = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.6, 0.6], [0.1, 0.2, 0.3, 0.4]])
    winners, votes = vote(codes, distances, n_types=3)
    assert winners.tolist() == [2, 0, 1]
    assert votes.tolist() == [2, 2, 2]


def test_too_few_training_cells_for_the_neighbors():
    data, _ = task_data(16)
    with pytest.raises(DataError, match="8 training cells are fewer than n_neighbors=10"):
        predict(NEIGHBORS, data)
    with pytest.raises(DataError, match="X_pca"):
        bare = data.copy()
        del bare.obsm["X_pca"]
        predict(NEIGHBORS, bare, n_neighbors=2)
