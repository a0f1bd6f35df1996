"""k nearest neighbours in the space of principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from sklearn.neighbors import NearestNeighbors

from scgpt.errors import DataError
from scgpt.methods.base import Method, MethodParams
from scgpt.methods.predictions import annotation_prediction
from scgpt.methods.task_data import cell_types_of, query_cells, training_cells

if TYPE_CHECKING:
    from anndata import AnnData


class KNearestNeighborsParams(MethodParams):
    """Parameters of `KNearestNeighbors`."""

    n_neighbors: int = Field(default=10, ge=1)
    """How many training cells vote."""


class KNearestNeighbors(Method):
    """Majority vote of the nearest training cells (Euclidean distance on `obsm["X_pca"]`).

    A tie goes to the type whose nearest voter is closest, then to the first name. Confidence is
    the share of votes.
    """

    Params = KNearestNeighborsParams
    params: KNearestNeighborsParams

    def fit(self, data: AnnData) -> None:
        """Index the training cells.

        Raises
        ------
        DataError
            If there are fewer training cells than neighbours asked for.
        """
        cells = training_cells(data)
        if len(cells) < self.params.n_neighbors:
            msg = (
                f"{len(cells)} training cells are fewer than n_neighbors="
                f"{self.params.n_neighbors}; lower n_neighbors or use more cells"
            )
            raise DataError(msg)
        self.categories, self.codes = np.unique(cell_types_of(data, cells), return_inverse=True)
        self.index = NearestNeighbors(n_neighbors=self.params.n_neighbors, algorithm="brute")
        self.index.fit(_components(data, cells))

    def predict(self, data: AnnData) -> AnnData:
        """Let the neighbours of every test cell vote."""
        cells = query_cells(data)
        distances, neighbors = self.index.kneighbors(_components(data, cells))
        chosen, votes = vote(self.codes[neighbors], distances, n_types=len(self.categories))
        order = np.argsort(cells)
        return annotation_prediction(
            data.obs_names[cells[order]],
            self.categories[chosen[order]],
            categories=self.categories,
            confidence=votes[order] / self.params.n_neighbors,
        )


def vote(
    codes: np.ndarray, distances: np.ndarray, *, n_types: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the winning type of every row and its number of votes.

    Parameters
    ----------
    codes
        Type of every neighbour, integers of shape (n_cells, k).
    distances
        Distance of every neighbour, same shape.
    n_types
        Number of types; codes run from 0 to n_types - 1.
    """
    n_cells = len(codes)
    rows = np.arange(n_cells)[:, None]
    votes = np.zeros((n_cells, n_types), dtype=np.int64)
    nearest = np.full((n_cells, n_types), np.inf)
    np.add.at(votes, (rows, codes), 1)
    np.minimum.at(nearest, (rows, codes), distances)
    most = votes.max(axis=1)
    nearest[votes < most[:, None]] = np.inf
    return nearest.argmin(axis=1), most


def _components(data: AnnData, cells: np.ndarray) -> np.ndarray:
    if "X_pca" not in data.obsm:
        msg = f"obsm['X_pca'] is missing (obsm: {list(data.obsm)}); make the task data first"
        raise DataError(msg)
    components = np.asarray(data.obsm["X_pca"])[cells].astype(np.float64)
    if not np.isfinite(components).all():
        msg = "obsm['X_pca'] holds NaN or infinite values; make the task data again"
        raise DataError(msg)
    return components
