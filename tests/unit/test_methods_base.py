from __future__ import annotations

import re

import numpy as np
import pytest
from pydantic import Field, ValidationError

from scgpt.errors import ConfigError
from scgpt.methods.base import (
    Method,
    MethodContext,
    MethodParams,
    load_method,
    parse_params,
)
from scgpt.methods.predictions import annotation_prediction


class ToyParams(MethodParams):
    width: int = Field(default=3, ge=1)
    rate: float = 0.5


class Toy(Method):
    Params = ToyParams

    def fit(self, data):
        """Learn nothing."""

    def predict(self, data):
        """Repeat the input."""
        return data


class Unfinished(Method):
    def fit(self, data):
        """Learn nothing."""


def test_a_method_is_found_by_its_entry_point():
    found = load_method("scgpt.methods.controls.annotation:MajorityVote")
    assert found.__name__ == "MajorityVote"
    assert issubclass(found, Method)


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("scgpt.methods.controls.annotation", "not of the form package.module:ClassName"),
        ("scgpt.methods.controls.annotation:", "not of the form"),
        (":MajorityVote", "not of the form"),
        ("scgpt.methods.contrl:MajorityVote", "no module scgpt.methods.contrl"),
        ("scgtp.methods.controls:MajorityVote", "no module scgtp"),
        (
            "scgpt.methods.controls.annotation:MajorityVotes",
            r"has no MajorityVotes; methods: \['MajorityVote', 'ShuffledLabels', 'TrueLabels'\]",
        ),
        ("scgpt.methods.controls.annotation:uniform_by_name", "not a concrete Method"),
        ("scgpt.methods.base:Method", "not a concrete Method"),
        ("scgpt.methods.base:MethodContext", "not a concrete Method"),
    ],
)
def test_a_wrong_entry_point_says_what_is_wrong(entry_point, message):
    with pytest.raises(ConfigError, match=message):
        load_method(entry_point)


def test_a_missing_dependency_is_told_from_a_missing_method(tmp_path, monkeypatch):
    (tmp_path / "needy_method.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs the package no_such_package_anywhere"):
        load_method("needy_method:Needy")


def test_parameters_are_typed_frozen_and_have_defaults():
    params = parse_params(Toy, {"width": 5})
    assert (params.width, params.rate) == (5, 0.5)
    with pytest.raises(ValidationError):
        params.width = 6


def test_every_wrong_parameter_is_named_with_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        parse_params(Toy, {"widht": 5, "rate": "fast", "width": 0})
    message = str(caught.value)
    assert "Toy.widht: unknown key. Known keys: rate, width" in message
    assert re.search(r"Toy\.rate: .*\(found 'fast'\)", message)
    assert re.search(r"Toy\.width: .*\(found 0\)", message)


@pytest.mark.parametrize("values", [[1], "width", None])
def test_parameters_must_be_a_mapping(values):
    with pytest.raises(ConfigError, match="expected a mapping"):
        parse_params(Toy, values)


def test_infinite_numbers_are_refused():
    with pytest.raises(ConfigError, match="rate"):
        parse_params(Toy, {"rate": float("inf")})


def test_a_method_takes_only_its_own_parameters():
    with pytest.raises(ConfigError, match="takes ToyParams"):
        Toy(MethodParams(), MethodContext(seed=0))
    with pytest.raises(TypeError):
        Unfinished(MethodParams(), MethodContext(seed=0))
    assert Toy(ToyParams(), MethodContext(seed=0)).history == []


def test_a_prediction_holds_the_contract_slots_and_nothing_else():
    prediction = annotation_prediction(
        ["b", "a"],
        ["T", "B"],
        categories=["T", "NK", "B"],
        confidence=np.array([0.5, 1.0 + 1e-12]),
        embedding=np.eye(2),
    )
    assert list(prediction.obs_names) == ["b", "a"]
    assert list(prediction.obs) == ["cell_type_pred", "confidence"]
    assert list(prediction.obs["cell_type_pred"]) == ["T", "B"]
    assert list(prediction.obs["cell_type_pred"].cat.categories) == ["B", "NK", "T"]
    assert prediction.obs["confidence"].max() == 1.0
    assert prediction.obsm["X_emb"].dtype == np.float32
    assert prediction.X is None
    assert list(annotation_prediction(["a"], ["T"], categories=["T"]).obs) == ["cell_type_pred"]
