"""Scores on small real data that do not depend on this project: measured independently before."""

from __future__ import annotations

import numpy as np
import pytest

from scgpt.data import contracts
from scgpt.methods.base import MethodContext
from scgpt.methods.baselines.embeddings import PCAEmbedding
from scgpt.methods.baselines.perturbation import Additive, NoChange
from scgpt.methods.packages.harmony import Harmony
from scgpt.metrics.integration import asw_batch, avg_bio
from scgpt.metrics.perturbation import pearson_delta
from scgpt.readers.own import read_h5ad
from scgpt.tasks import integration, perturbation

PAIRS = [0.98, 0.99, 0.95, 0.73, 0.71]
FLOOR = 0.47


@pytest.fixture(scope="module")
def norman(shared_dir):
    """Return data and truth: the five pairs whose genes were both perturbed alone, all cells."""
    path = shared_dir / "data/perturb_norman_mcfaline_devel/norman19_devel_gears_schema.h5ad"
    columns = {"condition": "condition", "cell_type": "cell_type"}
    adata = read_h5ad(path=str(path), columns=columns, value_kind="lognorm")
    contracts.stamp(adata, contracts.DATASET, dataset="norman", value_kind="lognorm")
    params = perturbation.Params(test=["pairs_seen"], other_half=0)
    return perturbation.prepare(adata, params, seed=1)


def one_by_one(prediction, truth):
    """Return the correlation of predicted and observed change of every condition."""
    arrays = perturbation.scoring_arrays(prediction, truth)
    scores = {}
    for i, name in enumerate(arrays["conditions"]):
        own = {
            key: arrays[key][i : i + 1]
            for key in ("predicted", "observed", "subgroups", "cells_per_condition")
        }
        scores[name] = pearson_delta(control=arrays["control"], **own)[""].value
    return scores


def answer(method_class, data):
    method = method_class(method_class.Params(), MethodContext(seed=0))
    method.fit(data)
    return method.predict(data)


def test_additive_on_the_real_pairs(norman):
    data, truth = norman
    scores = one_by_one(answer(Additive, data), truth)
    print(scores)
    assert sorted(scores.values()) == pytest.approx(sorted(PAIRS), abs=0.011)


def test_the_mean_of_other_singles_is_the_floor_measured_before(norman):
    data, truth = norman
    answered = answer(NoChange, data)
    control = np.asarray(truth.var["control_mean"])
    values, names = data.layers["lognorm"], data.obs["condition"].astype(str).to_numpy()
    singles = sorted({name for name in names if "+" not in name and name != "control"})
    means = {s: np.asarray(values[names == s].mean(axis=0)).ravel() for s in singles}
    scores = []
    for single in singles:
        others = np.mean([means[name] for name in singles if name != single], axis=0)
        scores.append(np.corrcoef(others - control, means[single] - control)[0, 1])
    print(np.median(scores))
    assert np.median(scores) == pytest.approx(FLOOR, abs=0.03)
    assert all(value == 0 for value in one_by_one(answered, truth).values())


def test_harmony_mixes_the_real_chemistries_and_keeps_the_types(shared_dir):
    path = shared_dir / "data/pbmc_3tech_symphony/pbmcs_small.h5ad"
    columns = {"batch": "batch", "cell_type": "cell_type"}
    adata = read_h5ad(path=str(path), columns=columns, value_kind="lognorm")
    contracts.stamp(adata, contracts.DATASET, dataset="pbmc", value_kind="lognorm")
    data, truth = integration.prepare(adata, integration.Params(), seed=1)
    found = {}
    for method in (PCAEmbedding, Harmony):
        arrays = integration.scoring_arrays(answer(method, data), truth)
        mixing = [arrays[name] for name in ("cell_types", "batches", "batch_widths")]
        biology = [arrays[name] for name in ("cell_types", "leiden", "type_widths")]
        found[method.__name__] = asw_batch(*mixing).value, avg_bio(*biology).value
    print(found)
    assert found["Harmony"][0] > found["PCAEmbedding"][0] + 0.02
    assert found["Harmony"][1] > 0.6
