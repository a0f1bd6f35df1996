from __future__ import annotations

import importlib.util
import itertools
import os
import random
import socket
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scanpy
import torch

from scgpt.data import contracts
from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import MethodContext, parse_params
from scgpt.methods.packages.gears import GEARS

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from toy_perturbation import BOX, task_data, write_knowledge

# Not imported here: what the import leaves behind is part of what is tested.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gears") is None, reason="cell-gears is not installed"
)

QUICK = {
    "epochs": 1,
    "hidden_size": 16,
    "decoder_hidden_size": 8,
    "batch_size": 16,
    "n_control_cells": 60,
}


@pytest.fixture(scope="module")
def toy():
    return task_data(n_genes=30)


def all_genes(data):
    named = "+".join([*data.obs["condition"], *data.uns["queries"]])
    return sorted({gene for gene in named.split("+") if gene != "control"} | {"Z1", "Z2"})


def process_state():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return {
        "numpy": (numpy_state[1].tobytes(), numpy_state[2]),
        "python": random.getstate(),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
        "verbosity": scanpy.settings.verbosity,
        "environment": dict(os.environ),
        "folder": Path.cwd(),
    }


def answered(data, folder, genes=None, params=QUICK, **context):
    paths = write_knowledge(folder / "knowledge", all_genes(data) if genes is None else genes)
    given = {"seed": 0, "knowledge": paths, "scratch": folder / "scratch", **context}
    method = GEARS(parse_params(GEARS, params), MethodContext(**given))
    before = process_state()
    method.fit(data)
    prediction = method.predict(data)
    after = process_state()
    assert [name for name in before if before[name] != after[name]] == []
    return prediction, method


@pytest.fixture(scope="module")
def outcome(toy, tmp_path_factory):
    return answered(toy[0].copy(), tmp_path_factory.mktemp("first"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        msg = f"network access: {args} {kwargs}"
        raise AssertionError(msg)

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_prediction_passes_its_schema(toy, outcome):
    prediction, method = outcome
    schema = contracts.PERTURBATION_PREDICTION
    keys = dict.fromkeys(schema.keys, "toy")
    contracts.check(contracts.stamp(prediction.copy(), schema, **keys), schema)
    assert list(prediction.obs_names) == list(toy[0].uns["queries"])
    assert list(prediction.var_names) == list(toy[0].var_names)
    boxes = [prediction.layers[f"box_{name}"] for name in BOX]
    assert all((low <= high).all() for low, high in itertools.pairwise(boxes))
    assert method.notes == []
    rows = {(row["phase"], row["objective"], row["epoch"]) for row in method.history}
    assert {("train", "loss", 0), ("train", "mse", 0), ("valid", "de_mse", 0)} <= rows
    assert all(np.isfinite(row["value"]) for row in method.history)
    # Every condition has a prediction of its own, none of them the control.
    control = method.cells.as_asked(toy[0], method.cells.control_mean()[None])
    profiles = np.vstack([prediction.X, control])
    assert len(np.unique(profiles.round(6), axis=0)) == len(profiles)


def test_same_seed_same_output_in_any_order_without_network(toy, outcome, tmp_path, no_network):
    data, _ = toy
    rng = np.random.default_rng(5)
    shuffled = data[rng.permutation(data.n_obs)][:, rng.permutation(data.n_vars)].copy()
    shuffled.uns["queries"] = rng.permutation(data.uns["queries"])
    np.random.seed(99)  # noqa: NPY002 the package looks at the global generators
    torch.rand(5)
    first = outcome[0]
    second = answered(shuffled, tmp_path)[0][first.obs_names, first.var_names]
    assert np.array_equal(first.X, second.X)
    assert np.array_equal(first.layers["box_high"], second.layers["box_high"])
    another = answered(data, tmp_path, seed=1)[0]
    assert not np.allclose(first.X, another.X)


def test_nothing_is_left_behind(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = toy[0].copy()
    answered(data, tmp_path / "job")
    assert [path.name for path in tmp_path.iterdir()] == ["job"]
    assert list((tmp_path / "job" / "scratch").iterdir()) == []
    assert data.obs.equals(toy[0].obs)
    assert data.var.equals(toy[0].var)
    assert set(data.uns) == set(toy[0].uns)
    for values in (data.X, data.layers["lognorm"]):
        assert np.array_equal(values.toarray(), toy[0].layers["lognorm"].toarray())


def test_odd_conditions_follow_a_stated_rule(tmp_path):
    data, _ = task_data(n_genes=30, unmeasured=True, one_cell=True)
    data.uns["queries"] = np.array([*data.uns["queries"], "P0+P1+P2"], dtype=object)
    # U0 and U1 are not measured, U1 is in the graph, U0 is not; P3 and P6 are not either.
    genes = [gene for gene in all_genes(data) if gene not in ("U0", "P3", "P6")]
    prediction, method = answered(data, tmp_path, genes)
    control = method.cells.as_asked(data, method.cells.control_mean()[None])[0]
    answered_with_control = {"P6", "P6+P7", "P0+P6", "P0+U0", "P0+P1+P2"}
    for query in prediction.obs_names:
        same = np.allclose(prediction[query].X[0], control, atol=1e-6)
        assert same == (query in answered_with_control), query
    assert len(method.notes) == 2
    assert method.notes[0].startswith("3 of 9 training conditions are not in the graph of GEARS")
    assert method.notes[1].startswith("5 of 9 queried conditions hold a gene that is not in the")
    left_out = method.model.adata.obs["condition"]
    assert not left_out.str.contains("P3|U0").any()
    assert (left_out == "P1+ctrl").sum() == 1


def test_without_validation_conditions_it_says_how_it_selected(toy, tmp_path):
    data = toy[0][toy[0].obs["split"] == "train"].copy()
    _, method = answered(data, tmp_path)
    assert len(method.notes) == 1
    assert "chosen on the training conditions" in method.notes[0]


def test_what_it_needs_is_said(toy, tmp_path):
    data, _ = toy
    params = parse_params(GEARS, QUICK)
    with pytest.raises(ConfigError, match="not given: gene2go, gears_go_graph"):
        GEARS(params, MethodContext(seed=0)).fit(data)
    with pytest.raises(DataError, match="none of the 8 training conditions is in the graph"):
        answered(data, tmp_path, ["Z1", "Z2"])
    with pytest.raises(DataError, match="at least 20 genes, found 10"):
        answered(data[:, :10].copy(), tmp_path)


def test_it_learns_changes_it_has_seen(tmp_path):
    """The combination of two seen genes is nearer to the truth than no change."""
    data, truth = task_data(n_genes=30, n_cells=20, noise=0.2, shared=0.6)
    params = {**QUICK, "epochs": 8, "learning_rate": 5e-3, "hidden_size": 32}
    prediction, method = answered(data, tmp_path, params=params)
    control = method.cells.as_asked(data, method.cells.control_mean()[None])[0]
    for query in ("P0+P1", "P1+P2"):
        expected = np.asarray(truth[query].X[0]) - control
        found = np.asarray(prediction[query, truth.var_names].X[0]) - control
        assert np.corrcoef(found, expected)[0, 1] > 0.5, query
