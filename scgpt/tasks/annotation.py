"""Cell type annotation: labels of a reference are given, those of the query are predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from scgpt.data import contracts
from scgpt.errors import ConfigError, DataError
from scgpt.tasks.common import rows_by_name

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

TRUTH = contracts.ANNOTATION_TRUTH
PREDICTION = contracts.ANNOTATION_PREDICTION


class Params(BaseModel):
    """Parameters of the preparation, the same for every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    valid_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the reference.")
    stratify: bool = Field(default=False, description="Keep the type shares in train and valid.")
    n_highly_variable: int = Field(3000, ge=10)
    n_pcs: int = Field(50, ge=2)
    target_sum: float = Field(1e4, gt=0, description="Counts per cell after normalisation.")


def prepare(dataset: AnnData, params: Params, *, seed: int) -> tuple[AnnData, AnnData]:
    """Divide a data set into what methods see and what they must predict.

    Highly variable genes and principal components are fitted on the reference cells alone; the
    query is only projected. The types of query cells are removed from the data.

    Parameters
    ----------
    dataset
        C1 with `obs["subset"]` (reference, query) and `obs["cell_type"]`.
    params
        See `Params`.
    seed
        Decides which reference cells are held out for validation.

    Returns
    -------
    The data (C2, all cells) and the truth (test cells only).

    Raises
    ------
    DataError
        If a column is missing or one side has no cells.
    """
    from scgpt.data import preprocess
    from scgpt.data.io import labels_only
    from scgpt.data.splits import split_reference

    _check_columns(dataset)
    data = dataset.copy()
    is_reference = (data.obs["subset"] == "reference").to_numpy()
    data.obs["split"] = split_reference(
        data.obs_names,
        is_reference,
        labels=data.obs["cell_type"] if params.stratify else None,
        valid_fraction=params.valid_fraction,
        seed=seed,
    )
    counts = dataset.uns[contracts.KEY]["value_kind"] == "counts"
    data.layers["lognorm"] = (
        preprocess.lognormalise(data.X, target_sum=params.target_sum) if counts else data.X.copy()
    )
    data.var["highly_variable"] = preprocess.highly_variable_genes(
        data[is_reference],
        n_top=min(params.n_highly_variable, data.n_vars),
        flavor="seurat_v3" if counts else "cell_ranger",
    )
    variable = data.var["highly_variable"].to_numpy()
    data.obsm["X_pca"] = preprocess.pca(
        data.layers["lognorm"][:, variable],
        n_components=min(params.n_pcs, variable.sum() - 1, is_reference.sum() - 1),
        fit_rows=is_reference,
    )
    is_test = (data.obs["split"] == "test").to_numpy()
    truth = data.obs.loc[is_test, ["cell_type"]].copy()
    truth["cell_type"] = truth["cell_type"].cat.remove_unused_categories()
    visible = data.obs["cell_type"].mask(is_test)
    data.obs["cell_type"] = visible.cat.remove_unused_categories()
    return data, labels_only(truth)


def _check_columns(dataset: AnnData) -> None:
    for name in ("subset", "cell_type"):
        if name not in dataset.obs:
            msg = (
                f"annotation needs obs['{name}'], found {list(dataset.obs.columns)}; "
                "add the column in the reader of the data set"
            )
            raise DataError(msg)
    sizes = dataset.obs["subset"].value_counts()
    for name in ("reference", "query"):
        if sizes.get(name, 0) < 2:
            msg = f"annotation needs {name} cells, found {sizes.get(name, 0)}; see obs['subset']"
            raise DataError(msg)


def scoring_arrays(prediction: AnnData, truth: AnnData) -> dict[str, np.ndarray]:
    """Return the arrays that the metrics of this task name as their arguments.

    Cells are matched by name: a method may return them in any order.

    Returns
    -------
    `true_labels` and `predicted_labels`, text arrays of shape (n_test_cells,).

    Raises
    ------
    ContractError
        If the prediction does not cover exactly the test cells.
    """
    predicted = prediction.obs["cell_type_pred"].iloc[rows_by_name(prediction, truth)]
    return {
        "true_labels": truth.obs["cell_type"].astype(str).to_numpy(),
        "predicted_labels": predicted.astype(str).to_numpy(),
    }


def coordinates(
    data: AnnData,
    truth: AnnData,
    prediction: AnnData,
    *,
    table: str,
    max_cells: int,
    seed: int,
) -> pd.DataFrame:
    """Return a tidy table that figures draw cells from.

    Parameters
    ----------
    data, truth, prediction
        The files of one job.
    table
        `cells` or `embedding`.
    max_cells
        The embedding table holds at most so many cells, drawn evenly from the sorted ones.
    seed
        Seed of UMAP.

    Returns
    -------
    `cells`: cell, x, y (UMAP of the query's expression, principal components in), cell_type,
    cell_type_pred, confidence. `embedding`: cell, cell_type, dim_0 ... (empty if the method gives
    no embedding).
    """
    makers = {"cells": _cells, "embedding": _embedding}
    if table not in makers:
        msg = f"annotation offers the tables {', '.join(makers)} to figures, not '{table}'"
        raise ConfigError(msg)
    return makers[table](data, truth, prediction, max_cells=max_cells, seed=seed)


def _cells(
    data: AnnData,
    truth: AnnData,
    prediction: AnnData,
    *,
    max_cells: int,
    seed: int,
) -> pd.DataFrame:
    import pandas as pd

    from scgpt.data.preprocess import umap

    x, y = umap(data[truth.obs_names].obsm["X_pca"], seed=seed).T
    predicted = prediction[truth.obs_names].obs
    cells = pd.DataFrame(
        {
            "cell": truth.obs_names,
            "x": x,
            "y": y,
            "cell_type": truth.obs["cell_type"].astype(str).to_numpy(),
            "cell_type_pred": predicted["cell_type_pred"].astype(str).to_numpy(),
        }
    )
    if "confidence" in predicted:
        cells["confidence"] = predicted["confidence"].to_numpy()
    return cells


def _embedding(
    data: AnnData,
    truth: AnnData,
    prediction: AnnData,
    *,
    max_cells: int,
    seed: int,
) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    if "X_emb" not in prediction.obsm:
        return pd.DataFrame(columns=["cell", "cell_type"])
    cells = pd.DataFrame(
        {"cell": truth.obs_names, "cell_type": truth.obs["cell_type"].astype(str).to_numpy()}
    )
    order = cells.sort_values(["cell_type", "cell"]).index.to_numpy()
    if len(order) > max_cells:
        order = order[np.linspace(0, len(order) - 1, max_cells).astype(int)]
    values = np.asarray(prediction[truth.obs_names].obsm["X_emb"])[order]
    table = pd.DataFrame(values, columns=[f"dim_{i}" for i in range(values.shape[1])])
    table.insert(0, "cell_type", cells["cell_type"].to_numpy()[order])
    table.insert(0, "cell", cells["cell"].to_numpy()[order])
    return table


def describe(data: AnnData, truth: AnnData) -> dict[str, Any]:
    """Return the sizes of a split, and in words what limits the scores on it."""
    known = set(data.obs["cell_type"].cat.categories)
    unknown = truth.obs["cell_type"][~truth.obs["cell_type"].isin(known)]
    sizes = {name: int(n) for name, n in data.obs["split"].value_counts().items()}
    notes = [f"{sizes['train']} train, {sizes['valid']} valid and {sizes['test']} test cells"]
    if len(unknown):
        types = ", ".join(sorted(unknown.unique()))
        notes.append(
            f"{len(unknown)} query cells are of types that the reference lacks ({types}): no "
            f"method that learns from the reference can exceed an accuracy of "
            f"{1 - len(unknown) / len(truth):.3f}"
        )
    return {
        "sizes": sizes,
        "n_types_reference": len(known),
        "n_types_query": int(truth.obs["cell_type"].nunique()),
        "types_only_in_query": sorted(unknown.unique()),
        "notes": notes,
    }
