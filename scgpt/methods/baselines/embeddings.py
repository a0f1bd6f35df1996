"""Embeddings without integration: what every method of integration must improve on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgpt.errors import DataError
from scgpt.methods.base import Method
from scgpt.methods.predictions import embedding_prediction
from scgpt.methods.task_data import cells_by_name, lognorm_matrix, variable_genes

if TYPE_CHECKING:
    from anndata import AnnData

NEIGHBORHOOD = 15  # cells in the neighbour graph of the scores


class PCAEmbedding(Method):
    """Principal components of the highly variable genes, `obsm["X_pca"]`; batches are ignored."""

    def fit(self, data: AnnData) -> None:
        """Check that the components are there; the task has fitted them."""
        components(data, cells_by_name(data))

    def predict(self, data: AnnData) -> AnnData:
        """Return the components of every cell."""
        cells = cells_by_name(data)
        return embedding_prediction(data, data.obs_names[cells], components(data, cells))


class Unintegrated(Method):
    """Log-normalised expression of the highly variable genes as it is; batches are ignored."""

    def fit(self, data: AnnData) -> None:
        """Remember the highly variable genes."""
        self.genes = variable_genes(data)

    def predict(self, data: AnnData) -> AnnData:
        """Return the expression of every cell."""
        cells = cells_by_name(data)
        expression = lognorm_matrix(data, cells, self.genes)
        return embedding_prediction(data, data.obs_names[cells], expression.toarray())


def components(data: AnnData, cells: np.ndarray) -> np.ndarray:
    """Return principal components of some cells, float64 of shape (len(cells), n_pcs).

    Raises
    ------
    DataError
        If `obsm["X_pca"]` is missing or holds NaN or infinite values.
    """
    if "X_pca" not in data.obsm:
        msg = f"obsm['X_pca'] is missing (obsm: {list(data.obsm)}); make the task data first"
        raise DataError(msg)
    values = np.asarray(data.obsm["X_pca"])[cells].astype(np.float64)
    if not np.isfinite(values).all():
        msg = "obsm['X_pca'] holds NaN or infinite values; make the task data again"
        raise DataError(msg)
    return values


def small_batches_note(batches: np.ndarray) -> list[str]:
    """Return a note that names the batches with too few cells to learn from, if there are any."""
    names, sizes = np.unique(batches, return_counts=True)
    small = [
        f"{name} ({size})" for name, size in zip(names, sizes, strict=True) if size < NEIGHBORHOOD
    ]
    if not small:
        return []
    return [f"the effect of batches of few cells is learned from these alone: {', '.join(small)}"]
