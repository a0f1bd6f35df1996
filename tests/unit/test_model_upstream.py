"""Official checkpoint folders: what loads, what is refused, and with which words."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import time
from pathlib import Path

import pytest
import torch

from scgpt.errors import CheckpointError, ConfigError
from scgpt.model.checkpoint import save_checkpoint, vocab_digest
from scgpt.model.config import ScGPTConfig
from scgpt.model.receipt import fill
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream import (
    KNOWN_VOCABS,
    load_official,
    open_model,
    open_official,
    read_state_dict,
    save_official,
    to_official,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "model" / "base_cls_mvc_ecs_cce"
QKV = "transformer_encoder.layers.1.self_attn.Wqkv.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "official"))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "best_model.pt", weights_only=True)


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    state = read_weights(folder)
    for name, tensor in changes.items():
        state.pop(name, None)
        if tensor is not None:
            state[name] = tensor
    torch.save(state, folder / "best_model.pt")


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_refused(folder: Path, complaint: str, **options: object) -> None:
    """Refused with one line that names the place."""
    with pytest.raises(CheckpointError, match=complaint) as caught:
        open_official(folder, **options)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_good_folder_loads_with_every_tensor_in_the_receipt(folder: Path) -> None:
    model, receipt = load_official(folder)
    assert receipt.count("loaded") == len(receipt.rows) == len(read_weights(folder)) == 64
    assert {row.source for row in receipt.rows} == set(read_weights(folder))
    assert model.config.n_classes == 5
    assert model.config.gepc == "inner product"
    assert "64 tensors, 64 loaded, 0 missing" in receipt.summary()
    assert json.loads(json.dumps(receipt.to_dict()))["vocab_digest"] == receipt.vocab_digest


def test_conversion_back_is_bit_exact(folder: Path, tmp_path: Path) -> None:
    loaded = open_official(folder)
    original, converted = read_weights(folder), to_official(loaded.model)
    assert set(converted) == set(original)
    assert all(torch.equal(converted[name], tensor) for name, tensor in original.items())
    save_official(tmp_path / "again", loaded.model, loaded.vocab, loaded.extra["args"])
    again = read_weights(tmp_path / "again")
    assert all(torch.equal(again[name], tensor) for name, tensor in original.items())
    assert open_official(tmp_path / "again").model.config == loaded.model.config


# The twelve ways in which a checkpoint can be wrong.


def test_missing_tensor(folder: Path) -> None:
    change_weights(folder, **{QKV: None})
    assert_refused(folder, rf"1 tensor\(s\) do not fit: {QKV} \(missing\)")


def test_transposed_tensor(folder: Path) -> None:
    change_weights(folder, **{QKV: read_weights(folder)[QKV].T.contiguous()})
    assert_refused(folder, rf"{QKV} \(shape \(64, 192\) in the file \(transposed\), \(192, 64\)")


def test_transposed_gene_table(folder: Path) -> None:
    name = "encoder.embedding.weight"
    change_weights(folder, **{name: read_weights(folder)[name].T.contiguous()})
    assert_refused(folder, r"encoder\.embedding\.weight is transposed")


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_wrong_vocabulary_size(folder: Path, change: str) -> None:
    vocab = json.loads((folder / "vocab.json").read_text())
    if change == "more":
        vocab["ONE MORE"] = len(vocab)
    else:
        del vocab["<eoc>"]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    assert_refused(folder, rf"vocab\.json has {len(vocab)} tokens, but .* has 160 rows")


@pytest.mark.parametrize(
    ("token", "row", "complaint"),
    [
        ("GENE3", 160, "must be 0 to 159, each once, but id 4"),
        ("GENE3", 4, r"id 4 .*used twice|id 4 .*stands where 3"),
        ("GENE3", -1, "id -1"),
        ("GENE3", 3.0, "'GENE3' is 3.0; expected a whole number"),
        ("GENE3", "3", "'GENE3' is '3'"),
        ("GENE3", True, "'GENE3' is True"),
    ],
)
def test_shuffled_ids_that_do_not_fit_the_table(
    folder: Path, token: str, row: object, complaint: str
) -> None:
    change_json(folder / "vocab.json", **{token: row})
    assert_refused(folder, complaint)


def test_nan_weights(folder: Path) -> None:
    tensor = read_weights(folder)[QKV]
    tensor[0, :3] = float("nan")
    tensor[1, 0] = float("inf")
    change_weights(folder, **{QKV: tensor})
    assert_refused(folder, rf"NaN or infinity: {QKV} \(4 of 12288 values\)")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file(folder: Path, share: float) -> None:
    path = folder / "best_model.pt"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_refused(folder, "truncated|damaged")


def test_truncated_json(folder: Path) -> None:
    path = folder / "vocab.json"
    path.write_text(path.read_text()[:100])
    assert_refused(folder, r"vocab\.json: not JSON")


@pytest.mark.parametrize("file", ["best_model.pt", "args.json", "vocab.json"])
def test_web_page_instead_of_the_file(folder: Path, file: str) -> None:
    (folder / file).write_text("\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded")
    assert_refused(folder, rf"{file}: a web page")


class _Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickle_with_code_is_not_run(folder: Path, tmp_path: Path, writer: str) -> None:
    trace = tmp_path / "was run"
    content = read_weights(folder) | {"extra": _Bomb(trace)}
    if writer == "torch":
        torch.save(content, folder / "best_model.pt")
    else:
        (folder / "best_model.pt").write_bytes(pickle.dumps({"extra": _Bomb(trace)}, protocol=2))
    assert_refused(folder, "Python objects other than tensors.*refused")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"nheads": 7}, "d_model 64 cannot be split into 7 attention heads"),
        ({"nheads": "4"}, "'nheads' is '4'; expected a whole number"),
        ({"nheads": None}, "'nheads' is None"),
        ({"embsize": 128}, "embsize 128, but encoder.embedding.weight has 64 columns"),
        ({"nlayers": 4}, "nlayers 4, but the file has 3 layers"),
        ({"d_hid": 64}, "d_hid 64, but .* has 96 rows"),
        ({"pad_token": "<none>"}, "padding token '<none>', which is not in vocab"),
    ],
)
def test_wrong_sizes_in_args(folder: Path, change: dict, complaint: str) -> None:
    change_json(folder / "args.json", **change)
    assert_refused(folder, complaint)


def test_duplicate_symbols(folder: Path) -> None:
    path = folder / "vocab.json"
    path.write_text(path.read_text().replace('"GENE7"', '"GENE6"'))
    assert_refused(folder, r"1 token\(s\) stand .* more than once, e\.g\. 'GENE6'")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_and_said_so(folder: Path, kind: torch.dtype) -> None:
    halves = {name: tensor.to(kind) for name, tensor in read_weights(folder).items()}
    torch.save(halves, folder / "best_model.pt")
    model, receipt = load_official(folder)
    word = str(kind).removeprefix("torch.")
    assert all(row.reason == f"converted from {word}" for row in receipt.rows)
    assert f"{word} tensors were converted to float32" in receipt.notes
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert torch.equal(model.gene_encoder.table.weight, halves["encoder.embedding.weight"].float())


def test_extra_tensors(folder: Path) -> None:
    change_weights(folder, **{"adapter.weight": torch.ones(2, 3)})
    assert_refused(folder, r"adapter\.weight \(shape \(2, 3\), no place in the network\)")


def test_our_own_names_are_no_back_door(folder: Path) -> None:
    change_weights(folder, **{"gep.expression.0.bias": torch.ones(64), "decoder.fc.0.bias": None})
    assert_refused(folder, r"2 tensor\(s\) do not fit: decoder\.fc\.0\.bias \(missing\)")


# What else may come.


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([torch.ones(2)], "holds a list"),
        ({}, "it is empty"),
        ({"model_state_dict": {"a": torch.ones(2)}}, "'model_state_dict' is a dict"),
        ({"a": torch.ones(2), "epoch": 3}, "'epoch' is a int"),
    ],
)
def test_other_contents_are_refused(folder: Path, content: object, complaint: str) -> None:
    torch.save(content, folder / "best_model.pt")
    assert_refused(folder, complaint)


@pytest.mark.parametrize("file", ["best_model.pt", "args.json", "vocab.json"])
def test_missing_files_are_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert_refused(folder, rf"{file}: no such file")


@pytest.mark.parametrize("names", ["in_proj_", "_impl.Wqkv."])
def test_all_official_names_of_attention_are_understood(folder: Path, names: str) -> None:
    expected = to_official(open_official(folder).model)
    state = {name.replace("Wqkv.", names): tensor for name, tensor in expected.items()}
    torch.save({f"module.{name}": t for name, t in state.items()}, folder / "best_model.pt")
    loaded = open_official(folder)
    assert any("'module.'" in note for note in loaded.receipt.notes)
    again = to_official(loaded.model)
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_two_names_of_one_tensor_are_refused(folder: Path) -> None:
    twin = QKV.replace("Wqkv.", "in_proj_")
    change_weights(folder, **{twin: read_weights(folder)[QKV]})
    assert_refused(folder, "are two names of the same tensor")
    change_weights(folder, **{twin: None, f"module.{QKV}": torch.ones(192, 64)})
    assert_refused(folder, "with and without the prefix 'module.'")


def test_a_new_task_declares_its_fresh_tensors(folder: Path) -> None:
    options = {"n_classes": 9, "n_batch_labels": 2}
    assert_refused(folder, r"tensor\(s\) do not fit", **options)
    allow = {
        "cls_decoder.out_layer.*": "another set of cell types",
        "batch_encoder.*": "batches of this data set",
        "decoder.fc.0.weight": "batch labels double its input",
        "gepc.expression.weight": "batch labels double its output",
    }
    model, receipt = load_official(folder, allow=allow, **options)
    status = {row.source: (row.status, row.reason) for row in receipt.rows}
    assert status["cls_decoder.out_layer.bias"] == (
        "reshaped",
        "shape (5,) in the file, (9,) in the network: another set of cell types",
    )
    assert status["batch_encoder.embedding.weight"][0] == "missing"
    assert status["decoder.fc.0.weight"][0] == "reshaped"
    assert status["mvc_decoder.W.weight"][0] == "reshaped"
    assert status["decoder.fc.2.weight"] == ("loaded", "")
    assert receipt.count("reshaped") == 4
    assert receipt.count("missing") == 3
    fresh = ScGPT(model.config)
    assert torch.equal(model.gep.expression[0].weight, fresh.gep.expression[0].weight)
    assert not torch.equal(model.gep.expression[2].weight, fresh.gep.expression[2].weight)


def test_a_dropped_head_has_to_be_declared(folder: Path) -> None:
    assert_refused(folder, r"mvc_decoder\.gene2query\.weight .*no place", gepc=None)
    _, receipt = load_official(folder, gepc=None, allow={"mvc_decoder.*": "not needed"})
    unused = [row for row in receipt.rows if row.status == "unused"]
    assert {row.reason for row in unused} == {"not needed"}
    assert len(unused) == 3


def test_a_refused_file_leaves_no_half_filled_network(folder: Path) -> None:
    change_weights(folder, **{QKV: None})
    model = ScGPT(open_official(GOLDEN).model.config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: (name, t) for name, t in open_official(GOLDEN).model.state_dict().items()}
    del state["gep.expression.0.bias"]
    with pytest.raises(CheckpointError, match="missing"):
        fill(model, state, allow={})
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_wrong_overrides_are_config_errors(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cell_embedding is 'max'"):
        open_official(folder, cell_embedding="max")
    with pytest.raises(ConfigError, match="unknown model option 'n_clases'"):
        open_official(folder, n_clases=3)


@pytest.mark.parametrize(
    "options",
    [
        {"generative": True, "gepc": "inner product"},
        {"n_batch_labels": 2, "gepc": "inner product", "multiomic": True},
        {"n_modalities": 3, "modality_pad_id": 2, "multiomic": True},
        {"input_norm": "batchnorm", "n_classes": 4, "n_layers_cls": 2},
        {"input_norm": "dsbn", "n_batch_labels": 3, "batch_embedding": False, "dar": True},
        {"value_encoding": "category", "pad_value": 51, "explicit_zero": True},
        {"value_encoding": "scaling", "n_classes": 1, "n_layers_cls": 1},
        {"n_perturbation_flags": 3, "gep": "affine", "explicit_zero": True},
        {"n_perturbation_flags": 3, "gepc": "sum query"},
        {"gepc": "concat query"},
    ],
)
def test_options_are_read_off_the_tensors(options: dict, tmp_path: Path) -> None:
    config = ScGPTConfig(
        n_tokens=12, pad_id=9, d_model=16, n_heads=2, n_layers=2, d_ff=8, **options
    )
    model = ScGPT(config, seed=3)
    vocab = {"<pad>": 9, "<cls>": 10, "<eoc>": 11} | {f"G{row}": row for row in range(9)}
    save_official(tmp_path, model, vocab, {"note": "kept"})
    told = {name: options[name] for name in ("modality_pad_id",) if name in options}
    loaded = open_official(tmp_path, **told)
    assert loaded.model.config == config
    assert loaded.extra["args"]["note"] == "kept"
    assert loaded.vocab == vocab
    pairs = zip(model.state_dict().items(), loaded.model.state_dict().items(), strict=True)
    assert all(one[0] == two[0] and torch.equal(one[1], two[1]) for one, two in pairs)


def test_affine_offset_without_its_unused_zero_model_loads(tmp_path: Path) -> None:
    config = ScGPTConfig(
        n_tokens=12, pad_id=9, d_model=16, n_heads=2, n_layers=1, d_ff=8,
        n_perturbation_flags=3, gep="affine", explicit_zero=True,
    )  # fmt: skip
    vocab = {"<pad>": 9} | {f"G{row}": row for row in range(12) if row != 9}
    save_official(tmp_path, ScGPT(config), vocab, {})
    state = read_weights(tmp_path)
    kept = {name: t for name, t in state.items() if "bias_decoder.zero_logit" not in name}
    torch.save(kept, tmp_path / "best_model.pt")
    _, receipt = load_official(tmp_path)
    assert receipt.count("missing") == 6
    assert all(row.reason for row in receipt.rows if row.status == "missing")


def whole_human_vocab() -> dict[str, int]:
    specials = KNOWN_VOCABS["whole-human"].specials
    return {f"GENE{row}": row for row in range(60_694)} | specials


def write_released_size(folder: Path, vocab: dict[str, int]) -> None:
    """Write a random file with the tensors of the released whole-human model."""
    config = ScGPTConfig(n_tokens=60_697, pad_id=60_694, generative=True, gepc="inner product")
    save_official(folder, ScGPT(config), vocab, {"nheads": 8})


def test_a_checkpoint_of_released_size_loads_in_seconds(tmp_path: Path) -> None:
    write_released_size(tmp_path, whole_human_vocab())
    state = read_state_dict(tmp_path / "best_model.pt")
    assert len(state) == 163
    assert sum(tensor.numel() for tensor in state.values()) == 51_330_049
    assert tuple(state["transformer_encoder.layers.11.self_attn.Wqkv.weight"].shape) == (1536, 512)
    del state
    before = time.process_time()
    loaded = open_official(tmp_path)
    assert time.process_time() - before < 30
    assert loaded.receipt.count("loaded") == len(loaded.receipt.rows) == 163
    assert (loaded.model.config.n_layers, loaded.model.config.n_heads) == (12, 8)
    assert loaded.receipt.notes == ()
    change_json(tmp_path / "args.json", nheads=16)
    assert_refused(tmp_path, "nheads 16, but all released models of this size have 8")
    assert open_official(tmp_path, n_heads=16).model.config.n_heads == 16
    assert_refused(tmp_path, "not the whole-human vocabulary", expect="whole-human")
    vocab = whole_human_vocab()
    vocab["<cls>"], vocab["GENE5"] = vocab["GENE5"], vocab["<cls>"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    assert_refused(tmp_path, "'<cls>' has id 5, but 60695 in the whole-human vocabulary")


def test_the_released_vocabulary_is_recognised(shared_dir: Path) -> None:
    path = shared_dir / "data" / "vocab" / "default_census_vocab.json"
    known = KNOWN_VOCABS["whole-human"]
    vocab = json.loads(path.read_text()) | known.specials
    assert vocab_digest(vocab) == known.digest
    tokens = list(vocab)
    random.Random(0).shuffle(tokens)
    assert vocab_digest({token: vocab[token] for token in tokens}) == known.digest


def test_a_permuted_vocabulary_shows_in_the_digest_only(folder: Path) -> None:
    expected = open_official(folder).receipt.vocab_digest
    vocab = json.loads((folder / "vocab.json").read_text())
    change_json(folder / "vocab.json", GENE1=vocab["GENE2"], GENE2=vocab["GENE1"])
    assert open_official(folder).receipt.vocab_digest != expected


def test_an_unknown_expected_vocabulary_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="unknown vocabulary 'mouse'; known: whole-human"):
        open_official(folder, expect="mouse")


def test_a_suspicious_padding_row_is_noted(folder: Path) -> None:
    assert any("padding row" in note for note in open_official(folder).receipt.notes)
    table = read_weights(folder)["encoder.embedding.weight"]
    table[157] = 0.05
    change_weights(folder, **{"encoder.embedding.weight": table})
    assert open_official(folder).receipt.notes == ()


def test_either_layout_opens(folder: Path, tmp_path: Path) -> None:
    official = open_model(folder)
    save_checkpoint(tmp_path / "ours", official.model, official.vocab)
    ours = open_model(tmp_path / "ours")
    pairs = zip(official.model.parameters(), ours.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert ours.receipt.vocab_digest == official.receipt.vocab_digest
