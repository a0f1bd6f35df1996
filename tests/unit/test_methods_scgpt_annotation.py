from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scgpt.errors import CheckpointError, ConfigError, DataError
from scgpt.methods.base import MethodContext, parse_params
from scgpt.methods.scgpt.annotation import ScGPTAnnotation, softmax
from scgpt.methods.scgpt.common import choose_genes
from scgpt.model.checkpoint import save_checkpoint
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream import save_official
from scgpt.training import resume
from scgpt.training.determinism import isolated_torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from toy_annotation import accuracy, task_data

SIZES = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_ff": 16}
QUICK = {**SIZES, "epochs": 1, "batch_size": 16}
SPECIALS = ["<pad>", "<cls>", "<eoc>"]


def tokens_of(method, data, cells):
    return method._batches(data, cells, labels=None, training=False).cells


@pytest.fixture(autouse=True)
def one_thread():
    with isolated_torch("cpu", threads=1):
        yield


@pytest.fixture(scope="module")
def toy():
    return task_data(background=0.3)


def pretrained(folder, tokens, *, official=False, **options):
    """Write a network with random weights as if it were pretrained; return it."""
    tokens = [*tokens, *SPECIALS]
    pad_id = tokens.index("<pad>")
    model = ScGPT(ScGPTConfig(n_tokens=len(tokens), pad_id=pad_id, **SIZES, **options), seed=9)
    if official:
        save_official(folder, model, {token: i for i, token in enumerate(tokens)}, {})
    else:
        save_checkpoint(folder, model, tokens)
    return model


def fitted(data, params=QUICK, **context):
    method = ScGPTAnnotation(
        parse_params(ScGPTAnnotation, params), MethodContext(**{"seed": 0, **context})
    )
    method.fit(data)
    return method


def test_from_scratch_it_learns_markers(toy):
    data, truth = toy
    params = {**QUICK, "d_model": 32, "epochs": 10, "batch_size": 8, "learning_rate": 3e-3}
    method = fitted(data, {**params, "dropout": 0.0})
    prediction = method.predict(data)
    assert accuracy(prediction, truth) > 0.75
    assert method.receipt is None
    confidence = prediction.obs["confidence"]
    answers = prediction.obs["cell_type_pred"].astype(str)
    right = answers == truth.obs["cell_type"].astype(str).loc[answers.index]
    assert confidence[right].mean() > confidence[~right].mean()


def test_another_seed_gives_another_network(toy):
    data, _ = toy
    first, second = (fitted(data, seed=seed).predict(data).obsm["X_emb"] for seed in (0, 1))
    assert not np.allclose(first, second)


def test_confidence_and_embedding_are_what_the_network_says(toy):
    data, _ = toy
    method = fitted(data)
    prediction = method.predict(data)
    cells = np.flatnonzero(data.obs["split"] == "test")
    batch = method._batches(data, cells, labels=None, training=False).batch(np.arange(len(cells)))
    with torch.no_grad():
        out = method.model(
            batch.gene_ids_BL,
            batch.values_BL,
            batch.padding_BL,
            heads=("cls", "cell_embedding"),
        )
    probabilities = torch.softmax(out["cls"], dim=1).numpy()
    assert np.allclose(prediction.obs["confidence"], probabilities.max(axis=1), atol=1e-5)
    expected = method.categories[probabilities.argmax(axis=1)]
    assert list(prediction.obs["cell_type_pred"]) == list(expected)
    embedding = torch.nn.functional.normalize(out["cell_embedding"]).numpy()
    assert np.allclose(prediction.obsm["X_emb"], embedding, atol=1e-5)


@pytest.mark.parametrize("official", [False, True])
def test_a_checkpoint_of_either_layout_is_loaded_and_accounted_for(toy, tmp_path, official):
    data, _ = toy
    source = pretrained(tmp_path, [f"G{i}" for i in range(30)], official=official)
    frozen = {**QUICK, "init": "checkpoint", "freeze_encoders": True}
    method = fitted(data, frozen, checkpoint=tmp_path)
    for name in ("gene_encoder", "value_encoder"):
        before, after = (getattr(model, name).state_dict() for model in (source, method.model))
        assert all(torch.equal(before[key], after[key]) for key in before)
    trained = method.model.transformer.layers[0].linear_1.weight
    assert not torch.equal(trained, source.transformer.layers[0].linear_1.weight)
    fresh = [row for row in method.receipt.rows if row.status == "missing"]
    assert fresh
    assert all(row.name.startswith("cls.") and "cell types" in row.reason for row in fresh)
    assert method.receipt.count("loaded") == len(source.state_dict())


def test_gene_ids_come_from_the_vocabulary_of_the_checkpoint(toy, tmp_path):
    data, _ = toy
    pretrained(tmp_path, [f"G{i}" for i in reversed(range(5, 40))])
    method = fitted(data, {**QUICK, "init": "checkpoint"}, checkpoint=tmp_path)
    assert sorted(method.genes) == sorted(f"G{i}" for i in range(5, 30))
    tokens = tokens_of(method, data, np.array([0]))
    row = data.layers["lognorm"][0].toarray().ravel()
    expressed = {39 - i for i in range(5, 30) if row[i] > 0}
    assert set(tokens.gene_ids[1:]) == expressed
    assert (tokens.gene_ids[0], tokens.values[0]) == (method.started.vocab.cls_id, 0.0)


def test_no_known_gene_is_an_error_and_few_are_a_warning(toy, tmp_path, caplog):
    data, _ = toy
    params = {**QUICK, "init": "checkpoint"}
    pretrained(tmp_path / "none", ["ENSG1", "ENSG2"])
    with pytest.raises(DataError, match=r"none of the 30 genes .* G0, G1, .*ENSG1, ENSG2"):
        fitted(data, params, checkpoint=tmp_path / "none")
    pretrained(tmp_path / "few", [f"G{i}" for i in range(8)])
    with caplog.at_level(logging.WARNING):
        fitted(data, params, checkpoint=tmp_path / "few")
    assert "8 of 30 genes are in the vocabulary; not found, for example: G1" in caplog.text
    assert caplog.text.count("G1") == 10


def test_the_checkpoint_decides_sizes_and_bins(toy, tmp_path):
    data, _ = toy
    pretrained(tmp_path, [f"G{i}" for i in range(30)], n_bins=5)
    params = {**QUICK, "d_model": 64, "n_bins": 51, "init": "checkpoint"}
    method = fitted(data, params, checkpoint=tmp_path)
    assert method.model.config.d_model == 16
    assert tokens_of(method, data, np.arange(50)).values.max() == 4


def test_init_and_checkpoint_must_agree(toy, tmp_path):
    data, _ = toy
    with pytest.raises(ConfigError, match="none was given"):
        fitted(data, {**QUICK, "init": "checkpoint"})
    with pytest.raises(ConfigError, match="init=scratch"):
        fitted(data, checkpoint=tmp_path)


def test_a_checkpoint_that_does_not_fit_is_refused(toy, tmp_path):
    data, _ = toy
    pretrained(tmp_path, [f"G{i}" for i in range(30)], official=True)
    state = torch.load(tmp_path / "best_model.pt", weights_only=True)
    del state["transformer_encoder.layers.0.self_attn.Wqkv.weight"]
    torch.save(state, tmp_path / "best_model.pt")
    with pytest.raises(CheckpointError, match="Wqkv|qkv"):
        fitted(data, {**QUICK, "init": "checkpoint"}, checkpoint=tmp_path)


def test_genes_missing_at_prediction_are_named(toy):
    data, _ = toy
    method = fitted(data)
    with pytest.raises(DataError, match=r"1 of 30 genes seen in fit .*'G7'"):
        method.predict(data[:, data.var_names != "G7"].copy())


def test_the_most_variable_genes_are_kept(toy):
    data, _ = toy
    params = parse_params(ScGPTAnnotation, {"n_hvg": 6})
    train = data.layers["lognorm"][(data.obs["split"] == "train").to_numpy()].toarray()
    expected = data.var_names[np.argsort(-train.var(axis=0))[:6]]
    assert list(choose_genes(data, params)) == sorted(expected)
    everything = parse_params(ScGPTAnnotation, {"n_hvg": 5000})
    assert len(choose_genes(data, everything)) == 30


def test_test_cells_do_not_choose_the_genes(toy):
    data, _ = toy
    changed = data.copy()
    scale = np.where(data.obs["split"] == "train", 1.0, 9.0)
    changed.layers["lognorm"] = data.layers["lognorm"].multiply(scale[:, None]).tocsr()
    params = parse_params(ScGPTAnnotation, {"n_hvg": 6})
    assert list(choose_genes(changed, params)) == list(choose_genes(data, params))


def test_max_length_and_include_zero_shape_the_sequences(toy):
    data, _ = toy
    cells = np.arange(20)
    assert tokens_of(
        fitted(data, {**QUICK, "include_zero": True}), data, cells
    ).lengths.tolist() == ([31] * 20)
    assert tokens_of(fitted(data, {**QUICK, "max_length": 6}), data, cells).lengths.max() == 6


def test_without_validation_cells_the_last_epoch_counts(toy, caplog):
    data, _ = toy
    data = data[data.obs["split"] != "valid"].copy()
    method = fitted(data, {**QUICK, "epochs": 2})
    assert method.result.best_epoch == 1
    assert "no validation cells" in caplog.text


def test_a_finished_training_in_scratch_is_taken_up(toy, tmp_path):
    data, _ = toy
    first = fitted(data, scratch=tmp_path).predict(data)
    assert [path.name for path in tmp_path.iterdir()] == [resume.FILE_NAME]
    again = fitted(data, scratch=tmp_path)
    assert again.result.resumed_step == again.result.n_steps
    assert np.array_equal(again.predict(data).obsm["X_emb"], first.obsm["X_emb"])
    other = fitted(data, {**QUICK, "objectives": {"cls": 2.0}}, scratch=tmp_path)
    assert other.result.resumed_step == 0


def test_further_objectives_can_be_weighted_in(toy):
    data, _ = toy
    objectives = {"cls": 1.0, "gep": 0.1, "gepc": 0.1}
    method = fitted(data, {**QUICK, "objectives": objectives, "mask_ratio": 0.25})
    assert {row["objective"] for row in method.history} == {"loss", "cls", "gep", "gepc"}
    assert method.predict(data).n_obs == 60


def test_one_type_cannot_be_learned(toy):
    data, _ = toy
    data = data[(data.obs["cell_type"] == "T") | (data.obs["split"] == "test")].copy()
    with pytest.raises(DataError, match="single type 'T'"):
        fitted(data)


def test_softmax_equals_pytorchs():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32) * 30
    expected = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    assert np.allclose(softmax(logits), expected, atol=1e-12)
