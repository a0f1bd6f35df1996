"""The run record says which files a method was given, the pretrained weights among them."""

from __future__ import annotations

import hashlib

import pytest

from scgpt.files import sha256_file
from scgpt.steps import predict


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "scgpt_human"
    folder.mkdir()
    for name in ("best_model.pt", "args.json", "vocab.json", ".fetch.lock"):
        (folder / name).write_text(name)
    return folder


def test_weights_are_among_the_inputs(tmp_path, checkpoint, monkeypatch):
    (tmp_path / "data.h5ad").write_text("data")
    (tmp_path / "go.tsv").write_text("go")
    hashed = []
    monkeypatch.setattr(
        predict, "sha256_file", lambda path: hashed.append(path) or sha256_file(path)
    )
    digests = predict.input_digests(
        tmp_path / "data.h5ad", None, checkpoint, {"go": tmp_path / "go.tsv"}
    )
    names = [f"checkpoint/{name}" for name in ("args.json", "best_model.pt", "vocab.json")]
    assert sorted(digests) == [*names, "data", "go"]
    assert digests["checkpoint/best_model.pt"] == hashlib.sha256(b"best_model.pt").hexdigest()
    assert len(hashed) == len(set(hashed)) == 5


def test_method_from_scratch_has_no_checkpoint(tmp_path):
    (tmp_path / "data.h5ad").write_text("data")
    data = tmp_path / "data.h5ad"
    assert sorted(predict.input_digests(data, data, None, {})) == ["data", "truth"]
