from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scgpt.data import contracts
from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import MethodContext, parse_params
from scgpt.methods.scgpt.perturbation import ScGPTPerturbation
from scgpt.model.checkpoint import save_checkpoint
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream import save_official
from scgpt.training.determinism import derive_seed, isolated_torch
from scgpt.training.optim import Precision, build_optimizer

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from toy_perturbation import BOX, task_data

SIZES = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_ff": 16}
QUICK = {**SIZES, "epochs": 1, "batch_size": 16, "n_genes_per_step": 20, "n_control_cells": 10}
SPECIALS = ["<pad>", "<cls>", "<eoc>"]


@pytest.fixture(autouse=True)
def one_thread():
    with isolated_torch("cpu", threads=1):
        yield


@pytest.fixture(scope="module")
def toy():
    return task_data(n_genes=30)


def answered(data, params=QUICK, **context):
    method = ScGPTPerturbation(
        parse_params(ScGPTPerturbation, params), MethodContext(**{"seed": 0, **context})
    )
    method.fit(data)
    return method.predict(data), method


@pytest.fixture(scope="module")
def outcome(toy):
    return answered(toy[0])


def control_mean(data):
    rows = ((data.obs["condition"] == "control") & (data.obs["split"] == "train")).to_numpy()
    return data.layers["lognorm"][rows].toarray().astype(np.float64).mean(axis=0)


def test_the_prediction_passes_its_schema(toy, outcome):
    data, _ = toy
    prediction, method = outcome
    schema = contracts.PERTURBATION_PREDICTION
    keys = dict.fromkeys(schema.keys, "toy")
    contracts.check(contracts.stamp(prediction.copy(), schema, **keys), schema)
    assert list(prediction.obs_names) == list(data.uns["queries"])
    assert list(prediction.var_names) == list(data.var_names)
    boxes = [prediction.layers[f"box_{name}"] for name in BOX]
    assert all((low <= high).all() for low, high in itertools.pairwise(boxes))
    assert (boxes[0] < boxes[4]).any()
    assert method.notes == []
    assert method.receipt is None
    found = {(row["phase"], row["objective"]) for row in method.history}
    assert {("train", "gep"), ("valid", "pearson_delta"), ("valid", "pearson")} <= found


def test_the_prediction_is_the_mean_over_control_cells_with_flags(toy, outcome):
    data, _ = toy
    prediction, method = outcome
    pool = method._control_pool()
    assert pool.shape == (10, 30)
    control = data[data.obs["condition"] == "control"][:, np.sort(data.var_names)]
    rows = {row.tobytes() for row in control.layers["lognorm"].toarray()}
    assert all(row.tobytes() in rows for row in pool)
    genes = np.sort(data.var_names.to_numpy().astype(str))
    flags = torch.from_numpy(np.isin(genes, ["P0", "P1"]).astype(np.int64))
    with torch.no_grad():
        expected = method.model(
            torch.from_numpy(method.vocab.ids(genes).astype(np.int64)).expand(10, -1),
            torch.from_numpy(pool),
            perturbation_flags_BL=flags.expand(10, -1),
        )["gep"]
    found = prediction["P0+P1", genes]
    assert np.allclose(found.X[0], expected.mean(dim=0), atol=1e-5)
    assert np.allclose(found.layers["box_median"][0], np.median(expected, axis=0), atol=1e-5)


def test_perturbed_cells_start_from_control_cells_and_those_from_themselves(outcome):
    _, method = outcome
    cells = method.cells
    pairs = method._pairs(np.arange(len(cells.names)))
    inputs, targets = pairs.inputs.toarray(), pairs.targets.toarray()
    assert np.array_equal(targets, cells.values.toarray())
    control = cells.conditions == "control"
    assert np.array_equal(inputs[control], targets[control])
    known = {row.tobytes() for row in targets[control]}
    drawn = {row.tobytes() for row in inputs[~control]}
    assert drawn <= known
    assert len(drawn) > 0.5 * len(known)
    for condition, flagged in zip(cells.conditions, pairs.flagged, strict=True):
        names = [name for name, i in method.column.items() if i in flagged]
        assert sorted(names) == ([] if condition == "control" else condition.split("+"))


def test_same_seed_same_output_in_any_order(toy, outcome):
    data, _ = toy
    rng = np.random.default_rng(5)
    shuffled = data[rng.permutation(data.n_obs)][:, rng.permutation(data.n_vars)].copy()
    shuffled.uns["queries"] = rng.permutation(data.uns["queries"])
    first = outcome[0]
    np.random.seed(9)  # noqa: NPY002 a method must not look at the global generators
    torch.rand(3)
    states = (np.random.get_state()[1].tobytes(), random.getstate())  # noqa: NPY002
    torch_state = torch.get_rng_state()
    second = answered(shuffled)[0][first.obs_names, first.var_names]
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == states  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(first.X, second.X)
    assert np.array_equal(first.layers["box_low"], second.layers["box_low"])
    assert not np.allclose(first.X, answered(data, seed=1)[0].X)


def test_the_input_is_not_changed(toy):
    data = toy[0].copy()
    answered(data)
    assert data.obs.equals(toy[0].obs)
    assert data.var.equals(toy[0].var)
    assert set(data.uns) == set(toy[0].uns)
    assert np.array_equal(data.layers["lognorm"].toarray(), toy[0].layers["lognorm"].toarray())


def test_it_learns_the_change_better_than_no_change():
    data, truth = task_data(n_genes=30, n_cells=25, noise=0.2, shared=0.5)
    params = {**QUICK, "d_model": 32, "d_ff": 32, "epochs": 10, "n_control_cells": 40}
    prediction, method = answered(data, {**params, "learning_rate": 2e-3})
    control = control_mean(data)
    observed = np.asarray(truth[prediction.obs_names, prediction.var_names].X)
    errors = np.square(prediction.X - observed).mean(axis=1)
    still = np.square(control - observed).mean(axis=1)
    assert errors.mean() < 0.8 * still.mean()
    seen = [
        np.corrcoef(p - control, t - control)[0, 1]
        for p, t in zip(prediction.X, observed, strict=True)
    ]
    assert np.mean(seen) > 0.5
    assert method.result.best_value > 0


@pytest.mark.parametrize("recipe", ["ours", "tutorial"])
def test_recipes_differ_in_genes_and_selection(toy, recipe):
    _, method = answered(toy[0], {**QUICK, "recipe": recipe, "epochs": 2})
    values = {
        (row["objective"], row["epoch"]): row["value"]
        for row in method.history
        if row["phase"] == "valid"
    }
    name = {"ours": "pearson_delta", "tutorial": "pearson"}[recipe]
    best = max(range(2), key=lambda epoch: values[name, epoch])
    assert method.result.best_epoch == best
    assert method.result.best_value == values[name, best]
    noted = [note for note in method.notes if "67% of the steps" in note]
    assert len(noted) == (recipe == "tutorial")


def test_a_finished_training_is_taken_up_from_scratch_folder(toy, tmp_path):
    first, one = answered(toy[0], scratch=tmp_path)
    second, two = answered(toy[0], scratch=tmp_path)
    assert one.result.resumed_step == 0
    assert two.result.resumed_step == one.result.n_steps
    assert np.array_equal(first.X, second.X)
    other = toy[0].copy()
    # Another validation makes it another training.
    other.obs["split"] = other.obs["split"].astype(str)
    other.obs.loc[other.obs["condition"] == "P4", "split"] = "valid"
    _, three = answered(other, scratch=tmp_path)
    assert three.result.resumed_step == 0


def test_an_unmeasured_perturbed_gene_is_a_flagged_token(tmp_path):
    data, _ = task_data(n_genes=30, unmeasured=True, one_cell=True)
    prediction, method = answered(data, {**QUICK, "epochs": 2})
    assert list(prediction.var_names) == list(data.var_names)
    assert list(method.extra) == ["U0", "U1"]
    assert len(method.notes) == 1
    assert method.notes[0].startswith("2 of 8 queried conditions hold a perturbed gene that is not")
    # Its token makes a difference, and what is asked besides makes none.
    genes = np.sort(data.var_names)
    alone = method._predict_condition(method._control_pool(), method._flagged("P0")).mean(axis=0)
    assert not np.allclose(prediction["P0+U0", genes].X[0], alone, atol=1e-4)
    data.uns["queries"] = np.array(["P0+U0"])
    assert np.array_equal(method.predict(data).X, prediction["P0+U0"].X)
    # Seen in training, it was trained; the one asked for only in the query was not.
    untrained = ScGPT(method.model.config, seed=derive_seed(0, "weights")).state_dict()
    table = next(
        name
        for name, values in untrained.items()
        if name.startswith("gene_encoder.") and values.shape == (len(method.vocab), 16)
    )
    same = [
        torch.equal(method.model.state_dict()[table][i], untrained[table][i])
        for i in (method.vocab["U0"], method.vocab["U1"])
    ]
    assert same == [False, True]


def test_without_validation_conditions_the_last_epoch_counts(toy):
    data = toy[0][toy[0].obs["split"] == "train"].copy()
    _, method = answered(data)
    assert method.notes == ["no validation condition: the weights of the last epoch are used"]


def pretrained(folder, tokens, *, official=False, **options):
    """Write a network with random weights as if it were pretrained; return it."""
    tokens = [*tokens, *SPECIALS]
    config = ScGPTConfig(
        n_tokens=len(tokens), pad_id=tokens.index("<pad>"), gepc="inner product", **SIZES, **options
    )
    model = ScGPT(config, seed=9)
    if official:
        save_official(folder, model, {token: i for i, token in enumerate(tokens)}, {})
    else:
        save_checkpoint(folder, model, tokens)
    return model


@pytest.mark.parametrize("official", [False, True])
def test_from_a_checkpoint_only_encoders_and_transformer_are_loaded(tmp_path, official):
    data, _ = task_data(n_genes=30, unmeasured=True)
    known = [gene for gene in [*data.var_names, "U0"] if gene not in ("G003", "P1", "P6")]
    source = pretrained(tmp_path, known, official=official, n_classes=4)
    params = {**QUICK, "init": "checkpoint", "learning_rate": 1e-9}
    prediction, method = answered(data, params, checkpoint=tmp_path)
    status = {row.name: row for row in method.receipt.rows}
    for name, row in status.items():
        ours = name.startswith(("gene_encoder.", "value_encoder.", "transformer."))
        assert (row.status == "loaded") == ours, name
    assert "new decoder" in status["gep.offset.expression.0.weight"].reason
    assert "no perturbed genes" in status["perturbation_encoder.weight"].reason
    for name, tensor in method.model.state_dict().items():
        if status[name].status == "loaded":
            assert torch.allclose(tensor, source.state_dict()[name], atol=1e-5), name
    control = dict(zip(data.var_names, control_mean(data), strict=True))
    for gene in ("G003", "P1", "P6"):
        assert np.allclose(prediction[:, gene].X, control[gene], atol=1e-6)
        assert np.allclose(prediction[:, gene].layers["box_high"], control[gene], atol=1e-6)
    assert len(method.notes) == 4
    assert method.notes[0].startswith("3 of 30 measured genes are not in the vocabulary")
    assert method.notes[1].startswith("1 of 9 conditions seen perturb a gene that is not in the vo")
    assert method.notes[2].startswith("6 of 8 queried conditions hold a perturbed gene that is not")
    assert method.notes[3].startswith("1 of 8 queried conditions hold a perturbed gene that is not")
    assert "P1" not in set(method.cells.conditions)
    # P6 alone cannot be flagged: predicted like any other condition without a flag.
    assert np.array_equal(prediction["P6"].X, prediction["U1"].X)


def test_odd_checkpoints_are_refused(toy, tmp_path):
    data, _ = toy
    with pytest.raises(ConfigError, match="needs a pretrained model"):
        answered(data, {**QUICK, "init": "checkpoint"})
    pretrained(tmp_path / "none", ["X1", "X2"])
    with pytest.raises(DataError, match="none of the 30 genes is in the vocabulary"):
        answered(data, {**QUICK, "init": "checkpoint"}, checkpoint=tmp_path / "none")
    pretrained(tmp_path / "unperturbed", [g for g in data.var_names if g.startswith("G")])
    with pytest.raises(DataError, match="each of the 8 conditions seen perturbs a gene"):
        answered(data, {**QUICK, "init": "checkpoint"}, checkpoint=tmp_path / "unperturbed")
    pretrained(tmp_path / "bins", data.var_names, value_encoding="category", pad_value=52)
    with pytest.raises(ConfigError, match="binned values"):
        answered(data, {**QUICK, "init": "checkpoint"}, checkpoint=tmp_path / "bins")


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_adam_keeps_its_default_epsilon_in_mixed_precision_too(amp):
    config = parse_params(ScGPTPerturbation, {"amp": amp}).training_config()
    half = Precision(device_type="cuda", dtype=None if amp == "off" else torch.float16)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config, half)
    assert optimizer.defaults["eps"] == 1e-8
