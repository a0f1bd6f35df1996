"""Every model becomes one folder in one layout, whatever made it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgpt.errors import CheckpointError
from scgpt.files import read_json
from scgpt.library.models import load_model
from scgpt.steps import model as step
from scgpt.twins import checkpoint

SPEC = {"model": "m", "seed": 3, "title": "M", "reference": "r", "like": None}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    checkpoint.write(folder, seed=1, n_genes=600, d_model=16, n_heads=2, n_layers=1)
    return folder


def make(folder, source, **spec):
    step.run({**SPEC, "source": str(source), **spec}, folder=folder)
    return load_model(folder, device="cpu")


def weights(model):
    return model.model.state_dict()


def test_a_fetched_model_keeps_every_number(source, tmp_path):
    made, official = make(tmp_path, source, init="fetched"), load_model(source, device="cpu")
    assert made.digest() == official.digest()
    assert made.config == official.config
    card = read_json(tmp_path / "card.json")
    assert card["digest"] == official.digest()
    assert card["receipt"]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "vocab.json", "weights.safetensors", "card.json"),
    }


def test_a_random_model_has_the_architecture_alone(source, tmp_path):
    fetched = make(tmp_path / "fetched", source, init="fetched")
    spec = {"init": "random", "like": "fetched"}
    first = make(tmp_path / "a", tmp_path / "fetched", **spec)
    again = make(tmp_path / "b", tmp_path / "fetched", **spec)
    other = make(tmp_path / "c", tmp_path / "fetched", **spec, seed=4)
    assert first.config == fetched.config
    assert first.vocab.tokens == fetched.vocab.tokens
    assert {k: v.shape for k, v in weights(first).items()} == {
        k: v.shape for k, v in weights(fetched).items()
    }
    assert first.digest() == again.digest()
    assert len({first.digest(), fetched.digest(), other.digest()}) == 3
    name = "gene_encoder.table.weight"
    correlation = np.corrcoef(weights(first)[name].flatten(), weights(fetched)[name].flatten())
    assert abs(correlation[0, 1]) < 0.1
    assert not torch.equal(weights(first)[name], weights(fetched)[name])


def test_a_source_that_is_no_model_is_named_and_nothing_is_written(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model is in this folder"):
        step.run(
            {**SPEC, "init": "fetched", "source": str(tmp_path / "empty")}, folder=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
