"""The generator behind all simulated data: what adds up to a cell's expected counts.

The logarithm of a gene's share of a cell is a baseline plus any number of *terms*. A term is a
table of effects (one row per cell type, batch, perturbation, regulator ...) and every cell says
how much of each row it has. Shares become counts through a library size, ambient RNA from the
other cells of its batch, a negative binomial and dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, vstack

from scgpt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BLOCK = 512  # cells drawn from one random stream; part of what a seed means


@dataclass(frozen=True, kw_only=True)
class Term:
    """Named effects on the log share of every gene.

    Attributes
    ----------
    names
        What each row stands for.
    effects
        Natural-log fold changes, shape (n_names, n_genes).
    """

    names: tuple[str, ...]
    effects: np.ndarray


@dataclass(frozen=True, kw_only=True)
class CountModel:
    """Expected and sampled counts of cells described by their weights on the terms.

    Attributes
    ----------
    baseline
        Log share of each gene, up to a constant, shape (n_genes,).
    dispersion
        Negative-binomial dispersion: variance = mean + dispersion * mean^2, shape (n_genes,).
    terms
        Term name -> effects.
    ambient
        Share of a cell's counts that comes from its batch at large.
    dropout_midpoint, dropout_slope
        A count of mean `m` is lost with probability 1 / (1 + (m / midpoint)^slope); midpoint 0
        loses nothing.
    """

    baseline: np.ndarray
    dispersion: np.ndarray
    terms: Mapping[str, Term] = field(default_factory=dict)
    ambient: float = 0.0
    dropout_midpoint: float = 0.0
    dropout_slope: float = 1.0

    def shares(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the share of each gene in each cell, before ambient RNA; rows sum to 1.

        Parameters
        ----------
        weights
            Term name -> how much each cell has of its rows, shape (n_cells, n_names).
        """
        unknown = sorted(set(weights) - set(self.terms))
        if unknown:
            msg = f"the model has no terms {unknown}; it has {sorted(self.terms)}"
            raise DataError(msg)
        log_share = self.baseline[None, :]
        for name, weight in weights.items():
            log_share = log_share + weight @ self.terms[name].effects
        log_share = log_share - log_share.max(axis=1, keepdims=True)
        share = np.exp(log_share)
        return share / share.sum(axis=1, keepdims=True)

    def sample(
        self,
        weights: Mapping[str, np.ndarray],
        *,
        library_sizes: np.ndarray,
        batches: np.ndarray,
        seed: Sequence[int],
    ) -> csr_matrix:
        """Draw the counts of cells.

        Parameters
        ----------
        weights
            As in `shares`.
        library_sizes
            Expected total of each cell, shape (n_cells,).
        batches
            Batch number of each cell: who shares ambient RNA, shape (n_cells,).
        seed
            Words of the random seed.

        Returns
        -------
        CSR of float32, shape (n_cells, n_genes).
        """
        blocks = [slice(i, i + BLOCK) for i in range(0, library_sizes.size, BLOCK)]
        parts = [{name: weight[block] for name, weight in weights.items()} for block in blocks]
        soup = np.zeros((int(batches.max()) + 1, self.baseline.size))
        if self.ambient:
            for block, part in zip(blocks, parts, strict=True):
                members = one_hot(batches[block], soup.shape[0]) * library_sizes[block, None]
                soup += members.T @ self.shares(part)
            soup /= np.maximum(soup.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        drawn = []
        for number, (block, part) in enumerate(zip(blocks, parts, strict=True)):
            share = (1 - self.ambient) * self.shares(part) + self.ambient * soup[batches[block]]
            rng = np.random.default_rng([*seed, number])
            drawn.append(csr_matrix(self._draw(rng, share * library_sizes[block, None])))
        return vstack(drawn, format="csr", dtype=np.float32)

    def _draw(self, rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
        shape = 1 / self.dispersion
        counts = rng.poisson(rng.gamma(shape, mean / shape)).astype(np.float32)
        if self.dropout_midpoint:
            lost = 1 / (1 + (mean / self.dropout_midpoint) ** self.dropout_slope)
            counts[rng.random(counts.shape) < lost] = 0
        return counts


def sparse_effects(
    rng: np.random.Generator, names: Sequence[str], n_genes: int, *, share: float, scale: float
) -> Term:
    """Draw normal effects on a random share of the genes, independently for each name."""
    shape = (len(names), n_genes)
    effects = rng.normal(0, scale, shape) * (rng.random(shape) < share)
    return Term(names=tuple(names), effects=effects)


def one_hot(codes: np.ndarray, n_names: int) -> np.ndarray:
    """Return weights of 1 on the row each cell belongs to, shape (n_cells, n_names)."""
    weights = np.zeros((codes.size, n_names))
    weights[np.arange(codes.size), codes] = 1
    return weights


def library_sizes(rng: np.random.Generator, medians: np.ndarray, *, log_scale: float) -> np.ndarray:
    """Draw log-normal library sizes around the median of each cell's batch, shape (n_cells,)."""
    return medians * np.exp(rng.normal(0, log_scale, medians.size))


def apportion(weights: Sequence[float], total: int, *, minimum: int = 0) -> np.ndarray:
    """Share `total` out in proportion to `weights`, at least `minimum` for a positive weight.

    Returns
    -------
    Array of int with the sum `total`, shape (n_weights,).

    Raises
    ------
    DataError
        If `total` is too small for the minima.
    """
    weights = np.asarray(weights, dtype=float)
    floor = np.where(weights > 0, minimum, 0)
    if total < floor.sum():
        msg = f"{total} cells are too few: {floor.sum()} are needed for {minimum} of each kind"
        raise DataError(msg)
    # What is left after the minima goes to those whose proportional share exceeds its minimum.
    excess = np.maximum(weights / weights.sum() * total - floor, 0)
    left = total - floor.sum()
    exact = excess * (left / max(excess.sum(), np.finfo(float).tiny))
    shares = np.floor(exact).astype(int)
    shares[np.argsort(-(exact - shares), kind="stable")[: left - shares.sum()]] += 1
    return floor + shares
