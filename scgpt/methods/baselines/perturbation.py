"""Baselines and controls of perturbation prediction that need no training.

`Additive` and `LinearModel` select nothing, so they learn from the conditions of both the training
and the validation split. "The mean change" is everywhere that of the training split alone, each
condition weighted once: the centroid against which specific effects are scored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from scgpt.data.conditions import CONTROL
from scgpt.data.perturbation_splits import genes_of
from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import Method, MethodParams
from scgpt.methods.perturbation_data import (
    count_note,
    perturbed_cells,
    queries_of,
)
from scgpt.methods.predictions import perturbation_prediction
from scgpt.methods.task_data import SHOWN

if TYPE_CHECKING:
    from anndata import AnnData


class _MeanProfiles(Method):
    """Baseline that predicts from the mean profiles of the conditions seen."""

    def fit(self, data: AnnData) -> None:
        """Average the control cells, and the cells of every condition."""
        self.cells = perturbed_cells(data, "train", "valid")
        self.control = self.cells.control_mean()
        self.means = self.cells.condition_means()
        training = perturbed_cells(data, "train").condition_means()
        self.mean_change = np.mean(list(training.values()), axis=0) - self.control

    def predict(self, data: AnnData) -> AnnData:
        """Answer every queried condition."""
        self.notes = []
        queries = queries_of(data)
        profiles = self.control + self._changes([str(name) for name in queries])
        return perturbation_prediction(queries, data.var_names, self.cells.as_asked(data, profiles))

    def _changes(self, queries: list[str]) -> np.ndarray:
        """Return the predicted change against control, shape (n_queries, n_genes)."""
        raise NotImplementedError


class NoChange(_MeanProfiles):
    """Negative control: a perturbed cell looks like the mean control cell."""

    def _changes(self, queries: list[str]) -> np.ndarray:
        return np.zeros((len(queries), len(self.control)))


class TrainingMean(_MeanProfiles):
    """The mean of the perturbed training conditions, each weighted once, whatever is asked."""

    def _changes(self, queries: list[str]) -> np.ndarray:
        return np.tile(self.mean_change, (len(queries), 1))


class Additive(_MeanProfiles):
    """The changes of the genes perturbed alone, added up.

    A gene never seen perturbed alone contributes the mean change of the conditions seen; an unseen
    single perturbation is therefore answered with the training mean.

    References
    ----------
    Ahlmann-Eltze et al. 2025, doi:10.1038/s41592-025-02772-6.
    """

    def _changes(self, queries: list[str]) -> np.ndarray:
        rows, guessed = [], []
        for query in queries:
            genes = genes_of(query)
            rows.append(sum(self._change(gene) for gene in genes))
            if not set(genes) <= self.means.keys():
                guessed.append(query)
        what = (
            "hold a gene never seen perturbed alone, for which the mean change of all conditions "
            "seen was added"
        )
        self.notes += count_note(guessed, len(queries), what)
        return np.array(rows)

    def _change(self, gene: str) -> np.ndarray:
        return self.means[gene] - self.control if gene in self.means else self.mean_change


class LinearModelParams(MethodParams):
    """Parameters of `LinearModel`; the defaults are the published ones."""

    n_components: int = Field(default=10, ge=1)
    """Principal components that represent genes and perturbations."""

    ridge: float = Field(default=0.1, gt=0)
    """Penalty on both sides of the product."""


class LinearModel(_MeanProfiles):
    """Y = G W P' + b: from principal components of the genes to the changes they cause.

    Y holds the change of every condition seen (genes by conditions, control as a column of zeros),
    b its row means. G holds the scores of the genes on the first principal components of their
    mean expression over these conditions. P holds the row of G of the perturbed gene (the sum of
    rows for two genes, 0 for control), and W is fitted with a ridge penalty r on both sides:
    W = (G'G + r)^-1 G' (Y - b) P (P'P + r)^-1. A perturbed gene that is not measured has no row in
    G and adds 0 to P (the published code leaves such conditions out).

    References
    ----------
    Ahlmann-Eltze et al. 2025, doi:10.1038/s41592-025-02772-6.
    """

    Params = LinearModelParams
    params: LinearModelParams

    def fit(self, data: AnnData) -> None:
        """Find the components and the matrix W."""
        super().fit(data)
        self.column = {str(gene): i for i, gene in enumerate(self.cells.genes)}
        profiles = np.array([self.control, *self.means.values()]).T
        self.embedding = _components(profiles, self.params.n_components)
        changes = profiles - self.control[:, None]
        self.offset = changes.mean(axis=1)
        self.weights = _ridge_both_sides(
            changes - self.offset[:, None],
            self.embedding,
            np.array([self._perturbation(name) for name in (CONTROL, *self.means)]),
            self.params.ridge,
        )

    def _unmeasured(self, condition: str) -> bool:
        return not set(genes_of(condition)) <= self.column.keys()

    def _perturbation(self, condition: str) -> np.ndarray:
        rows = [self.embedding[self.column[g]] for g in genes_of(condition) if g in self.column]
        return np.sum(rows, axis=0) if rows else np.zeros(self.embedding.shape[1])

    def _changes(self, queries: list[str]) -> np.ndarray:
        what = "hold a perturbed gene that is not measured and has no embedding: it adds nothing"
        unmeasured = [query for query in queries if self._unmeasured(query)]
        self.notes += count_note(unmeasured, len(queries), what)
        seen = [name for name in self.means if self._unmeasured(name)]
        self.notes += count_note(seen, len(self.means), what, kind="training")
        perturbations = np.array([self._perturbation(query) for query in queries])
        return perturbations @ self.weights.T @ self.embedding.T + self.offset


def _components(profiles: np.ndarray, n_components: int) -> np.ndarray:
    """Return principal component scores of the genes (rows), each with a fixed sign."""
    from scipy.linalg import svd

    centred = profiles - profiles.mean(axis=0)
    left, scale, _ = svd(centred, full_matrices=False)
    scores = (left * scale)[:, : min(n_components, int((scale > 1e-12 * scale[0]).sum()))]
    largest = np.abs(scores).argmax(axis=0)
    return scores * np.where(scores[largest, np.arange(scores.shape[1])] < 0, -1.0, 1.0)


def _ridge_both_sides(
    target: np.ndarray, left: np.ndarray, right: np.ndarray, penalty: float
) -> np.ndarray:
    """Return W with left W right' near target, shape (width of left, width of right)."""
    inner = np.linalg.solve(left.T @ left + penalty * np.eye(left.shape[1]), left.T @ target)
    return np.linalg.solve(right.T @ right + penalty * np.eye(right.shape[1]), (inner @ right).T).T


class TechnicalDuplicate(Method):
    """Positive control: the mean of the half of the measured cells that is not scored."""

    def fit(self, data: AnnData) -> None:
        """Check that the truth was handed over; there is nothing to learn."""
        truth = self.context.truth
        if truth is None or "other_half" not in truth.layers:
            msg = (
                "TechnicalDuplicate needs the other half of the measured cells "
                "(context.truth.layers['other_half']); only a method declared as positive_control "
                "receives it"
            )
            raise ConfigError(msg)
        queries_of(data)

    def predict(self, data: AnnData) -> AnnData:
        """Look the conditions and genes up by name."""
        truth, queries = self.context.truth, queries_of(data)
        rows = truth.obs_names.get_indexer(queries)
        columns = truth.var_names.get_indexer(data.var_names)
        for what, names, found in (
            ("conditions", queries, rows),
            ("genes", data.var_names.to_numpy(), columns),
        ):
            if (found < 0).any():
                absent = names[found < 0][:SHOWN].tolist()
                msg = f"{(found < 0).sum()} of {len(names)} {what} are not in the truth: {absent}"
                raise DataError(msg)
        half = np.asarray(truth.layers["other_half"])[np.ix_(rows, columns)]
        return perturbation_prediction(queries, data.var_names, half)
