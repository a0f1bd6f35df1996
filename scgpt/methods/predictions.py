"""The predictions of every task (C5), assembled from plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from scgpt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOX = ("low", "q1", "median", "q3", "high")


def annotation_prediction(
    cells: Sequence[str] | pd.Index,
    labels: Sequence[str] | np.ndarray,
    *,
    categories: Sequence[str] | np.ndarray,
    confidence: np.ndarray | None = None,
    embedding: np.ndarray | None = None,
) -> ad.AnnData:
    """Assemble an annotation prediction (C5).

    Parameters
    ----------
    cells
        Names of the test cells; they become the rows.
    labels
        Predicted cell type per cell.
    categories
        Every type the method could have answered.
    confidence
        One number in [0, 1] per cell.
    embedding
        Array of shape (n_cells, width).

    Returns
    -------
    AnnData without X: `obs["cell_type_pred"]`, and what else was given.
    """
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object).astype(str))
    obs["cell_type_pred"] = pd.Categorical(labels, categories=sorted(set(categories)))
    assert not obs["cell_type_pred"].isna().any(), "a predicted label is not among the categories"
    if confidence is not None:
        obs["confidence"] = np.clip(np.asarray(confidence, dtype=np.float64), 0.0, 1.0)
    prediction = ad.AnnData(obs=obs)
    if embedding is not None:
        prediction.obsm["X_emb"] = np.ascontiguousarray(embedding, dtype=np.float32)
    return prediction


def embedding_prediction(
    data: ad.AnnData, cells: Sequence[str] | pd.Index, embedding: np.ndarray
) -> ad.AnnData:
    """Assemble an integration prediction (C5), its rows in the order of the task data.

    Parameters
    ----------
    data
        The task data.
    cells
        Name of the cell of each row of the embedding: all cells of the data, in any order.
    embedding
        Array of shape (n_cells, width).

    Returns
    -------
    AnnData without X: `obsm["X_emb"]`, float32.

    Raises
    ------
    DataError
        If the array has another shape, or a value that is NaN or infinite.
    """
    embedding = np.asarray(embedding)
    if embedding.ndim != 2 or len(embedding) != len(cells):
        msg = f"the embedding has shape {embedding.shape}, expected ({len(cells)} cells, width)"
        raise DataError(msg)
    n_bad = int((~np.isfinite(embedding)).any(axis=1).sum())
    if n_bad:
        msg = f"the embedding of {n_bad} of {len(cells)} cells holds NaN or infinite values"
        raise DataError(msg)
    rows = pd.Index(cells, dtype=object).astype(str).get_indexer(data.obs_names)
    assert len(rows) == len(cells), "as many rows as cells in the data"
    assert (rows >= 0).all(), "a cell of the data is missing"
    prediction = ad.AnnData(obs=pd.DataFrame(index=data.obs_names.copy()))
    prediction.obsm["X_emb"] = np.ascontiguousarray(embedding[rows], dtype=np.float32)
    return prediction


def perturbation_prediction(
    conditions: Sequence[str] | np.ndarray,
    genes: Sequence[str] | np.ndarray,
    means: np.ndarray,
    *,
    box: Mapping[str, np.ndarray] | None = None,
) -> ad.AnnData:
    """Assemble a perturbation prediction (C5).

    Parameters
    ----------
    conditions
        The queried conditions; they become the rows.
    genes
        Names of all genes of the data.
    means
        Predicted mean log-normalised expression, shape (n_conditions, n_genes).
    box
        Box plot of the predicted distribution over control cells: `low`, `q1`, `median`, `q3`,
        `high` (whiskers at 1.5 interquartile ranges), each of the shape of `means`.

    Returns
    -------
    AnnData with dense float32 X and `obs["condition"]`; a box becomes layers `box_low` and so on.

    Raises
    ------
    DataError
        If an array has another shape, or a value that is NaN or infinite.
    """
    index = pd.Index(conditions, dtype=object).astype(str)
    obs = pd.DataFrame({"condition": pd.Categorical(index)}, index=index)
    var = pd.DataFrame(index=pd.Index(genes, dtype=object).astype(str))
    matrices = {"means": means, **({} if box is None else {f"box_{k}": box[k] for k in BOX})}
    plain = {name: _dense(name, values, index, var.index) for name, values in matrices.items()}
    return ad.AnnData(plain.pop("means"), obs=obs, var=var, layers=plain)


def _dense(name: str, values: np.ndarray, conditions: pd.Index, genes: pd.Index) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (len(conditions), len(genes)):
        expected = f"({len(conditions)} conditions, {len(genes)} genes)"
        msg = f"{name} has shape {values.shape}, expected {expected}"
        raise DataError(msg)
    bad = conditions[~np.isfinite(values).all(axis=1)]
    if len(bad):
        msg = f"{name} holds NaN or infinite values for {len(bad)} conditions: {list(bad[:5])}"
        raise DataError(msg)
    return np.ascontiguousarray(values, dtype=np.float32)
