"""On the simulated screens, the metrics of perturbation rank answers by what they know."""

from __future__ import annotations

import numpy as np
import pytest

from scgpt.data import contracts
from scgpt.methods.base import MethodContext
from scgpt.methods.baselines.perturbation import NoChange, TechnicalDuplicate, TrainingMean
from scgpt.methods.predictions import perturbation_prediction
from scgpt.metrics.registry import compute, metrics_of
from scgpt.readers.perturbation import read_gears
from scgpt.tasks import perturbation
from scgpt.twins import perturbation as twins

RANKS = ("discrimination_l1", "discrimination_l2", "discrimination_cosine")


@pytest.fixture(scope="module", params=["adamson", "norman"])
def screen(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    getattr(twins, request.param)(folder, seed=0)
    adata = read_gears(folder)
    contracts.stamp(adata, contracts.DATASET, dataset=request.param, value_kind="lognorm")
    return perturbation.prepare(adata, perturbation.Params(), seed=1)


def scores(prediction, truth):
    arrays = perturbation.scoring_arrays(prediction, truth)
    found = [
        row
        for metric in metrics_of(["scgpt.metrics.perturbation"], "perturbation")
        for row in compute(metric, arrays)
    ]
    return {row["metric"]: row["value"] for row in found if not row["group"]}


def control(method_class, data, truth):
    method = method_class(method_class.Params(), MethodContext(seed=0, truth=truth))
    method.fit(data)
    return scores(method.predict(data), truth)


def test_controls_stand_exactly_at_their_bounds(screen):
    data, truth = screen
    no_change, mean = (control(method, data, truth) for method in (NoChange, TrainingMean))
    assert no_change["pearson_delta"] == no_change["pearson_delta_de20"] == 0
    assert mean["pearson_centroid"] == 0
    assert all(found[name] == 0.5 for found in (no_change, mean) for name in RANKS[:2])


def test_the_duplicate_is_first_and_half_of_the_specific_effect_beats_the_mean(screen):
    data, truth = screen
    centroid = truth.var["training_centroid"].to_numpy()
    other = np.asarray(truth.layers["other_half"], dtype=float)
    half = perturbation_prediction(
        truth.obs_names, truth.var_names, centroid + 0.5 * (other - centroid)
    )
    found = {
        "duplicate": control(TechnicalDuplicate, data, truth),
        "half": scores(half, truth),
        "mean": control(TrainingMean, data, truth),
    }
    for name in RANKS:
        assert found["duplicate"][name] >= max(found["half"][name], found["mean"][name])
        assert found["duplicate"][name] > 0.9
    for name in ("pearson_centroid", "discrimination_l2", "discrimination_cosine"):
        assert found["half"][name] > found["mean"][name] + 0.1
