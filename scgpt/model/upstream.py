"""Folders in the official layout: `best_model.pt`, `args.json`, `vocab.json`, in and out."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scgpt.errors import CheckpointError
from scgpt.files import atomic_path, write_json
from scgpt.model.checkpoint import (
    CONFIG_FILE,
    LoadedModel,
    check_vocab,
    looks_like_html,
    open_checkpoint,
    read_checkpoint_json,
    read_vocab,
    vocab_digest,
)
from scgpt.model.receipt import LoadReceipt, fill
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream_config import config_from_official
from scgpt.model.upstream_names import from_official, to_official_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scgpt.model.config import ScGPTConfig
    from scgpt.model.upstream_names import AttentionNames

WEIGHTS_FILE, ARGS_FILE, VOCAB_FILE = "best_model.pt", "args.json", "vocab.json"
GENE_INIT_RANGE = 0.1


@dataclass(frozen=True)
class KnownVocab:
    """A released vocabulary: its size, its special tokens, its fingerprint."""

    n_tokens: int
    specials: dict[str, int]
    digest: str


KNOWN_VOCABS = {
    "whole-human": KnownVocab(
        n_tokens=60_697,
        specials={"<pad>": 60_694, "<cls>": 60_695, "<eoc>": 60_696},
        digest="b79dc5e8c629abb3cde6995c2c00e31eb095bde418ffcb517ab118dee5601f47",
    )
}
"""Vocabularies that `expect` may name."""

_UNUSED_BY_DESIGN = {
    "decoder.bias_decoder.zero_logit.*": "the affine decoder reads the coefficient's zero model",
}


def load_official(
    folder: str | Path, *, allow: Mapping[str, str] | None = None, **options: Any
) -> tuple[ScGPT, LoadReceipt]:
    """Return the network of an official folder and its receipt; see `open_official`."""
    loaded = open_official(folder, allow=allow, **options)
    return loaded.model, loaded.receipt


def open_official(
    folder: str | Path,
    *,
    expect: str | None = None,
    allow: Mapping[str, str] | None = None,
    seed: int = 0,
    **overrides: Any,
) -> LoadedModel:
    """Load an official checkpoint strictly.

    Parameters
    ----------
    folder
        Folder with `best_model.pt`, `args.json` and `vocab.json`.
    expect
        Name of a known vocabulary (`KNOWN_VOCABS`) that the folder must have.
    allow
        Declared exceptions, by tensor-name pattern (ours or official) with a reason; for batch
        labels `{"decoder.fc.0.weight": "labels double it", "batch_encoder.*": "new data"}`.
    seed
        Seed of the tensors that are not loaded.
    **overrides
        Fields of `ScGPTConfig` that no file states or that shall differ.

    Raises
    ------
    CheckpointError
        If a file is damaged, holds more than tensors or contradicts another, or a tensor is not
        explained.

    Notes
    -----
    Three mistakes leave no trace in the files: ids permuted among themselves (compare
    `receipt.vocab_digest`, or pass `expect`), a wrong number of heads that divides the width, and
    a transposed square matrix.
    """
    folder = Path(folder)
    args = _read_args(folder / ARGS_FILE)
    vocab = read_vocab(folder / VOCAB_FILE)
    digest = _check_known(vocab, expect, folder / VOCAB_FILE)
    state = read_state_dict(folder / WEIGHTS_FILE)
    try:
        state, notes = _without_prefix(state)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        config = config_from_official(args, vocab, shapes, overrides)
        model = ScGPT(config, seed=seed)
        rows = fill(
            model,
            _by_our_name(state),
            allow={**_UNUSED_BY_DESIGN, **(allow or {})},
            file_name=_official_namer(config),
        )
    except CheckpointError as error:
        msg = f"{folder}: {error}"
        raise CheckpointError(msg) from error
    notes += [*_dtype_notes(state), *_pad_row_notes(model)]
    receipt = LoadReceipt(str(folder), rows, digest, tuple(notes))
    return LoadedModel(model, vocab, receipt, {"args": args})


def _read_args(path: Path) -> dict[str, Any]:
    args = read_checkpoint_json(path)
    if not isinstance(args, dict):
        msg = f"{path}: expected a JSON object"
        raise CheckpointError(msg)
    return args


def open_model(folder: str | Path, **options: Any) -> LoadedModel:
    """Load a checkpoint folder of either layout; see `open_checkpoint` and `open_official`."""
    folder = Path(folder)
    ours = (folder / CONFIG_FILE).is_file()
    return open_checkpoint(folder, **options) if ours else open_official(folder, **options)


def to_official(model: ScGPT, *, attention: AttentionNames = "Wqkv") -> dict[str, Tensor]:
    """Return the tensors of `model` under their official names, bit for bit."""
    official_name = _official_namer(model.config, attention=attention)
    return {official_name(name): tensor.detach() for name, tensor in model.state_dict().items()}


def _official_namer(
    config: ScGPTConfig, attention: AttentionNames = "Wqkv"
) -> Callable[[str], str]:
    return partial(
        to_official_name,
        category_values=config.value_encoding == "category",
        attention=attention,
    )


def save_official(
    folder: str | Path, model: ScGPT, vocab: Mapping[str, int], args: Mapping[str, Any]
) -> None:
    """Write `model` in the official layout.

    Parameters
    ----------
    folder
        Folder to write into.
    model, vocab
        The network and its vocabulary, token to id.
    args
        Further keys of `args.json`, such as those of the file the network came from; sizes and
        value conventions are taken from the network.
    """
    folder = Path(folder)
    vocab = check_vocab(vocab, where="the vocabulary to be saved")
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        torch.save(to_official(model), temporary)
    write_json(folder / ARGS_FILE, {**args, **_official_args(model.config, vocab)})
    write_json(folder / VOCAB_FILE, vocab)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a file of tensors saved by PyTorch, without running anything in it.

    Raises
    ------
    CheckpointError
        If it is missing, truncated, a web page, or holds anything but named tensors.
    """
    path = Path(path)
    _check_container(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{path}: holds Python objects other than tensors, or is damaged; refused, because "
            "unpickling such a file can run any program"
        )
        raise CheckpointError(msg) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        msg = f"{path}: damaged or not a PyTorch file ({str(error).splitlines()[0]})"
        raise CheckpointError(msg) from error
    if not isinstance(state, dict):
        msg = f"{path}: holds a {type(state).__name__}; expected a dictionary of tensors"
        raise CheckpointError(msg)
    odd = [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]
    if odd or not state:
        what = f"{odd[0]!r} is a {type(state[odd[0]]).__name__}" if odd else "it is empty"
        msg = f"{path}: expected a bare dictionary of named tensors, but {what}"
        raise CheckpointError(msg)
    return dict(state)


def _check_container(path: Path) -> None:
    if not path.is_file():
        msg = f"{path}: no such file; an official checkpoint folder needs it"
        raise CheckpointError(msg)
    with path.open("rb") as file:
        start = file.read(4)
    if looks_like_html(path):
        msg = f"{path}: a web page, not weights; the download got a notice instead of the file"
        raise CheckpointError(msg)
    if not start or (start.startswith(b"PK") and not zipfile.is_zipfile(path)):
        msg = f"{path}: truncated ({path.stat().st_size} bytes); download it again"
        raise CheckpointError(msg)


def _without_prefix(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Drop the `module.` that data-parallel training puts before every name."""
    if not any(name.startswith("module.") for name in state):
        return state, []
    bare = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if len(bare) != len(state):
        msg = "the file holds the same tensor with and without the prefix 'module.'"
        raise CheckpointError(msg)
    return bare, ["the prefix 'module.' of data-parallel training was dropped"]


def _by_our_name(state: dict[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    ours: dict[str, tuple[str, Tensor]] = {}
    for source, tensor in state.items():
        name = from_official(source) or f"unknown {source}"
        if name in ours:
            msg = f"{ours[name][0]} and {source} are two names of the same tensor"
            raise CheckpointError(msg)
        ours[name] = (source, tensor)
    return ours


def _check_known(vocab: Mapping[str, int], expect: str | None, path: Path) -> str:
    digest = vocab_digest(vocab)
    if expect is not None and expect not in KNOWN_VOCABS:
        msg = f"unknown vocabulary {expect!r}; known: {', '.join(KNOWN_VOCABS)}"
        raise CheckpointError(msg)
    if expect is not None and digest != KNOWN_VOCABS[expect].digest:
        msg = f"{path}: not the {expect} vocabulary (digest {digest[:12]}); genes would be mixed up"
        raise CheckpointError(msg)
    for name, known in KNOWN_VOCABS.items():
        if len(vocab) != known.n_tokens or not set(known.specials) <= set(vocab):
            continue
        for token, row in known.specials.items():
            if vocab[token] != row:
                msg = (
                    f"{path}: {token!r} has id {vocab[token]}, but {row} in the {name} vocabulary "
                    f"of this size; the ids were shuffled"
                )
                raise CheckpointError(msg)
    return digest


def _dtype_notes(state: Mapping[str, Tensor]) -> list[str]:
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return [
        f"{str(kind).removeprefix('torch.')} tensors were converted to float32"
        for kind in sorted(kinds - {torch.float32}, key=str)
    ]


def _pad_row_notes(model: ScGPT) -> list[str]:
    pad_row = model.gene_encoder.table.weight[model.config.pad_id].detach()
    largest = float(pad_row.abs().max())
    if largest <= GENE_INIT_RANGE:
        return []
    return [
        f"the padding row of the gene table reaches {largest:.3g}; training leaves it within "
        f"{GENE_INIT_RANGE}, so the padding id or the vocabulary may be wrong"
    ]


def _official_args(config: ScGPTConfig, vocab: Mapping[str, int]) -> dict[str, Any]:
    pad_token = next(token for token, row in vocab.items() if row == config.pad_id)
    return {
        "embsize": config.d_model,
        "nheads": config.n_heads,
        "nlayers": config.n_layers,
        "d_hid": config.d_ff,
        "n_layers_cls": config.n_layers_cls,
        "dropout": config.dropout,
        "n_bins": config.n_bins,
        "pad_token": pad_token,
        "pad_value": config.pad_value,
        "mask_value": config.mask_value,
        "input_emb_style": config.value_encoding,
    }
