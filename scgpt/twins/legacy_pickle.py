"""Write DataFrames as pandas before 1.0 pickled them, for twins of files from that time."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

PROTOCOL = 3


class _Named:
    """A class or function that stands in the file under another module's name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


FRAME = _Named("pandas.core.frame", "DataFrame")
BLOCKS = _Named("pandas.core.internals", "BlockManager")
NEW_INDEX = _Named("pandas.core.indexes.base", "_new_Index")
INDEX = _Named("pandas.core.indexes.base", "Index")
INTEGERS = _Named("pandas.core.indexes.numeric", "Int64Index")
ARRAY = _Named("numpy.core.multiarray", "_reconstruct")


class _Made:
    """An object that the reader makes by calling or instantiating `maker`."""

    def __init__(self, maker: _Named, arguments: tuple[Any, ...], state: Any, *, new: bool) -> None:
        self.maker, self.arguments, self.state, self.new = maker, arguments, state, new


class _Pickler(pickle._Pickler):
    """The pickler in Python, whose way of writing names can be changed."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_named(self, obj: _Named) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_made(self, obj: _Made) -> None:
        if obj.new:
            self.save(obj.maker)
            self.save(())
            self.write(pickle.NEWOBJ)
        else:
            self.save(obj.maker)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        if obj.state is not None:
            self.save(obj.state)
            self.write(pickle.BUILD)

    dispatch[_Named] = save_named
    dispatch[_Made] = save_made


def write_frames(path: Path, value: dict[str, Any]) -> None:
    """Write a dictionary of DataFrames and arrays.

    Parameters
    ----------
    path
        Where to write.
    value
        The dictionary.
    """
    with path.open("wb") as file:
        _Pickler(file, PROTOCOL, fix_imports=False).dump(
            {key: _legacy(entry) for key, entry in value.items()}
        )


def _legacy(value: Any) -> Any:
    return _array(value) if isinstance(value, np.ndarray) else _frame(value)


def _array(values: np.ndarray) -> _Made:
    _, arguments, state = values.__reduce__()
    return _Made(ARRAY, arguments, state, new=False)


def _frame(table: pd.DataFrame) -> _Made:
    """Return a frame as two axes and one block per type of value."""
    axes = [_index(table.columns.to_numpy()), _index(table.index.to_numpy())]
    blocks = []
    for kind in dict.fromkeys(table.dtypes):
        places = np.flatnonzero(table.dtypes == kind)
        values = _array(np.ascontiguousarray(table.iloc[:, places].to_numpy().T))
        blocks.append({"values": values, "mgr_locs": _array(places)})
    state = (axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    inner = _Made(BLOCKS, (), state, new=True)
    rest = {"_typ": "dataframe", "_metadata": []}
    return _Made(FRAME, (), {"_data": inner, **rest}, new=True)


def _index(values: np.ndarray) -> _Made:
    kind = INTEGERS if values.dtype.kind == "i" else INDEX
    values = values if kind is INTEGERS else values.astype(object)
    return _Made(NEW_INDEX, (kind, {"data": _array(values), "name": None}), None, new=False)
