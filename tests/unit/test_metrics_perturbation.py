from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from scgpt.errors import DataError, MetricUndefined
from scgpt.metrics.discrimination import discrimination
from scgpt.metrics.perturbation import SUBGROUPS
from scgpt.metrics.registry import compute, metrics_of

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from toy_perturbation import effects, mean_profile, scoring_arrays, task_data

METRICS = {
    entry.name: entry for entry in metrics_of(["scgpt.metrics.perturbation"], "perturbation")
}
DISCRIMINATION = ("discrimination_l1", "discrimination_l2", "discrimination_cosine")
GENES = np.array(["A", "B", "C", "D", "E"])


def arrays(predicted, observed, **more):
    """Return the arrays of a few conditions over the five genes of `GENES`."""
    predicted, observed = (np.asarray(values, dtype=float) for values in (predicted, observed))
    n = len(predicted)
    ranks = np.zeros(predicted.shape, dtype=int)
    ranks[:, 1:4] = [1, 2, 3]
    given = {
        "predicted": predicted,
        "observed": observed,
        "control": np.ones(5),
        "centroid": np.full(5, 2.0),
        "de_rank": ranks,
        "conditions": np.array([f"X{i}" for i in range(n)]),
        "subgroups": np.array(["unseen_single"] * n),
        "genes": GENES,
        "cells_per_condition": np.full(n, 10),
    }
    return {**given, **more}


def scored(name, given):
    """Return the rows of one metric by group, checked by the registry."""
    return {row["group"]: row for row in compute(METRICS[name], given)}


def overall(name, given):
    return scored(name, given)[""]["value"]


@pytest.fixture(scope="module")
def official(shared_dir):
    path = shared_dir / "reference" / "data" / "data_main.npz"
    if not path.is_file():
        pytest.skip(f"no stored outputs of the official code at {path}")
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files if key.startswith("pert.")}


def official_arrays(official):
    names = np.unique(official["pert.cat"])
    predicted, observed = (
        np.array([official[key][official["pert.cat"] == name].mean(axis=0) for name in names])
        for key in ("pert.pred", "pert.truth")
    )
    ranks = np.zeros(predicted.shape, dtype=int)
    for row, genes in enumerate(official["pert.de_genes"]):
        ranks[row, genes[:20]] = np.arange(1, 21)
    control = official["pert.ctrl"].mean(axis=0)
    subgroups = np.array(["combo_seen2", "unseen_single", "unseen_single"])
    return {
        "predicted": predicted,
        "observed": observed,
        "control": control,
        "de_rank": ranks,
        "subgroups": subgroups,
    }


def test_equal_to_the_official_outputs(official):
    given = official_arrays(official)
    for name, key in (
        ("pearson_delta", "pert.metric.nz0.pearson_delta"),
        ("pearson_delta_de20", "pert.metric.nz0.pearson_de_delta"),
    ):
        assert overall(name, given) == pytest.approx(float(official[key]), abs=1e-6)


def test_equal_to_the_official_output_on_expressed_genes(official):
    given = official_arrays(official)
    values = []
    for row in range(3):
        genes = given["observed"][row] != 0
        assert not genes.all()
        one = {name: given[name][row : row + 1, genes] for name in ("predicted", "observed")}
        one |= {"control": given["control"][genes], "subgroups": given["subgroups"][:1]}
        values.append(overall("pearson_delta", one))
    expected = float(official["pert.metric.nz1.pearson_delta"])
    assert np.mean(values) == pytest.approx(expected, abs=1e-6)


def test_stored_copy_of_the_official_values(root):
    """The same comparison with the mean profiles alone, so that it runs everywhere."""
    with np.load(root / "tests/golden/data/perturbation_metrics.npz", allow_pickle=False) as stored:
        given = {name: stored[name] for name in ("predicted", "observed", "control", "de_rank")}
        expected = [float(stored[name]) for name in ("pearson_delta", "pearson_delta_de20")]
    given["subgroups"] = np.array(["combo_seen2", "unseen_single", "unseen_single"])
    assert overall("pearson_delta", given) == pytest.approx(expected[0], abs=1e-6)
    assert overall("pearson_delta_de20", given) == pytest.approx(expected[1], abs=1e-6)


def test_values_by_hand():
    # Changes against control: predicted (1, 2, 3, 0, 0), measured (2, 1, 3, 0, -1).
    given = arrays([[2, 3, 4, 1, 1]], [[3, 2, 4, 1, 0]])
    # Means 1.2 and 1; sums of products 2+2+9-6 = 7, of squares 14-7.2 = 6.8 and 15-5 = 10.
    assert overall("pearson_delta", given) == pytest.approx(7 / np.sqrt(68))
    # Genes B, C, D: (2, 3, 0) and (1, 3, 0); 11 - 3 * 5/3 * 4/3, 13 - 25/3, 10 - 16/3.
    expected = (11 - 20 / 3) / np.sqrt((13 - 25 / 3) * (10 - 16 / 3))
    assert overall("pearson_delta_de20", given) == pytest.approx(expected)
    assert overall("mse_de20", given) == pytest.approx(1 / 3)
    # Against another constant reference the correlation is the same one.
    assert overall("pearson_centroid", given) == pytest.approx(7 / np.sqrt(68))
    tilted = {**given, "centroid": np.array([2, 3, 4, 1, 5.0])}
    # Predicted (0, 0, 0, 0, -4), measured (1, -1, 0, 0, -5): means -0.8 and -1.
    assert overall("pearson_centroid", tilted) == pytest.approx(
        (20 - 4) / np.sqrt((16 - 3.2) * (27 - 5))
    )


def test_only_the_first_20_ranks_count():
    rng = np.random.default_rng(0)
    predicted, observed = rng.normal(3, 1, (2, 1, 40))
    ranks = rng.permutation(40)[None] + 1
    given = {"predicted": predicted, "observed": observed, "control": np.ones(40)}
    given |= {"subgroups": np.array(["combo_seen2"]), "de_rank": ranks}
    among = ranks[0] <= 20
    expected = np.corrcoef(predicted[0, among], observed[0, among])[0, 1]
    assert overall("pearson_delta_de20", given) == pytest.approx(expected)


def test_discrimination_by_hand():
    observed = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 4, 0], [0, 0, 0, 9, 0.0]])
    # The first is nearest to its own; the second too far (nearest to the third); the third ties
    # between its own and the second: 6.5 is 2.5 from both.
    predicted = np.array([[0, 0, 0, 1, 0], [0, 0, 0, 8, 0], [0, 0, 0, 6.5, 0]])
    given = arrays(predicted, observed)
    for name in ("discrimination_l1", "discrimination_l2"):
        rows = scored(name, given)
        assert rows[""]["value"] == pytest.approx((1 + 0.5 + 0.75) / 3)
        assert rows[""]["n"] == 3
    # Distances of one prediction from three truths: L1 3, 2, 5; L2 3, 2, sqrt(13).
    predicted = np.array([[0, 0, 0, 0, 0]] * 3)
    observed = np.array([[0, 0, 0, 3, 0], [0, 0, 0, 2, 0], [0, 0, 0, 2, 3.0]])
    for kind, own in (("l1", [0.5, 1, 0]), ("l2", [0.5, 1, 0])):
        assert discrimination(kind, predicted, observed, [[], [], []]).tolist() == own
    # L1 (4 against 3 + 3) and L2 (16 against 18) agree, (4 against 2 + 2.5) too, but 5 does not.
    observed = np.array([[5, 0.0], [3, 3]])
    assert discrimination("l1", np.zeros((2, 2)), observed, [[], []]).tolist() == [1, 0]
    assert discrimination("l2", np.zeros((2, 2)), observed, [[], []]).tolist() == [0, 1]


def test_discrimination_by_cosine_ignores_the_size_of_the_change():
    truth = np.array([[2, 1, 1, 1, 1], [1, 4, 1, 1, 1], [1, 1, 1, 6, 6.0]])
    predicted = 1 + 0.01 * (truth - 1)
    given = arrays(predicted, truth)
    assert overall("discrimination_cosine", given) == 1
    assert overall("discrimination_l2", given) < 1
    assert overall("discrimination_cosine", arrays(predicted[::-1], truth)) < 0.7


def test_the_perturbed_genes_of_both_conditions_are_masked():
    # Only the levels of the perturbed genes A and B tell the conditions apart.
    observed = np.array([[9, 0, 3, 1, 1], [0, 9, 3, 1, 1], [0, 0, 3, 1, 1.0]])
    masked = arrays(observed, observed, conditions=np.array(["A", "B", "A+B"]))
    for name in DISCRIMINATION:
        assert overall(name, masked) == 0.5, name
        assert overall(name, {**masked, "conditions": np.array(["X", "Y", "X+Z"])}) == 1
    # Masking both leaves (C, D, E) for every pair: what lies there still tells them apart.
    observed[:, 3] = [1, 5, 9]
    for name in DISCRIMINATION:
        assert overall(name, arrays(observed, observed, conditions=masked["conditions"])) == 1


def test_masking_equals_the_slow_definition():
    rng = np.random.default_rng(4)
    predicted, observed = rng.normal(size=(2, 6, 12))
    perturbed = [rng.choice(12, size=i % 3, replace=False) for i in range(6)]
    for kind in ("l1", "l2", "cosine"):
        expected = []
        for i in range(6):
            nearer = 0
            for j in range(6):
                keep = np.setdiff1d(np.arange(12), np.concatenate([perturbed[i], perturbed[j]]))
                own, other = (distance(kind, predicted[i, keep], observed[k, keep]) for k in (i, j))
                nearer += other < own - 1e-12
            expected.append(1 - nearer / 5)
        assert discrimination(kind, predicted, observed, perturbed) == pytest.approx(expected)


def distance(kind, one, two):
    if kind == "cosine":
        return 1 - one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    return np.abs(one - two).sum() if kind == "l1" else np.sqrt(((one - two) ** 2).sum())


def test_a_prediction_without_change_scores_zero_and_says_so():
    rng = np.random.default_rng(1)
    observed = rng.normal(3, 1, (4, 5))
    control, centroid = rng.normal(3, 1, (2, 5))
    for name, reference in (("pearson_delta", control), ("pearson_centroid", centroid)):
        # Single precision, as stored: the rounding must not be correlated.
        predicted = np.tile(reference.astype(np.float32), (4, 1)).astype(float)
        predicted[3] = observed[3]
        given = arrays(predicted, observed, control=control, centroid=centroid)
        row = scored(name, given)[""]
        assert row["value"] == pytest.approx(0.25)
        assert row["n"] == 4
        assert row["note"] == ("3 of 4 conditions predicted without any change: 0 by convention")
        # The same change of all genes has no correlation either.
        given["predicted"][:3] = reference + 1
        assert overall(name, given) == pytest.approx(0.25)


def test_no_change_has_no_direction():
    rng = np.random.default_rng(2)
    observed = rng.normal(3, 1, (4, 5))
    control = rng.normal(3, 1, 5)
    predicted = np.tile(control.astype(np.float32), (4, 1))
    row = scored("discrimination_cosine", arrays(predicted, observed, control=control))[""]
    assert row["value"] == 0.5
    assert "4 of 4 conditions predicted without any change" in row["note"]


def test_conditions_that_measure_nothing_take_part_in_no_average():
    observed = np.array([[3, 2, 4, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1.0]])
    predicted = np.array([[2, 3, 4, 1, 1]] * 3)
    row = scored("pearson_delta", arrays(predicted, observed))[""]
    assert row["n"] == 1
    assert row["value"] == pytest.approx(7 / np.sqrt(68))
    assert "1 of 3 conditions left out, no expression was measured" in row["note"]
    assert "1 of 3 conditions left out, their measured change is constant" in row["note"]
    nothing = scored("pearson_delta", arrays(predicted[1:], observed[1:]))[""]
    assert nothing["value"] is None
    assert nothing["n"] == 0


def test_too_few_changed_genes():
    ranks = np.zeros((2, 5), dtype=int)
    ranks[0, 2] = 1
    given = arrays([[2, 3, 4, 1, 1]] * 2, [[3, 2, 5, 1, 0]] * 2, de_rank=ranks)
    row = scored("pearson_delta_de20", given)[""]
    assert row["value"] is None
    assert row["note"] == "2 of 2 conditions left out, fewer than two changed genes"
    row = scored("mse_de20", given)[""]
    assert (row["value"], row["n"]) == (1, 1)
    assert row["note"] == "1 of 2 conditions left out, no changed gene"


@pytest.mark.parametrize("name", METRICS)
def test_subgroups_are_averages_and_empty_ones_say_so(name):
    rng = np.random.default_rng(5)
    predicted, observed = rng.normal(3, 1, (2, 3, 5))
    subgroups = np.array(["unseen_single", "combo_seen2", "combo_seen2"])
    given = arrays(predicted, observed, subgroups=subgroups)
    given["cells_per_condition"] = np.array([10, 1, 10])
    rows = scored(name, given)
    assert list(rows) == ["", *SUBGROUPS]
    assert [rows[group]["n"] for group in rows] == [3, 1, 0, 0, 2]
    for group in ("combo_seen0", "combo_seen1"):
        assert rows[group]["value"] is None
        assert rows[group]["note"] == "no test condition in this subgroup"
    total = rows["unseen_single"]["value"] + 2 * rows["combo_seen2"]["value"]
    assert rows[""]["value"] == pytest.approx(total / 3)
    assert rows["combo_seen2"]["note"] == "1 of 2 conditions measured on a single cell"
    assert rows["unseen_single"]["note"] == ""
    del given["cells_per_condition"]
    assert scored(name, given)[""]["note"] == ""


def test_a_single_condition_cannot_be_discriminated():
    given = arrays([[2, 3, 4, 1, 1]], [[3, 2, 4, 1, 0]])
    for name in DISCRIMINATION:
        row = scored(name, given)[""]
        assert row["value"] is None
        assert "a single test condition" in row["note"]


@pytest.mark.parametrize("name", METRICS)
def test_perfect_and_wrong_input(name):
    rng = np.random.default_rng(6)
    observed = rng.normal(3, 1, (3, 5))
    best = METRICS[name].bounds[1 if METRICS[name].higher_is_better else 0]
    assert overall(name, arrays(observed, observed)) == pytest.approx(best)
    with pytest.raises(DataError, match="shape"):
        METRICS[name].function(**pick(name, arrays(observed, observed[:2])))
    broken = observed.copy()
    broken[1, 2] = np.nan
    with pytest.raises(DataError, match="1 of 3 predicted profiles hold NaN"):
        METRICS[name].function(**pick(name, arrays(broken, observed)))
    with pytest.raises(MetricUndefined, match="no test condition"):
        METRICS[name].function(**pick(name, arrays(observed[:0], observed[:0])))


def pick(name, given):
    return {key: given[key] for key in METRICS[name].required}


@pytest.fixture(scope="module", params=[0, 1, 2])
def screen(request):
    """Return simulated data with many test conditions, its truth, and some known predictions."""
    sizes = {"n_genes": 120, "n_perturbed": 20, "n_cells": 25, "noise": 1.0}
    _, truth = task_data(request.param, **sizes, shared=0.5, specific=0.25)
    names = list(truth.var_names)
    perturbed = [name for name in names if name.startswith("P")]
    known = effects(names, perturbed, seed=request.param, shared=0.5, specific=0.25)
    truth.uns["half"] = np.array(
        [(mean_profile(known, q) + known.baseline + known.shared) / 2 for q in truth.obs_names]
    )
    return truth


def with_predictions(truth, values):
    prediction = truth.copy()
    prediction.X = np.asarray(values, dtype=np.float32)
    return scoring_arrays(prediction, truth)


def test_half_of_the_specific_effect_ranks_above_the_training_mean(screen):
    mean = np.tile(screen.var["training_centroid"].to_numpy(), (screen.n_obs, 1))
    for name in ("pearson_centroid", *DISCRIMINATION):
        half = overall(name, with_predictions(screen, screen.uns["half"]))
        constant = overall(name, with_predictions(screen, mean))
        assert half > constant + 0.1, name
    constant = scored("pearson_centroid", with_predictions(screen, mean))[""]
    assert constant["value"] == 0
    assert "predicted without any change" in constant["note"]


def test_the_technical_duplicate_is_first_in_discrimination(screen):
    control = np.tile(screen.var["control_mean"].to_numpy(), (screen.n_obs, 1))
    mean = np.tile(screen.var["training_centroid"].to_numpy(), (screen.n_obs, 1))
    for name in DISCRIMINATION:
        duplicate = overall(name, with_predictions(screen, screen.layers["other_half"]))
        others = [overall(name, with_predictions(screen, values)) for values in (control, mean)]
        assert duplicate > 0.9, name
        assert duplicate > max(others) + 0.2, name
