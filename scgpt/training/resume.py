"""Checkpoints of a running training: written whole or not at all, plain enough to load safely."""

from __future__ import annotations

import hashlib
import logging
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scgpt.files import atomic_path, canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

FILE_NAME = "training.pt"
FORMAT = "scgpt-training-1"
# What reading a truncated, overwritten or foreign archive raises.
DAMAGED = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    zlib.error,
)


def run_digest(plain: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> str:
    """Return the digest of a run: its plain options and the weights it starts from.

    Parameters
    ----------
    plain
        JSON-compatible description of options, seed and data.
    state
        State dictionary of the network before the first step.
    """
    digest = hashlib.blake2b(canonical_json(plain).encode(), digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(folder: Path, content: Mapping[str, Any], *, digest: str) -> None:
    """Write a checkpoint atomically; `content` holds tensors and plain values only.

    A full disk costs the checkpoint and a line in the log, not the training.
    """
    path = Path(folder) / FILE_NAME
    try:
        with atomic_path(path) as temporary:
            torch.save({"format": FORMAT, "digest": digest, **content}, temporary)
    except (OSError, RuntimeError) as error:
        logger.warning("%s could not be written (%s): training goes on without it", path, error)


def load(folder: Path, *, digest: str) -> dict[str, Any] | None:
    """Return the checkpoint of the run with this digest, or None to start from the beginning.

    A damaged file, or one of another run, is left out with a line in the log that says so.
    """
    path = Path(folder) / FILE_NAME
    if not path.exists():
        return None
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.warning("%s is damaged (%s): training starts from the beginning", path, reason)
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        logger.warning("%s is not a training checkpoint: training starts from the beginning", path)
        return None
    if content["digest"] != digest:
        logger.warning(
            "%s belongs to a run with other options, data, seed or starting weights: "
            "training starts from the beginning",
            path,
        )
        return None
    return content


def _check_archive(path: Path) -> None:
    """Compare the checksums inside the file, which PyTorch does not do on reading."""
    with zipfile.ZipFile(path) as archive:
        wrong = archive.testzip()
    if wrong is not None:
        msg = f"the checksum of {wrong} does not fit"
        raise zipfile.BadZipFile(msg)
