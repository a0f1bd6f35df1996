"""An h5ad file read and written in blocks, so that memory does not grow with the cells."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
from scipy import sparse

from scgpt.errors import DataError
from scgpt.files import atomic_path
from scgpt.library.counts import RAW, as_float, no_such_layer, other_matrices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas as pd

MATRICES = ("X", "layers", "raw")
CSR = "csr_matrix"


class FileMatrix:
    """A matrix of an h5ad file (a `CellMatrix`): CSR or dense, read block by block.

    Parameters
    ----------
    file
        The open file.
    layer
        Layer to use instead of `X`; ``"raw"`` for `raw`.

    Raises
    ------
    DataError
        If there is no such matrix, or it is not stored by rows.
    """

    def __init__(self, file: h5py.File, layer: str | None) -> None:
        self._file = file
        self._parent = _parent(file, layer)
        where = f"{self._parent}/{layer}" if self._parent == "layers" else f"{self._parent}/X"
        self.where = where.removeprefix("/")
        self._stored = file[self.where]
        layers = file.get("layers", [])
        found = other_matrices(layers, file.get(RAW))
        self.others = [name for name in found if name != layer]
        self._indptr = self._read_indptr()
        self.n_cells, self.n_genes = self._shape()

    def var(self) -> pd.DataFrame:
        """Return the table of the genes; `raw` has its own."""
        is_raw = self._parent == RAW
        return anndata.io.read_elem(self._file["raw/var" if is_raw else "var"])

    def block(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells from `start` to `stop` as CSR of float32."""
        if self._indptr is None:
            return as_float(self._stored[start:stop])
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        values, columns = self._stored["data"][first:last], self._stored["indices"][first:last]
        indptr = self._indptr[start : stop + 1] - first
        shape = (stop - start, self.n_genes)
        return as_float(sparse.csr_matrix((values, columns, indptr), shape=shape))

    def cell_names(self, rows: Sequence[int]) -> list[str]:
        """Return the names of some cells."""
        obs = self._file["obs"]
        if not isinstance(obs, h5py.Group):  # files written before 2019 hold one table
            return [f"number {row}" for row in rows]
        names = obs[obs.attrs.get("_index", "_index")].asstr()
        return [str(names[row]) for row in rows]

    def _read_indptr(self) -> np.ndarray | None:
        encoding = str(self._stored.attrs.get("encoding-type", ""))
        if isinstance(self._stored, h5py.Dataset) and self._stored.ndim == 2:
            return None
        if encoding != CSR:
            msg = (
                f"{self._file.filename}: {self.where} is stored as {encoding or 'a group'}; cells "
                "can be read one after the other only from 'csr_matrix' or a dense array: convert "
                "it with adata.X = adata.X.tocsr(), or embed it in memory with scgpt.embed"
            )
            raise DataError(msg)
        return self._stored["indptr"][:].astype(np.int64)

    def _shape(self) -> tuple[int, int]:
        shape = self._stored.attrs["shape"] if self._indptr is not None else self._stored.shape
        return int(shape[0]), int(shape[1])


def _parent(file: h5py.File, layer: str | None) -> str:
    layers = file.get("layers", [])
    if layer is None:
        if "X" not in file:
            others = ", ".join(other_matrices(layers, file.get(RAW))) or "none"
            msg = f"{file.filename}: there is no X; name a layer (there are: {others})"
            raise DataError(msg)
        return ""
    if layer in layers:
        return "layers"
    if layer == RAW and RAW in file and "X" in file[RAW]:
        return RAW
    raise no_such_layer(layer, other_matrices(layers, file.get(RAW)))


@contextmanager
def open_h5ad(path: str | Path) -> Iterator[h5py.File]:
    """Open an h5ad file for reading.

    Raises
    ------
    DataError
        If the file is missing, or is not an h5ad.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file; give an h5ad file"
        raise DataError(msg)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        msg = f"{path}: not a readable h5ad file ({str(error).splitlines()[0]})"
        raise DataError(msg) from error
    with file:
        if not {"obs", "var"} <= set(file):
            msg = f"{path}: an HDF5 file without obs and var, not an h5ad"
            raise DataError(msg)
        yield file


def write_with_embedding(
    source: str | Path,
    target: str | Path,
    *,
    key: str,
    rows: Iterable[np.ndarray],
    shape: tuple[int, int],
    record: dict[str, Any],
    keep_matrices: bool,
) -> None:
    """Write a copy of an h5ad file with one more embedding, whole or not at all.

    Parameters
    ----------
    source, target
        The file and its copy.
    key
        Of `obsm`, and of `uns` for the record.
    rows
        Consecutive rows of the embedding, float32.
    shape
        Of the embedding.
    record
        What was done.
    keep_matrices
        Whether to copy `X`, the layers and `raw` too.
    """
    left_out = () if keep_matrices else MATRICES
    with (
        atomic_path(target) as temporary,
        h5py.File(source, "r") as old,
        h5py.File(temporary, "w") as new,
    ):
        for name, value in old.attrs.items():
            new.attrs[name] = value
        for name in old:
            if name not in left_out:
                old.copy(name, new)
        _write_rows(_fresh(new, "obsm", key), key, rows, shape)
        anndata.io.write_elem(_fresh(new, "uns", key), key, record)


def _fresh(file: h5py.File, name: str, key: str) -> h5py.Group:
    """Return a mapping of the file, made if needed, without `key`."""
    group = file.require_group(name)
    group.attrs.setdefault("encoding-type", "dict")
    group.attrs.setdefault("encoding-version", "0.1.0")
    if key in group:
        del group[key]
    return group


def _write_rows(
    group: h5py.Group, key: str, rows: Iterable[np.ndarray], shape: tuple[int, int]
) -> None:
    stored = group.create_dataset(key, shape=shape, dtype=np.float32)
    stored.attrs["encoding-type"], stored.attrs["encoding-version"] = "array", "0.2.0"
    start = 0
    for block in rows:
        stored[start : start + len(block)] = block
        start += len(block)
