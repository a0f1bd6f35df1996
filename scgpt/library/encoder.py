"""From the counts of cells to their vectors: bins, tokens, batches, network.

A cell's vector depends on the cell alone. Cells of a batch do not see each other; ties between
bins have a fixed rule; which genes of a long cell are kept follows from the cell's content; and
batches are cut from cells sorted by length and content, so that they do not depend on the order of
rows. What remains is rounding in batches of another shape.

Shapes: B cells, L tokens including <cls>, D width.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from scgpt.errors import ConfigError, DataError
from scgpt.model.tabulated import ValueVectors, tabulated
from scgpt.tokens.binning import bin_values
from scgpt.tokens.tokens import TokenizedCells, tokenize

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from scipy.sparse import csr_matrix
    from torch import Tensor

    from scgpt.library.models import LoadedModel

Amp = Literal["bf16", "fp16"]
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CLS = "<cls>"
CPU_BATCH_NUMBERS = 1 << 20
"""Batches on a CPU hold at most so many numbers per activation: beyond it they leave the caches."""


class CellEncoder:
    """Turns the counts of cells into tokens, and tokens into vectors of length 1.

    Parameters
    ----------
    loaded
        The model; used where it lies.
    gene_ids
        Token id of each column of the counts.
    batch_size
        Most cells per batch. On a CPU, batches of long cells are smaller (`CPU_BATCH_NUMBERS`).
    max_length
        Longest sequence including `<cls>`; longer cells are sampled.
    amp
        Precision of matrix products: None for single, ``"bf16"``, or on a GPU ``"fp16"``.
    seed
        Of the sampling, together with the content of the cell.

    Raises
    ------
    ConfigError
        If the network needs more than genes and values, or an option is wrong.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        gene_ids: np.ndarray,
        *,
        batch_size: int = 64,
        max_length: int = 1200,
        amp: Amp | None = None,
        seed: int = 0,
    ) -> None:
        self.config, self.device = loaded.config, loaded.device
        _check_options(loaded, batch_size, max_length, amp)
        self.gene_ids, self.cls_id = gene_ids, loaded.vocab[CLS]
        self.batch_size, self.max_length = batch_size, max_length
        self.amp, self.seed = amp, seed
        loaded.model.eval()
        self.network = tabulated(loaded.model)

    def tokens(self, counts: csr_matrix, *, include_zero: bool = False) -> TokenizedCells:
        """Return the cells as the network reads them, as in its pretraining.

        Non-zero genes only (unless `include_zero`), binned by the upper rule, `<cls>` first with
        the padding value.

        Parameters
        ----------
        counts
            Values of the genes `gene_ids`, without stored zeros, shape (n_cells, n_genes), CSR.
        include_zero
            Take all genes.

        References
        ----------
        Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Input embeddings".
        """
        return tokenize(
            bin_values(counts, n_bins=self.config.n_bins),
            self.gene_ids,
            cls_id=self.cls_id,
            cls_value=self.config.pad_value,
            include_zero=include_zero,
            max_length=self.max_length,
            seed=self.seed,
        )

    def encode(self, cells: TokenizedCells) -> np.ndarray:
        """Return the vectors of cells, shape (n_cells, D), float32, each of length 1.

        Raises
        ------
        DataError
            If a vector is not finite, as can happen in half precision.
        """
        vectors = self.cell_embeddings(cells)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            msg = (
                f"{int((~np.isfinite(norms) | (norms == 0)).sum())} cells got vectors that have no "
                "direction; use amp='bf16' or none instead of 'fp16', or check the model"
            )
            raise DataError(msg)
        return vectors / norms

    @torch.no_grad()
    def cell_embeddings(self, cells: TokenizedCells) -> np.ndarray:
        """Return what the network gives for tokenised cells, shape (n_cells, D), float32."""
        order, found = [], []
        with self._autocast():
            for rows in self._batches(cells):
                order.append(rows)
                found.append(self._run(cells, rows).float())
        vectors = np.empty((len(cells), self.config.d_model), dtype=np.float32)
        # Waiting for the device only here lets it work while the next batch is put together.
        vectors[np.concatenate(order)] = torch.cat(found).cpu().numpy()
        return vectors

    def inputs(
        self, cells: TokenizedCells, rows: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return ids, values and padding of some cells, (B, L) each, where the network lies.

        Raises
        ------
        DataError
            If a value is not one of the bins.
        """
        batch = cells.collate(rows, pad_id=self.config.pad_id, pad_value=self.config.pad_value)
        if isinstance(self.network.value_encoder, ValueVectors):
            self.network.value_encoder.check(batch.values)
        padding_BL = self._move(batch.padding) if batch.padding.any() else None
        return self._move(batch.gene_ids), self._move(batch.values), padding_BL

    def _run(self, cells: TokenizedCells, rows: np.ndarray) -> Tensor:
        heads = ("cell_embedding",)
        return self.network(*self.inputs(cells, rows), heads=heads)["cell_embedding"]

    def _batches(self, cells: TokenizedCells) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, longest cells first (a lack of memory shows at once)."""
        lengths = cells.lengths
        order = np.lexsort((cells.keys, -lengths))
        # Only a cell embedding read at <cls> is blind to padding; others need equal lengths.
        pads = self.config.cell_embedding == "cls"
        start = 0
        while start < order.size:
            longest = lengths[order[start]]
            stop = min(start + self._cells_per_batch(longest), order.size)
            if not pads:
                stop = start + int((lengths[order[start:stop]] == longest).sum())
            yield order[start:stop]
            start = stop

    def _cells_per_batch(self, length: int) -> int:
        if self.device.type != "cpu":
            return self.batch_size
        fitting = CPU_BATCH_NUMBERS // (int(length) * self.config.d_model)
        return min(self.batch_size, max(1, fitting))

    def _move(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _autocast(self) -> AbstractContextManager[None]:
        if self.amp is None:
            return nullcontext()
        # One context for all batches, because it keeps the converted weights until it ends.
        return torch.autocast(self.device.type, AMP_TYPES[self.amp])


def _check_options(loaded: LoadedModel, batch_size: int, max_length: int, amp: str | None) -> None:
    config = loaded.config
    if batch_size < 1 or max_length < 2:
        msg = (
            f"batch_size is {batch_size} and max_length {max_length}; expected at least 1 and 2 "
            "(<cls> and one gene)"
        )
        raise ConfigError(msg)
    if amp is not None and amp not in AMP_TYPES:
        msg = f"amp is {amp!r}; expected {', '.join(map(repr, AMP_TYPES))} or None"
        raise ConfigError(msg)
    if amp == "fp16" and loaded.device.type == "cpu":
        msg = "amp='fp16' needs a GPU; on a CPU use amp='bf16' or none"
        raise ConfigError(msg)
    needs = {
        "input_norm 'dsbn' (statistics of each batch)": config.input_norm == "dsbn",
        "perturbation flags": bool(config.n_perturbation_flags),
    }
    for what, needed in needs.items():
        if needed:
            msg = f"this model needs {what} besides genes and values; it cannot embed other data"
            raise ConfigError(msg)
    if CLS not in loaded.vocab:
        msg = f"the vocabulary has no {CLS!r} token, at which the embedding of a cell is read"
        raise ConfigError(msg)
