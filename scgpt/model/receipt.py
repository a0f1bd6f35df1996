"""Strict filling of a network with tensors, and the receipt that says what became of each one."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import torch

from scgpt.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

Status = Literal["loaded", "missing", "reshaped", "unused"]
MOST_NAMED = 6
"""How many tensors an error message names before it only counts them."""


@dataclass(frozen=True)
class TensorRow:
    """What became of one tensor.

    Parameters
    ----------
    name
        Name in our network; for an unused tensor, its name in the file.
    source
        Name in the file; for a missing tensor, the name it would have there.
    status
        `loaded`: taken from the file. `missing`: not in the file, keeps its starting value.
        `reshaped`: of another shape in the file, keeps its starting value. `unused`: in the file,
        but not in the network.
    shape
        Shape in the network; for an unused tensor, in the file.
    reason
        Why this is right: empty for a tensor loaded as it is.
    """

    name: str
    source: str
    status: Status
    shape: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True)
class LoadReceipt:
    """The account of one loading: every tensor of the file and of the network, once.

    Parameters
    ----------
    origin
        Folder the weights came from.
    rows
        One row per tensor.
    vocab_digest
        Fingerprint of the vocabulary: tokens in the order of their ids.
    notes
        What is worth knowing but no reason to refuse.
    """

    origin: str
    rows: tuple[TensorRow, ...]
    vocab_digest: str
    notes: tuple[str, ...] = ()

    def count(self, status: Status) -> int:
        """Return the number of tensors of one status."""
        return sum(row.status == status for row in self.rows)

    def summary(self) -> str:
        """Return one line: how many tensors were loaded, missing, reshaped, unused."""
        counts = ", ".join(
            f"{self.count(status)} {status}"
            for status in ("loaded", "missing", "reshaped", "unused")
        )
        return f"{self.origin}: {len(self.rows)} tensors, {counts}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-compatible dictionary, for run records."""
        return {
            "origin": self.origin,
            "vocab_digest": self.vocab_digest,
            "notes": list(self.notes),
            "tensors": [{**vars(row), "shape": list(row.shape)} for row in self.rows],
        }


def fill(
    model: nn.Module,
    tensors: Mapping[str, tuple[str, Tensor]],
    *,
    allow: Mapping[str, str],
    file_name: Callable[[str], str] = str,
) -> tuple[TensorRow, ...]:
    """Copy `tensors` into `model`; refuse whatever is not explained.

    Parameters
    ----------
    model
        The network to fill.
    tensors
        By our tensor name: the name in the file, and the tensor.
    allow
        Exceptions the caller declares: shell-style patterns of tensor names (ours or the file's),
        each with the reason why such a tensor may be missing, reshaped or unused.
    file_name
        Turns our name of a tensor into the name it has in such files, for messages and patterns.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unused or of another shape without a declared reason, or if one
        holds NaN or infinity. Nothing has been copied then.
    """
    rows = _account(model, tensors, allow, file_name)
    loaded = {row.name for row in rows if row.status == "loaded"}
    _check_finite({name: tensors[name] for name in loaded})
    own = model.state_dict()
    with torch.no_grad():
        for name in loaded:
            own[name].copy_(tensors[name][1])
    return rows


def _account(
    model: nn.Module,
    tensors: Mapping[str, tuple[str, Tensor]],
    allow: Mapping[str, str],
    file_name: Callable[[str], str],
) -> tuple[TensorRow, ...]:
    """Give every tensor of network and file its row; raise if one has no reason."""
    rows, problems = [], []
    own = model.state_dict()
    for name, tensor in own.items():
        shape = tuple(tensor.shape)
        source, found = tensors.get(name, (file_name(name), None))
        if found is not None and found.shape == tensor.shape:
            rows.append(TensorRow(name, source, "loaded", shape, _conversion(found, tensor)))
            continue
        status = "missing" if found is None else "reshaped"
        what = "missing" if found is None else _shape_words(found.shape, shape)
        reason = _declared(name, source, allow)
        rows.append(TensorRow(name, source, status, shape, f"{what}: {reason}"))
        if reason is None:
            problems.append(f"{source} ({what})")
    for name, (source, found) in tensors.items():
        if name not in own:
            reason = _declared(name, source, allow)
            rows.append(TensorRow(source, source, "unused", tuple(found.shape), str(reason)))
            if reason is None:
                problems.append(f"{source} (shape {tuple(found.shape)}, no place in the network)")
    if problems:
        raise CheckpointError(_name_some(problems))
    return tuple(rows)


def _declared(name: str, source: str, allow: Mapping[str, str]) -> str | None:
    for pattern, reason in allow.items():
        if fnmatchcase(name, pattern) or fnmatchcase(source, pattern):
            return reason
    return None


def _conversion(found: Tensor, wanted: Tensor) -> str:
    return "" if found.dtype == wanted.dtype else f"converted from {_dtype_word(found)}"


def _dtype_word(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape_words(found: torch.Size, wanted: tuple[int, ...]) -> str:
    hint = " (transposed)" if tuple(found) == wanted[::-1] and len(wanted) > 1 else ""
    return f"shape {tuple(found)} in the file{hint}, {wanted} in the network"


def _name_some(problems: list[str]) -> str:
    named = "; ".join(problems[:MOST_NAMED])
    more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
    return (
        f"{len(problems)} tensor(s) do not fit: {named}{more}. Fix the file or the model options, "
        "or declare each exception by name with a reason (allow=)"
    )


def _check_finite(tensors: Mapping[str, tuple[str, Tensor]]) -> None:
    bad = [
        f"{source} ({int((~tensor.isfinite()).sum())} of {tensor.numel()} values)"
        for source, tensor in tensors.values()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if bad:
        msg = (
            f"{len(bad)} tensor(s) hold NaN or infinity: {'; '.join(sorted(bad)[:MOST_NAMED])}; "
            "the file is damaged or the training diverged"
        )
        raise CheckpointError(msg)
