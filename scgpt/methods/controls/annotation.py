"""Negative and positive controls of annotation: the floor and the ceiling of every score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import Method
from scgpt.methods.predictions import annotation_prediction
from scgpt.methods.task_data import (
    SHOWN,
    cell_types_of,
    query_cells,
    training_cells,
    uniform_by_name,
)

if TYPE_CHECKING:
    from anndata import AnnData


class MajorityVote(Method):
    """Negative control: every cell gets the most frequent type of the training cells."""

    def fit(self, data: AnnData) -> None:
        """Count the training labels; ties go to the first name in alphabetical order."""
        labels = cell_types_of(data, training_cells(data))
        self.categories, counts = np.unique(labels, return_counts=True)
        self.winner = int(counts.argmax())
        self.share = counts[self.winner] / counts.sum()

    def predict(self, data: AnnData) -> AnnData:
        """Answer the majority type, with its share as confidence."""
        cells = _test_names(data)
        return annotation_prediction(
            cells,
            np.repeat(self.categories[self.winner], len(cells)),
            categories=self.categories,
            confidence=np.full(len(cells), self.share),
        )


class ShuffledLabels(Method):
    """Negative control: labels drawn at random with the frequencies of the training cells.

    The draw of a cell depends on the seed and on the cell's name alone, so the order of cells
    and the presence of other cells do not matter.
    """

    def fit(self, data: AnnData) -> None:
        """Learn the label frequencies."""
        labels = cell_types_of(data, training_cells(data))
        self.categories, counts = np.unique(labels, return_counts=True)
        self.shares = counts / counts.sum()

    def predict(self, data: AnnData) -> AnnData:
        """Draw one label per test cell."""
        cells = _test_names(data)
        draws = np.array([uniform_by_name(self.context.seed, cell) for cell in cells])
        chosen = np.searchsorted(np.cumsum(self.shares), draws, side="right")
        # The last cumulative share can be 1 - 1e-16, just below the largest possible draw.
        chosen = np.minimum(chosen, len(self.categories) - 1)
        return annotation_prediction(
            cells,
            self.categories[chosen],
            categories=self.categories,
            confidence=self.shares[chosen],
        )


class TrueLabels(Method):
    """Positive control: repeats the hidden labels, so every score must reach its ceiling."""

    def fit(self, data: AnnData) -> None:
        """Check that the truth was handed over; there is nothing to learn."""
        if self.context.truth is None:
            msg = (
                "TrueLabels needs the hidden labels (context.truth); "
                "only a method declared as positive_control receives them"
            )
            raise ConfigError(msg)
        training_cells(data)

    def predict(self, data: AnnData) -> AnnData:
        """Look the test cells up by name."""
        truth = self.context.truth
        cells = _test_names(data)
        rows = truth.obs_names.get_indexer(cells)
        if (rows < 0).any():
            absent = cells[rows < 0][:SHOWN].tolist()
            msg = f"{(rows < 0).sum()} of {len(cells)} test cells are not in the truth: {absent}"
            raise DataError(msg)
        labels = cell_types_of(truth, rows)
        return annotation_prediction(
            cells, labels, categories=np.unique(labels), confidence=np.ones(len(cells))
        )


def _test_names(data: AnnData) -> np.ndarray:
    return data.obs_names.to_numpy().astype(str)[np.sort(query_cells(data))]
