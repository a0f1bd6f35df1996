"""Read pickles of strangers: plain values, and the few classes that are named, nothing else.

A pickle is a program; an ordinary unpickler runs whatever it names. This one knows only the names
it is given, each with a harmless stand-in, and refuses a file that names anything else.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Names = dict[tuple[str, str], Any]

PLAIN: Names = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
}


def load(path: Path, allowed: Mapping[tuple[str, str], Any] = PLAIN) -> Any:
    """Return what a pickle holds.

    Parameters
    ----------
    path
        The file.
    allowed
        (module, name) as the file names it -> what to use for it.

    Raises
    ------
    DataError
        If the file is no pickle, is cut off, or names anything that is not allowed.
    """
    try:
        with path.open("rb") as file:
            return _Restricted(file, dict(allowed), path).load()
    except DataError:
        raise
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
    ) as error:
        msg = f"{path}: not a readable pickle ({error}); delete it and fetch it again"
        raise DataError(msg) from error


class _Restricted(pickle.Unpickler):
    def __init__(self, file: Any, allowed: Names, path: Path) -> None:
        super().__init__(file)
        self._allowed, self._path = allowed, path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            known = ", ".join(f"{m}.{n}" for m, n in self._allowed) or "none"
            msg = (
                f"{self._path}: names '{module}.{name}', which is not needed to read this file, so "
                f"that it is not opened (allowed: {known})"
            )
            raise DataError(msg)
        return self._allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        msg = f"{self._path}: refers to something outside of it ({pid!r}), so that it is not opened"
        raise DataError(msg)


def load_frames(path: Path) -> Any:
    """Return what a pickle of pandas before 1.0 holds: DataFrames, arrays and plain values.

    Today's pandas cannot read these files without running code from them; here their parts are
    collected by stand-ins and put together anew.

    Raises
    ------
    DataError
        As `load`.
    """
    content = load(path, FRAMES)
    try:
        return _rebuilt(content)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        msg = f"{path}: not the layout of DataFrames before pandas 1.0 ({error!r}); fetch it again"
        raise DataError(msg) from error


@dataclass(frozen=True)
class _Labels:
    values: np.ndarray


class _Frame:
    _data: _Blocks


class _Blocks:
    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.parts = state[3]["0.14.1"]


class _IndexKind:
    """Stands for any class of index; only its name is used."""


def _make_index(_kind: type, parts: dict[str, Any]) -> _Labels:
    if "data" in parts:
        return _Labels(parts["data"])
    return _Labels(np.arange(parts["start"], parts["stop"], parts.get("step", 1)))


def _reconstruct(kind: type, shape: tuple[int, ...], typecode: bytes) -> np.ndarray:
    if kind is not np.ndarray:
        msg = f"array of the unexpected class {kind}"
        raise pickle.UnpicklingError(msg)
    return np.ndarray.__new__(kind, shape, typecode)


def _scalar(kind: np.dtype, data: bytes) -> np.generic:
    if kind.hasobject or not isinstance(data, bytes):
        msg = f"scalar of the unexpected type {kind}"
        raise pickle.UnpicklingError(msg)
    return np.frombuffer(data, dtype=kind)[0]


def _frombuffer(data: bytes, kind: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    if kind.hasobject:
        msg = f"array of the unexpected type {kind}"
        raise pickle.UnpicklingError(msg)
    return np.frombuffer(data, dtype=kind).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    # How protocols before 3 write bytes.
    if encoding != "latin1":
        msg = f"bytes in the unexpected encoding {encoding}"
        raise pickle.UnpicklingError(msg)
    return text.encode(encoding)


ARRAYS: Names = {
    **PLAIN,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}
FRAMES: Names = {
    **ARRAYS,
    ("builtins", "slice"): slice,
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.internals", "BlockManager"): _Blocks,
    ("pandas.core.indexes.base", "_new_Index"): _make_index,
    ("pandas.core.indexes.base", "Index"): _IndexKind,
    ("pandas.core.indexes.numeric", "Int64Index"): _IndexKind,
    ("pandas.core.indexes.range", "RangeIndex"): _IndexKind,
}


def _rebuilt(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rebuilt(entry) for key, entry in value.items()}
    if isinstance(value, _Frame):
        return _data_frame(value._data.parts)
    return value.values if isinstance(value, _Labels) else value


def _data_frame(parts: dict[str, Any]) -> pd.DataFrame:
    names, index = (axis.values for axis in parts["axes"])
    columns: list[Any] = [None] * len(names)
    for block in parts["blocks"]:
        places = np.arange(len(names))[block["mgr_locs"]]
        for place, values in zip(places, block["values"], strict=True):
            columns[place] = values
    return pd.DataFrame(dict(zip(names, columns, strict=True)), index=pd.Index(index))
