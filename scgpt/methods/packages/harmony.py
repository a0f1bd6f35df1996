"""Harmony: principal components moved together across batches, by the package harmonypy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from harmonypy import run_harmony
from pydantic import Field

from scgpt.errors import DataError
from scgpt.methods.base import Method, MethodParams
from scgpt.methods.baselines.embeddings import components, small_batches_note
from scgpt.methods.predictions import embedding_prediction
from scgpt.methods.task_data import SHOWN, batches_of, cells_by_name
from scgpt.training.records import rows

if TYPE_CHECKING:
    from anndata import AnnData

CELLS_PER_CLUSTER = 30


class HarmonyParams(MethodParams):
    """Parameters of `Harmony`; the defaults are those of the package."""

    theta: float = Field(default=2.0, ge=0)
    """Weight of diversity: greater values mix batches more."""

    sigma: float = Field(default=0.1, gt=0)
    """Width of the soft clusters."""

    n_clusters: int | None = Field(default=None, ge=2)
    """Number of soft clusters; by default one per 30 cells, at least 2 and at most 100."""

    max_iterations: int = Field(default=10, ge=1)
    """Rounds of clustering and correction."""


class Harmony(Method):
    """Harmony on `obsm["X_pca"]`, by calling harmonypy itself.

    It corrects the cells it is given and keeps no model, so that `predict` answers for the cells
    of `fit` only. With one batch there is nothing to correct: the components are answered as they
    are, and a note says so.

    References
    ----------
    Korsunsky et al. 2019, 10.1038/s41592-019-0619-0.
    """

    Params = HarmonyParams
    params: HarmonyParams

    def fit(self, data: AnnData) -> None:
        """Correct the components of all cells.

        Raises
        ------
        DataError
            If components or batches are missing, there are as many cells as components, or the
            package answers with another shape than (n_cells, n_pcs).
        """
        cells = cells_by_name(data)
        batches, before = batches_of(data, cells), components(data, cells)
        self.notes, self.history = [], []
        self.cells = data.obs_names[cells].astype(str)
        if len(np.unique(batches)) == 1:
            self.notes.append(
                f"all cells are of one batch ({batches[0]}): Harmony has nothing to correct, so "
                "the principal components are answered"
            )
            self.embedding = before
            return
        self.notes += small_batches_note(batches)
        self.embedding = self._correct(before, batches)

    def _correct(self, before: np.ndarray, batches: np.ndarray) -> np.ndarray:
        n_cells, n_pcs = before.shape
        if n_cells == n_pcs:
            msg = (
                f"{n_cells} cells and as many principal components: harmonypy tells rows from "
                "columns by their number, so this shape is ambiguous; use fewer components"
            )
            raise DataError(msg)
        by_size = int(np.clip(round(n_cells / CELLS_PER_CLUSTER), 2, 100))
        result = run_harmony(
            before,
            pd.DataFrame({"batch": batches}),
            "batch",
            theta=self.params.theta,
            sigma=self.params.sigma,
            nclust=self.params.n_clusters or by_size,
            max_iter_harmony=self.params.max_iterations,
            random_state=self.context.seed % 2**31,
            ncores=self.context.threads,
            verbose=False,
        )
        after = np.asarray(result.Z_corr)
        if after.shape != before.shape:
            msg = (
                f"harmonypy answered an array of shape {after.shape}, expected (n_cells, n_pcs) = "
                f"{before.shape}; versions before 0.2 transpose it: install harmonypy 2"
            )
            raise DataError(msg)
        for step, value in enumerate(result.objective_harmony):
            self.history += rows({"harmony": value}, epoch=step, step=step, phase="train")
        return after

    def predict(self, data: AnnData) -> AnnData:
        """Return the corrected components of every cell.

        Raises
        ------
        DataError
            If a cell was not there in `fit`.
        """
        names = data.obs_names[cells_by_name(data)].astype(str)
        found = self.cells.get_indexer(names)
        if (found < 0).any():
            absent = names[found < 0][:SHOWN].tolist()
            msg = f"{(found < 0).sum()} of {len(names)} cells were not there in fit: {absent}"
            raise DataError(msg)
        return embedding_prediction(data, names, self.embedding[found])
