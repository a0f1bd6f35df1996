"""One stored case: a folder with official weights, inputs and outputs, and what it was run with."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgpt.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

META_FILE, ARRAYS_FILE = "meta.json", "io.npz"
PLAIN, MULTIOMIC = "TransformerModel", "MultiOmicTransformerModel"
GENERATOR, PRETRAINING = "TransformerGenerator", "TransformerModel (dev-temp)"
CLASSES = (PLAIN, MULTIOMIC, GENERATOR, PRETRAINING)
FORWARD_FLAGS = ("CLS", "CCE", "MVC", "ECS", "do_sample")


@dataclass(frozen=True)
class Case:
    """A stored case.

    Parameters
    ----------
    folder
        Where it lies.
    model_class
        Official class, one of `CLASSES`.
    constructor, sizes, forward_flags
        Official constructor options, model sizes, and options of the forward pass.
    arrays
        Stored inputs (`in.*`) and outputs.
    """

    folder: Path
    model_class: str
    constructor: Mapping[str, Any]
    sizes: Mapping[str, int]
    forward_flags: Mapping[str, bool]
    arrays: Mapping[str, np.ndarray]

    @property
    def is_generative(self) -> bool:
        """Whether inputs are split into known and unknown genes."""
        return "in.pcpt_gene" in self.arrays

    @property
    def samples(self) -> bool:
        """Whether the stored evaluation outputs were multiplied by random zeros.

        The official generator with explicit zeros does so in evaluation mode without being asked.
        """
        explicit = bool(self.constructor.get("explicit_zero_prob", False))
        asked = bool(self.forward_flags.get("do_sample", False))
        return explicit and (asked or self.model_class == GENERATOR)

    def tensor(self, name: str) -> Tensor:
        """Return one array, which must be there, as a tensor."""
        return torch.from_numpy(np.asarray(self._array(name)))

    def strings(self, name: str) -> list[str]:
        """Return one array of text, which must be there."""
        return [str(text) for text in self._array(name)]

    def _array(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            msg = f"{self.folder / ARRAYS_FILE}: array {name!r} is missing"
            raise ContractError(msg)
        return self.arrays[name]

    def optional(self, name: str) -> Tensor | None:
        """Return one array as a tensor, or None."""
        return self.tensor(name) if name in self.arrays else None

    def names(self, prefix: str) -> list[str]:
        """Return the names of the arrays that start with `prefix`."""
        return [name for name in self.arrays if name.startswith(prefix)]


def read_case(folder: str | Path) -> Case:
    """Read a case.

    Raises
    ------
    ContractError
        If the folder is not one, with the first thing that is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        msg = f"{folder}: no such folder; expected a case with {META_FILE} and {ARRAYS_FILE}"
        raise ContractError(msg)
    meta = _read_meta(folder / META_FILE)
    case = Case(
        folder=folder,
        model_class=meta["model_class"],
        constructor=meta["constructor"],
        sizes=meta["sizes"],
        forward_flags=meta.get("forward_flags", {}),
        arrays=_read_arrays(folder / ARRAYS_FILE),
    )
    unknown = sorted(set(case.forward_flags) - set(FORWARD_FLAGS))
    if unknown:
        msg = (
            f"{folder / META_FILE}: unknown forward flag {unknown[0]!r}; "
            f"known: {', '.join(FORWARD_FLAGS)}"
        )
        raise ContractError(msg)
    return case


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path}: no such file; a case folder needs it"
        raise ContractError(msg) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not JSON ({error})"
        raise ContractError(msg) from error
    for key in ("model_class", "constructor", "sizes"):
        if not isinstance(meta, dict) or key not in meta:
            msg = f"{path}: key {key!r} is missing"
            raise ContractError(msg)
    if meta["model_class"] not in CLASSES:
        msg = f"{path}: unknown model_class {meta['model_class']!r}; known: {', '.join(CLASSES)}"
        raise ContractError(msg)
    return meta


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        msg = f"{path}: no such file; a case folder needs it"
        raise ContractError(msg) from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{path}: not a readable archive of arrays ({error})"
        raise ContractError(msg) from error
