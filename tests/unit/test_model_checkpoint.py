"""Our own checkpoint format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from scgpt.errors import CheckpointError, ConfigError
from scgpt.model.checkpoint import (
    check_vocab,
    load_checkpoint,
    open_checkpoint,
    read_vocab,
    save_checkpoint,
    vocab_digest,
)
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT

TOKENS = [f"G{row}" for row in range(9)] + ["<pad>", "<cls>", "<eoc>"]
CONFIG = ScGPTConfig(
    n_tokens=12,
    pad_id=9,
    d_model=16,
    n_heads=2,
    n_layers=2,
    d_ff=8,
    gepc="inner product",
    n_classes=3,
    n_batch_labels=2,
    input_norm="dsbn",
    attention_dropout=0.0,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "deep" / "folder"
    save_checkpoint(folder, ScGPT(CONFIG, seed=5), TOKENS, {"classes": ["a", "b", "c"]})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def test_round_trip_is_bit_exact(folder: Path) -> None:
    model, vocab = load_checkpoint(folder)
    expected = ScGPT(CONFIG, seed=5)
    assert model.config == CONFIG
    assert list(vocab) == TOKENS
    assert list(vocab.values()) == list(range(12))
    ours, theirs = model.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    loaded = open_checkpoint(folder)
    assert loaded.extra == {"classes": ["a", "b", "c"]}
    assert loaded.receipt.count("loaded") == len(loaded.receipt.rows) == len(theirs)


def test_the_folder_holds_three_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "vocab.json",
        "weights.safetensors",
    }


def test_saving_the_same_network_again_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    model, vocab = load_checkpoint(saved)
    save_checkpoint(tmp_path, model, vocab, open_checkpoint(saved).extra)
    for path in saved.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_new_heads_are_declared(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cls\.out\.weight \(shape \(3, 16\)"):
        open_checkpoint(folder, n_classes=7)
    loaded = open_checkpoint(folder, n_classes=7, allow={"cls.out.*": "new types"})
    assert loaded.receipt.count("reshaped") == 2
    assert loaded.model.cls.out.weight.shape == (7, 16)
    with pytest.raises(ConfigError, match="unknown model option"):
        open_checkpoint(folder, n_clas=7)


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "weights.safetensors"])
def test_missing_and_truncated_files_are_named(folder: Path, file: str) -> None:
    path = folder / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=file):
        load_checkpoint(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{file}: no such file"):
        load_checkpoint(folder)


def test_files_of_two_checkpoints_do_not_mix(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_checkpoint(other, ScGPT(CONFIG, seed=6), TOKENS[::-1])
    shutil.copyfile(other / "weights.safetensors", folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match="damaged or exchanged"):
        load_checkpoint(folder)
    shutil.copyfile(other / "vocab.json", folder / "vocab.json")
    with pytest.raises(CheckpointError, match="not the vocabulary this checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "other"}, "not the config of a scgpt-checkpoint"),
        ({"format_version": 99}, "format version 99"),
        ({"model": {"n_tokens": 12, "pad_id": 9, "embsize": 3}}, "unknown model option 'embsize'"),
        ({"model": {"n_tokens": 12}}, "'pad_id' is missing"),
    ],
)
def test_wrong_configs_are_refused(folder: Path, change: dict, complaint: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(folder)


def test_vocabularies_that_do_not_fit_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="11 tokens, the network 12"):
        save_checkpoint(tmp_path, ScGPT(CONFIG), TOKENS[:-1])
    with pytest.raises(CheckpointError, match="more than once"):
        save_checkpoint(tmp_path, ScGPT(CONFIG), [*TOKENS[:-1], "G0"])
    assert list(tmp_path.iterdir()) == []


def test_vocabulary_order_is_that_of_the_ids() -> None:
    assert list(check_vocab({"b": 1, "a": 0}, where="here")) == ["a", "b"]
    with pytest.raises(CheckpointError, match=r"here: .* id 3 \('b'\) stands where 1 should be"):
        check_vocab({"b": 3, "a": 0}, where="here")
    with pytest.raises(CheckpointError, match=r"id 0 \('a'\) is used twice"):
        check_vocab({"b": 0, "a": 0}, where="here")


def test_digest_depends_on_ids_not_on_the_order_of_writing() -> None:
    assert vocab_digest({"a": 0, "b": 1}) == vocab_digest({"b": 1, "a": 0})
    assert vocab_digest({"a": 0, "b": 1}) != vocab_digest({"a": 1, "b": 0})


def test_a_large_vocabulary_reads_fast(tmp_path: Path) -> None:
    import time

    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({f"GENE{row}": row for row in range(60_697)}))
    before = time.process_time()
    assert len(read_vocab(path)) == 60_697
    assert time.process_time() - before < 2
