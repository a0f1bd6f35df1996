"""Batches of tokenised cells as tensors, in an order that depends on seed and epoch only.

Shapes: B cells, L tokens including <cls>, M masked tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from scgpt.errors import ConfigError, DataError
from scgpt.tokens.tokens import (
    MASK_VALUE,
    PAD_VALUE,
    CellRng,
    TokenizedCells,
    length_buckets,
    mask_values,
)
from scgpt.training.determinism import derive_seed, numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class TrainingBatch(Protocol):
    """What the training loop needs to know about a batch."""

    n_cells: int

    def to(self, device: torch.device) -> TrainingBatch:
        """Return the batch on `device`."""


class BatchSource(Protocol):
    """What the training loop needs to know about data: any number of equal epochs.

    Attributes
    ----------
    fingerprint
        Digest of everything that decides the batches, seed and data included. A checkpoint is
        only resumed with sources of the same fingerprint.
    """

    fingerprint: str

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[TrainingBatch]:
        """Yield the batches of an epoch from number `start` on, the same on every call."""


@dataclass(frozen=True, kw_only=True)
class CellBatch:
    """Cells as the network sees them.

    Attributes
    ----------
    rows
        Which cells of the source these are, NumPy array of shape (B,).
    gene_ids_BL, values_BL
        Token ids and input values, the latter with masked positions.
    padding_BL
        True where there is no token; None if that is nowhere.
    targets_BL, mask_BL
        Values before masking, and where they were masked; None without masking.
    positions_BM, is_masked_BM
        The masked positions of each cell, and which of them are meant (cells with fewer of them
        than others are filled up with position 0). Heads need to run only there. Made from
        `mask_BL` where the data are, because finding them on a GPU would make it wait.
    labels_B, batch_labels_B
        Class (cell type) and batch of each cell; None if not given.
    """

    rows: np.ndarray
    gene_ids_BL: Tensor
    values_BL: Tensor
    padding_BL: Tensor | None
    targets_BL: Tensor | None = None
    mask_BL: Tensor | None = None
    positions_BM: Tensor | None = None
    is_masked_BM: Tensor | None = None
    labels_B: Tensor | None = None
    batch_labels_B: Tensor | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.rows)

    def to(self, device: torch.device) -> CellBatch:
        """Return the batch on `device`."""
        if device.type == "cpu":
            return self
        moved = {
            field.name: value.pin_memory().to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How cells become batches.

    Parameters
    ----------
    batch_size
        Cells per batch.
    shuffle
        Draw a new order in every epoch.
    buckets
        Put cells of similar length together, to save padding.
    mask_ratio
        Share of the tokens of each cell that is masked.
    redraw_masks
        Mask other tokens in every epoch. Without it the masks are those of epoch 0, so that a
        validation loss changes with the network only.
    pad_value, mask_value
        The values of padded and of masked tokens.
    """

    batch_size: int
    shuffle: bool = True
    buckets: bool = False
    mask_ratio: float = 0.0
    redraw_masks: bool = True
    pad_value: float = PAD_VALUE
    mask_value: float = MASK_VALUE

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            msg = f"batch_size is {self.batch_size}, expected at least 1"
            raise ConfigError(msg)
        if not 0 <= self.mask_ratio < 1:
            msg = f"mask_ratio is {self.mask_ratio}, expected at least 0 and below 1"
            raise ConfigError(msg)


class CellBatches:
    """Batches of tokenised cells (a `BatchSource`).

    Parameters
    ----------
    cells
        The cells.
    pad_id
        Token id of padding.
    options
        Batch size, order, masking.
    seed
        Of order and masks.
    labels, batch_labels
        Class and batch of each cell, integers of shape (n_cells,).
    groups
        If given, integers of shape (n_cells,): no batch mixes cells of two groups, as batch
        normalisation per sequencing batch needs.
    """

    def __init__(
        self,
        cells: TokenizedCells,
        *,
        pad_id: int,
        options: BatchOptions,
        seed: int = 0,
        labels: np.ndarray | None = None,
        batch_labels: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        if not len(cells):
            msg = "there are no cells to make batches of"
            raise DataError(msg)
        self.cells, self.pad_id, self.options, self.seed = cells, pad_id, options, seed
        self.labels = _integers("labels", labels, len(cells))
        self.batch_labels = _integers("batch_labels", batch_labels, len(cells))
        groups = _integers("groups", groups, len(cells))
        self.groups = [np.arange(len(cells))] if groups is None else _rows_by_group(groups)
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return sum(-(-len(rows) // self.options.batch_size) for rows in self.groups)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[CellBatch]:
        """Yield the batches of an epoch from number `start` on."""
        for rows in self.order(epoch)[start:]:
            yield self.batch(rows, epoch=epoch)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Return the rows of every batch of an epoch."""
        rng = numpy_generator(self.seed, "order", epoch) if self.options.shuffle else None
        batches = [batch for rows in self.groups for batch in self._split(rows, rng)]
        if rng is None or len(self.groups) == 1:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]

    def _split(self, rows: np.ndarray, rng: np.random.Generator | None) -> list[np.ndarray]:
        size = self.options.batch_size
        if self.options.buckets:
            found = length_buckets(self.cells.lengths[rows], size, rng=rng)
            return [rows[positions] for positions in found]
        if rng is not None:
            rows = rng.permutation(rows)
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def batch(self, rows: np.ndarray, *, epoch: int = 0) -> CellBatch:
        """Return some cells as one batch, masked as in `epoch`."""
        options = self.options
        padded = self.cells.collate(rows, pad_id=self.pad_id, pad_value=options.pad_value)
        values, masking = padded.values, {}
        if options.mask_ratio > 0:
            rng = CellRng(
                seed=derive_seed(self.seed, "mask"), epoch=epoch if options.redraw_masks else 0
            )
            values = mask_values(padded, options.mask_ratio, rng=rng, mask_value=options.mask_value)
            masking = masking_of(padded.values, values != padded.values)
        return CellBatch(
            rows=rows,
            gene_ids_BL=torch.from_numpy(padded.gene_ids),
            values_BL=torch.from_numpy(values),
            padding_BL=torch.from_numpy(padded.padding) if padded.padding.any() else None,
            labels_B=_take(self.labels, rows),
            batch_labels_B=_take(self.batch_labels, rows),
            **masking,
        )

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        plain = [self.seed, self.pad_id, dataclasses.asdict(self.options)]
        digest.update(json.dumps(plain, sort_keys=True).encode())
        cells = self.cells
        arrays = [cells.indptr, cells.gene_ids, cells.values, cells.keys, self.labels]
        for array in [*arrays, self.batch_labels, *self.groups]:
            digest.update(b"-" if array is None else np.ascontiguousarray(array).data)
        return digest.hexdigest()


def masking_of(values_BL: np.ndarray, mask_BL: np.ndarray) -> dict[str, Tensor]:
    """Return the fields of a `CellBatch` that say what was masked.

    Parameters
    ----------
    values_BL
        Values before masking.
    mask_BL
        True where they were masked.
    """
    n_masked_B = mask_BL.sum(axis=1)
    is_masked_BM = np.arange(n_masked_B.max(initial=0)) < n_masked_B[:, None]
    positions_BM = np.zeros(is_masked_BM.shape, dtype=np.int64)
    positions_BM[is_masked_BM] = np.nonzero(mask_BL)[1]
    return {
        "targets_BL": torch.from_numpy(values_BL),
        "mask_BL": torch.from_numpy(mask_BL),
        "positions_BM": torch.from_numpy(positions_BM),
        "is_masked_BM": torch.from_numpy(is_masked_BM),
    }


def _integers(name: str, values: np.ndarray | None, n_cells: int) -> np.ndarray | None:
    if values is None:
        return None
    values = np.asarray(values)
    if values.shape != (n_cells,) or values.dtype.kind not in "iu":
        msg = f"{name}: {values.dtype} of shape {values.shape}, expected {n_cells} integers"
        raise DataError(msg)
    return values.astype(np.int64)


def _rows_by_group(groups: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def _take(values: np.ndarray | None, rows: np.ndarray) -> Tensor | None:
    return None if values is None else torch.from_numpy(values[rows])
