"""Our checkpoint format: a folder of `config.json`, `vocab.json` and `weights.safetensors`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scgpt.errors import CheckpointError, ConfigError
from scgpt.files import atomic_path, sha256_file, write_json
from scgpt.model.config import ScGPTConfig
from scgpt.model.receipt import LoadReceipt, fill
from scgpt.model.scgpt import ScGPT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT = "scgpt-checkpoint"
FORMAT_VERSION = 1
CONFIG_FILE, VOCAB_FILE, WEIGHTS_FILE = "config.json", "vocab.json", "weights.safetensors"


class LoadedModel(NamedTuple):
    """A network with the vocabulary it was made for and the account of its loading."""

    model: ScGPT
    vocab: dict[str, int]
    receipt: LoadReceipt
    extra: dict[str, Any]


def save_checkpoint(
    folder: str | Path,
    model: ScGPT,
    vocab_tokens: Mapping[str, int] | Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `model` to `folder`; `config.json` comes last and vouches for the other two files.

    Parameters
    ----------
    folder
        Folder to write into; made if needed.
    model
        The network.
    vocab_tokens
        Tokens in the order of their ids, or a mapping of token to id.
    extra
        Anything JSON can hold that users of the checkpoint need, such as class names.

    Raises
    ------
    CheckpointError
        If the vocabulary does not fit the network.
    """
    folder = Path(folder)
    vocab = check_vocab(_as_mapping(vocab_tokens), where="the vocabulary to be saved")
    if len(vocab) != model.config.n_tokens:
        msg = f"the vocabulary has {len(vocab)} tokens, the network {model.config.n_tokens}"
        raise CheckpointError(msg)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary)
    write_json(folder / VOCAB_FILE, vocab)
    write_json(
        folder / CONFIG_FILE,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": model.config.to_dict(),
            "extra": dict(extra or {}),
            "vocab_digest": vocab_digest(vocab),
            "weights_sha256": sha256_file(folder / WEIGHTS_FILE),
        },
    )


def load_checkpoint(
    folder: str | Path, *, allow: Mapping[str, str] | None = None, **overrides: Any
) -> tuple[ScGPT, dict[str, int]]:
    """Return the network and the vocabulary (token to id) of `folder`; see `open_checkpoint`."""
    loaded = open_checkpoint(folder, allow=allow, **overrides)
    return loaded.model, loaded.vocab


def open_checkpoint(
    folder: str | Path,
    *,
    allow: Mapping[str, str] | None = None,
    seed: int = 0,
    **overrides: Any,
) -> LoadedModel:
    """Load a checkpoint strictly.

    Parameters
    ----------
    folder
        Folder written by `save_checkpoint`.
    allow
        Declared exceptions, by tensor-name pattern with a reason; see `receipt.fill`. Example:
        `{"cls.*": "new task"}` together with `n_classes=7`.
    seed
        Seed of the tensors that are not loaded.
    **overrides
        Fields of `ScGPTConfig` to change.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged or does not belong to the others, or a tensor is not
        explained.
    """
    folder = Path(folder)
    header = _read_header(folder)
    config = _read_config(header, folder, overrides)
    vocab = read_vocab(folder / VOCAB_FILE)
    digest = vocab_digest(vocab)
    if digest != header["vocab_digest"]:
        msg = f"{folder / VOCAB_FILE}: not the vocabulary this checkpoint was saved with"
        raise CheckpointError(msg)
    tensors = _read_weights(folder / WEIGHTS_FILE, header["weights_sha256"])
    model = ScGPT(config, seed=seed)
    rows = fill(model, {name: (name, t) for name, t in tensors.items()}, allow=allow or {})
    return LoadedModel(model, vocab, LoadReceipt(str(folder), rows, digest), header["extra"])


def read_vocab(path: str | Path) -> dict[str, int]:
    """Read a vocabulary file, a JSON object of token to id, and check it.

    Raises
    ------
    CheckpointError
        If it is not such a file, names a token twice, or its ids are not 0 ... n - 1, each once.
    """
    path = Path(path)
    pairs = read_checkpoint_json(path, pairs=True)
    if not isinstance(pairs, tuple):
        msg = f"{path}: expected a JSON object of token to id"
        raise CheckpointError(msg)
    counts: dict[str, int] = {}
    for token, _ in pairs:
        counts[token] = counts.get(token, 0) + 1
    twice = [token for token, count in counts.items() if count > 1]
    if twice:
        msg = (
            f"{path}: {len(twice)} token(s) stand in the vocabulary more than once, "
            f"e.g. {twice[0]!r}; each gene needs one id"
        )
        raise CheckpointError(msg)
    return check_vocab(dict(pairs), where=str(path))


def check_vocab(vocab: Mapping[str, int], *, where: str) -> dict[str, int]:
    """Return `vocab` in the order of its ids, which must be 0 ... n - 1, each once.

    A vocabulary whose ids were permuted among themselves passes: nothing in the weights says which
    row belongs to which gene. Only the digest tells (`vocab_digest`).

    Raises
    ------
    CheckpointError
        If it does not; the message names an offending token.
    """
    odd = [token for token, row in vocab.items() if not isinstance(row, int) or row is True]
    if odd:
        msg = f"{where}: the id of {odd[0]!r} is {vocab[odd[0]]!r}; expected a whole number"
        raise CheckpointError(msg)
    ordered = dict(sorted(vocab.items(), key=lambda pair: pair[1]))
    for expected, (token, row) in enumerate(ordered.items()):
        if row != expected:
            what = "is used twice" if 0 <= row < expected else f"stands where {expected} should be"
            msg = (
                f"{where}: the ids of {len(vocab)} tokens must be 0 to {len(vocab) - 1}, each "
                f"once, but id {row} ({token!r}) {what}"
            )
            raise CheckpointError(msg)
    return ordered


def vocab_digest(vocab: Mapping[str, int]) -> str:
    """Return the SHA-256 of the tokens in the order of their ids, one per line."""
    tokens = sorted(vocab, key=vocab.__getitem__)
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()


def read_checkpoint_json(path: Path, *, pairs: bool = False) -> Any:
    """Read JSON; with `pairs`, objects become tuples of pairs, so that repeated keys show.

    Raises
    ------
    CheckpointError
        If the file is missing or not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=tuple if pairs else None)
    except FileNotFoundError as error:
        msg = f"{path}: no such file; a checkpoint folder needs it"
        raise CheckpointError(msg) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        what = "a web page" if looks_like_html(path) else f"not JSON ({error})"
        msg = f"{path}: {what}; download or write the checkpoint again"
        raise CheckpointError(msg) from error


def looks_like_html(path: Path) -> bool:
    """Return whether a file starts like a web page, as a failed download does."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<script"))


def _as_mapping(vocab: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    if hasattr(vocab, "items"):
        return {token: int(row) for token, row in vocab.items()}
    tokens = list(vocab)
    if len(set(tokens)) != len(tokens):
        msg = "the vocabulary to be saved names a token more than once"
        raise CheckpointError(msg)
    return {token: row for row, token in enumerate(tokens)}


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    header = read_checkpoint_json(path)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        msg = f"{path}: not the config of a {FORMAT}"
        raise CheckpointError(msg)
    if header.get("format_version") != FORMAT_VERSION:
        msg = (
            f"{path}: format version {header.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}"
        )
        raise CheckpointError(msg)
    missing = {"model", "extra", "vocab_digest", "weights_sha256"} - set(header)
    if missing:
        msg = f"{path}: key {min(missing)!r} is missing"
        raise CheckpointError(msg)
    return header


def _read_config(header: dict[str, Any], folder: Path, overrides: dict[str, Any]) -> ScGPTConfig:
    try:
        config = ScGPTConfig.from_dict(header["model"])
    except ConfigError as error:
        msg = f"{folder / CONFIG_FILE}: {error}"
        raise CheckpointError(msg) from error
    return config.replace(**overrides)


def _read_weights(path: Path, digest: str) -> dict[str, Any]:
    if not path.is_file():
        msg = f"{path}: no such file; a checkpoint folder needs it"
        raise CheckpointError(msg)
    if sha256_file(path) != digest:
        msg = f"{path}: damaged or exchanged (its SHA-256 is not the one in {CONFIG_FILE})"
        raise CheckpointError(msg)
    try:
        return load_file(path)
    except SafetensorError as error:
        msg = f"{path}: not a safetensors file ({error})"
        raise CheckpointError(msg) from error
