"""Training of the perturbation model: pairs of control and perturbed cells, loss, validation.

Shapes: B cells, C conditions, G measured genes, U perturbed genes that are not measured, S genes
of one step (of the G + U).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgpt.errors import DataError
from scgpt.model.objectives import masked_mse
from scgpt.training.determinism import derive_seed, numpy_generator
from scgpt.training.optim import Precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import scipy.sparse as sp
    from torch import Tensor, nn

    from scgpt.training.config import TrainingConfig

FLAG = 1


@dataclass(frozen=True, kw_only=True)
class PairedCells:
    """Cells to be predicted, each from the expression of a control cell.

    Attributes
    ----------
    inputs, targets
        Expression of the control cell and of the cell itself, CSR of shape (n_cells, G).
    flagged
        For every cell the numbers (0 ... G + U - 1) of its perturbed genes.
    gene_ids
        Token ids of the measured genes and then of the unmeasured ones, shape (G + U,).
    """

    inputs: sp.csr_matrix
    targets: sp.csr_matrix
    flagged: Sequence[np.ndarray]
    gene_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.flagged)

    @property
    def n_measured(self) -> int:
        """Number of measured genes."""
        return self.targets.shape[1]

    def fingerprint(self) -> str:
        """Return a digest of everything."""
        digest = hashlib.blake2b(digest_size=16)
        parts = [self.gene_ids, np.array([len(genes) for genes in self.flagged])]
        parts += [np.concatenate([np.empty(0, np.int64), *self.flagged]).astype(np.int64)]
        for matrix in (self.inputs, self.targets):
            parts += [matrix.data, matrix.indices, matrix.indptr]
        for part in parts:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class PerturbationBatch:
    """Pairs as the network sees them.

    Attributes
    ----------
    gene_ids_BS, values_BS, flags_BS
        Token ids, control expression, and 1 where a gene is perturbed.
    targets_BS
        Expression of the perturbed cell.
    measured_BS
        Where there is a target.
    padding_BS
        True where there is no token: an unmeasured gene that is perturbed in other cells of the
        batch only. None if that is nowhere.
    """

    gene_ids_BS: Tensor
    values_BS: Tensor
    flags_BS: Tensor
    targets_BS: Tensor
    measured_BS: Tensor
    padding_BS: Tensor | None = None

    @property
    def n_cells(self) -> int:
        """Number of pairs."""
        return len(self.gene_ids_BS)

    def to(self, device: torch.device) -> PerturbationBatch:
        """Return the batch on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)


class PerturbationBatches:
    """Batches of pairs, with the genes of every step drawn anew.

    Parameters
    ----------
    cells
        The pairs.
    batch_size
        Pairs per batch.
    n_genes
        Genes per step; all of them if there are no more. None for all.
    keep_perturbed
        Whether the perturbed genes of the batch's cells are always among those drawn.
    shuffle
        Whether the order of pairs changes from epoch to epoch.
    seed
        Of order and draws.
    """

    def __init__(
        self,
        cells: PairedCells,
        *,
        batch_size: int,
        n_genes: int | None = None,
        keep_perturbed: bool = True,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        if not len(cells):
            msg = "there are no cells to make batches of"
            raise DataError(msg)
        self.cells, self.batch_size, self.n_genes = cells, batch_size, n_genes
        self.keep_perturbed, self.shuffle, self.seed = keep_perturbed, shuffle, seed
        options = [batch_size, n_genes, keep_perturbed, shuffle, seed]
        self.fingerprint = f"{cells.fingerprint()} {options}"

    def __len__(self) -> int:
        return -(-len(self.cells) // self.batch_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[PerturbationBatch]:
        """Yield the batches of an epoch from number `start` on."""
        for number, rows in enumerate(self.order(epoch)):
            if number >= start:
                yield self.batch(rows, self.genes_of_step(rows, epoch, number))

    def order(self, epoch: int) -> list[np.ndarray]:
        """Return the pairs of every batch of an epoch."""
        rows = np.arange(len(self.cells))
        if self.shuffle:
            rows = numpy_generator(self.seed, "order", epoch).permutation(rows)
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def genes_of_step(self, rows: np.ndarray, epoch: int, number: int) -> np.ndarray:
        """Return the genes that one batch feeds, in ascending order."""
        n_all = len(self.cells.gene_ids)
        if self.n_genes is None or self.n_genes >= n_all:
            return np.arange(n_all)
        drawn = numpy_generator(self.seed, "genes", epoch, number).permutation(n_all)
        if not self.keep_perturbed:
            return np.sort(drawn[: self.n_genes])
        kept = np.unique(np.concatenate([self.cells.flagged[row] for row in rows]).astype(np.intp))
        others = drawn[~np.isin(drawn, kept)][: max(0, self.n_genes - len(kept))]
        return np.sort(np.concatenate([kept, others]))

    def batch(self, rows: np.ndarray, genes: np.ndarray) -> PerturbationBatch:
        """Return some pairs on some genes as one batch."""
        cells = self.cells
        flags = np.zeros((len(rows), len(cells.gene_ids)), dtype=np.int64)
        for i, row in enumerate(rows):
            flags[i, cells.flagged[row]] = FLAG
        flags = flags[:, genes]
        measured = np.broadcast_to(genes < cells.n_measured, flags.shape)
        absent = ~measured & (flags != FLAG)
        used = ~absent.all(axis=0)
        return PerturbationBatch(
            gene_ids_BS=torch.from_numpy(
                np.broadcast_to(cells.gene_ids[genes].astype(np.int64), flags.shape)[:, used].copy()
            ),
            values_BS=_columns(cells.inputs[rows], genes[used]),
            flags_BS=torch.from_numpy(flags[:, used]),
            targets_BS=_columns(cells.targets[rows], genes[used]),
            measured_BS=torch.from_numpy(measured[:, used].copy()),
            padding_BS=torch.from_numpy(absent[:, used]) if absent[:, used].any() else None,
        )


def _columns(values: sp.csr_matrix, genes: np.ndarray) -> Tensor:
    """Return some columns as float32; those of unmeasured genes are 0."""
    n_measured = values.shape[1]
    found = np.zeros((values.shape[0], len(genes)), dtype=np.float32)
    measured = genes < n_measured
    found[:, measured] = values.toarray()[:, genes[measured]]
    return torch.from_numpy(found)


class PerturbationLoss:
    """Mean squared error over all measured genes fed; the `loss_fn` of the training loop."""

    fingerprint = "perturbation"

    def __call__(
        self, model: nn.Module, batch: PerturbationBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, twice: it is the only objective."""
        loss = masked_mse(predict_batch(model, batch), batch.targets_BS, batch.measured_BS)
        return loss, {"gep": loss}


def predict_batch(model: nn.Module, batch: PerturbationBatch) -> Tensor:
    """Return the predicted expression, float32 of shape (B, S)."""
    return model(
        batch.gene_ids_BS,
        batch.values_BS,
        batch.padding_BS,
        perturbation_flags_BL=batch.flags_BS,
        heads=("gep",),
    )["gep"].float()


class ConditionScores:
    """Compares predicted with measured mean profiles of whole conditions; an `evaluate` hook.

    Parameters
    ----------
    cells
        Pairs of the conditions to look at.
    conditions
        Condition of every pair.
    control_G
        Mean expression of the control cells.
    batch_size
        Pairs per forward pass, on all genes.
    device, config
        Where and in which precision to compute.
    """

    def __init__(
        self,
        cells: PairedCells,
        conditions: np.ndarray,
        control_G: np.ndarray,
        *,
        batch_size: int,
        device: str | torch.device,
        config: TrainingConfig,
    ) -> None:
        self.batches = PerturbationBatches(cells, batch_size=batch_size)
        names, self.codes = np.unique(conditions, return_inverse=True)
        self.control_G, self.device = control_G, torch.device(device)
        self.precision = Precision.choose(config, self.device)
        counts = np.bincount(self.codes)
        self.weights = 1 / counts[:, None]
        self.truth_CG = self._means([cells.targets.toarray().astype(np.float64)])
        options = [names.tolist(), batch_size]
        digest = hashlib.blake2b(np.ascontiguousarray(control_G).data, digest_size=16).hexdigest()
        self.fingerprint = f"{self.batches.fingerprint} {digest} {options}"

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        """Return `loss`, `pearson` and `pearson_delta`, means over conditions."""
        n_measured = self.batches.cells.n_measured
        with self.precision.autocast():
            predicted_CG = self._means(
                predict_batch(model, batch.to(self.device))[:, :n_measured].cpu().double().numpy()
                for batch in self.batches.epoch(0)
            )
        change_CG, truth_CG = predicted_CG - self.control_G, self.truth_CG - self.control_G
        return {
            "loss": float(np.square(predicted_CG - self.truth_CG).mean()),
            "pearson": _mean_correlation(predicted_CG, self.truth_CG),
            "pearson_delta": _mean_correlation(change_CG, truth_CG),
        }

    def _means(self, parts: Iterable[np.ndarray]) -> np.ndarray:
        sums_CG = np.zeros((len(self.weights), self.batches.cells.n_measured))
        start = 0
        for part in parts:
            np.add.at(sums_CG, self.codes[start : start + len(part)], part)
            start += len(part)
        return sums_CG * self.weights


def _mean_correlation(one_CG: np.ndarray, two_CG: np.ndarray) -> float:
    one_CG = one_CG - one_CG.mean(axis=1, keepdims=True)
    two_CG = two_CG - two_CG.mean(axis=1, keepdims=True)
    lengths_C = np.sqrt(np.square(one_CG).sum(axis=1) * np.square(two_CG).sum(axis=1))
    products_C = (one_CG * two_CG).sum(axis=1)
    # A condition without any change has no correlation: 0, as in the scores.
    found = np.divide(products_C, lengths_C, out=np.zeros_like(products_C), where=lengths_C > 0)
    return float(found.mean())


def pair_with_controls(names: Sequence[str], n_control: int, *, seed: int) -> np.ndarray:
    """Return the number of the control cell of every cell; it follows from its name and the seed.

    Returns
    -------
    Array of shape (n_cells,) of whole numbers below `n_control`.
    """
    found = [derive_seed(seed, "pair", str(name)) % n_control for name in names]
    return np.array(found, dtype=np.intp)
