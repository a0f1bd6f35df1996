"""Embed an h5ad file of any size: cells in chunks, flat memory, resumed after an interruption."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgpt.errors import ConfigError, ContractError, DataError
from scgpt.files import read_json, write_json
from scgpt.library.bar import cell_bar
from scgpt.library.counts import blocks, scan
from scgpt.library.embedding import KEY, record
from scgpt.library.encoder import CellEncoder
from scgpt.library.h5ad import FileMatrix, open_h5ad, write_with_embedding
from scgpt.library.matching import match_genes
from scgpt.library.models import as_model
from scgpt.library.prefetch import one_ahead
from scgpt.training.determinism import isolated_torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scgpt.library.counts import CellMatrix, Values
    from scgpt.library.encoder import Amp
    from scgpt.library.matching import Duplicates, GeneMatch
    from scgpt.library.models import LoadedModel

logger = logging.getLogger(__name__)

CHUNK_ROWS = 1024
"""Cells between two points at which an interrupted run can go on."""

COPIED_ROWS = 16_384


def embed_file(
    source: str | Path,
    model: LoadedModel | str | Path,
    target: str | Path,
    *,
    layer: str | None = None,
    values: Values = "counts",
    gene_column: str | None = None,
    gene_symbols: Mapping[str, str] | None = None,
    duplicates: Duplicates = "error",
    min_matched: float = 0.5,
    key_added: str = KEY,
    batch_size: int = 64,
    max_length: int = 1200,
    device: str | None = None,
    amp: Amp | None = None,
    seed: int = 0,
    keep_matrices: bool = True,
    chunk_size: int = CHUNK_ROWS,
    progress: bool = False,
    threads: int | None = None,
) -> None:
    """Write a copy of an h5ad file with a vector for every cell in `obsm`.

    Memory does not grow with the number of cells. Vectors computed so far are kept in a hidden
    folder beside `target`; the same call after an interruption goes on from there. `target`
    appears when all is done.

    Parameters
    ----------
    source
        h5ad file with the matrix stored by rows (CSR) or dense.
    model
        What `scgpt.load_model` returned, or a folder.
    target
        File to write.
    layer, values, gene_column, gene_symbols, duplicates, min_matched
        As in `scgpt.embed`.
    key_added, batch_size, max_length, device, amp, seed
        As in `scgpt.embed`.
    keep_matrices
        Copy `X`, the layers and `raw` too, not only what describes the cells and genes.
    chunk_size
        Cells read at a time.
    progress, threads
        As in `scgpt.embed`.

    Raises
    ------
    DataError
        If the file cannot be used; found before any cell is embedded.
    CheckpointError
        If `model` is a folder that is not a complete model.
    ConfigError
        If an option is wrong.
    """
    source, target = Path(source), Path(target)
    check_request(
        source, target, key_added=key_added, min_matched=min_matched, chunk_size=chunk_size
    )
    with open_h5ad(source) as file:
        matrix = FileMatrix(file, layer)
        loaded = as_model(model)
        if device is not None:
            loaded.to(device)
        match = match_genes(
            matrix.var(),
            loaded.vocab,
            gene_column=gene_column,
            gene_symbols=gene_symbols,
            duplicates=duplicates,
            min_matched=min_matched,
        )
        encoder = CellEncoder(
            loaded, match.gene_ids, batch_size=batch_size, max_length=max_length, amp=amp, seed=seed
        )
        found = scan(matrix, match, values=values)
        done = record(loaded, match, encoder, found, where=matrix.where, values=values)
        job = {"source": _identity(source), "chunk_size": chunk_size, "torch": torch.__version__}
        rows = _Rows(target, (matrix.n_cells, encoder.config.d_model), job | done)
        with isolated_torch(loaded.device, threads=threads):
            _encode_chunks(matrix, match, encoder, rows, chunk_size, progress=progress)
    write_with_embedding(
        source,
        target,
        key=key_added,
        rows=rows.read(),
        shape=rows.shape,
        record=done,
        keep_matrices=keep_matrices,
    )
    rows.remove()


def _encode_chunks(
    matrix: CellMatrix,
    match: GeneMatch,
    encoder: CellEncoder,
    rows: _Rows,
    chunk_size: int,
    *,
    progress: bool,
) -> None:
    with cell_bar(matrix.n_cells, "embed", show=progress, done=rows.n_done) as bar:
        chunks = [chunk for chunk in blocks(matrix.n_cells, chunk_size) if chunk[1] > rows.n_done]
        read = one_ahead(lambda chunk: encoder.tokens(match.select(matrix.block(*chunk))), chunks)
        for cells in read:
            rows.append(encoder.encode(cells))
            bar.update(len(cells))


class _Rows:
    """Vectors on disk, in the order of cells, with a note of how many are safe there.

    Parameters
    ----------
    target
        File that the vectors are meant for; they lie in a hidden folder beside it.
    shape
        All cells x width.
    job
        All that decides the vectors: rows of another job are thrown away.
    """

    def __init__(self, target: Path, shape: tuple[int, int], job: dict[str, Any]) -> None:
        self.shape, self.job = shape, job
        self.folder = target.with_name(f".{target.name}.partial")
        self.vectors, self.note = self.folder / "vectors.f32", self.folder / "progress.json"
        self.n_done = self._found()
        if self.n_done:
            logger.info("%s: going on at cell %d of %d", target, self.n_done, shape[0])
        else:
            self.remove()
            self.folder.mkdir(parents=True)
            self.vectors.touch()
            self._write_note()

    def append(self, vectors: np.ndarray) -> None:
        """Add the next rows; they count as done once they have reached the disk."""
        # Plain writes: pages of a memory map would count as memory of this process.
        with self.vectors.open("r+b") as file:
            file.seek(self.n_done * self._row_bytes)
            file.write(np.ascontiguousarray(vectors).data)
            file.flush()
            os.fsync(file.fileno())
        self.n_done += len(vectors)
        self._write_note()

    def read(self) -> Iterator[np.ndarray]:
        """Yield all rows in blocks."""
        with self.vectors.open("rb") as file:
            for start, stop in blocks(self.shape[0], COPIED_ROWS):
                block = np.frombuffer(file.read((stop - start) * self._row_bytes), np.float32)
                yield block.reshape(stop - start, self.shape[1])

    def remove(self) -> None:
        """Delete the folder."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @property
    def _row_bytes(self) -> int:
        return self.shape[1] * np.dtype(np.float32).itemsize

    def _write_note(self) -> None:
        write_json(self.note, {"n_done": self.n_done, "job": self.job})

    def _found(self) -> int:
        """Return how many rows of this very job are there."""
        if not self.note.is_file() or not self.vectors.is_file():
            return 0
        try:
            note = read_json(self.note)
            n_done = int(note["n_done"]) if note["job"] == self.job else 0
        except (ContractError, KeyError, TypeError, ValueError):
            return 0
        return n_done if self.vectors.stat().st_size >= n_done * self._row_bytes else 0


def check_request(
    source: Path, target: Path, *, key_added: str, min_matched: float, chunk_size: int
) -> None:
    """Check what can be checked before the model is loaded; arguments as in `embed_file`.

    Raises
    ------
    ConfigError
        If an option is wrong.
    DataError
        If the output cannot be written where it is meant to be.
    """
    if key_added in ("", ".") or "/" in key_added:
        msg = (
            f"key_added is {key_added!r}; expected a name for obsm that is not empty and has no "
            f"'/', for example {KEY!r}"
        )
        raise ConfigError(msg)
    if not 0 <= min_matched <= 1:
        msg = f"min_matched is {min_matched:g}; expected a share from 0 to 1, for example 0.5"
        raise ConfigError(msg)
    if chunk_size < 1:
        msg = f"chunk_size is {chunk_size}, expected at least 1"
        raise ConfigError(msg)
    if target.is_dir():
        msg = f"{target} is a folder; expected the name of the file to write, such as out.h5ad"
        raise DataError(msg)
    if target.exists() and source.exists() and target.samefile(source):
        msg = f"{target} is the input itself; name another output"
        raise DataError(msg)
    if not target.parent.is_dir():
        msg = f"{target.parent}: no such folder to write {target.name} into; make it first"
        raise DataError(msg)


def _identity(path: Path) -> dict[str, int]:
    """Return what tells whether a file is still the same, without reading it."""
    stat = path.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
