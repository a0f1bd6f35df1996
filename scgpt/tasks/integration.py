"""Batch integration: one vector per cell, in which batches mix and cell types stay apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from scgpt.data import contracts
from scgpt.errors import ConfigError, DataError
from scgpt.tasks.common import rows_by_name, some

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

TRUTH = contracts.INTEGRATION_TRUTH
PREDICTION = contracts.INTEGRATION_PREDICTION


class Params(BaseModel):
    """Parameters of the preparation, the same for every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    valid_fraction: float = Field(0.1, gt=0, lt=1, description="Share of cells.")
    n_highly_variable: int = Field(1200, ge=10)
    min_gene_counts: int = Field(3, ge=0, description="Rarer genes are left out, if counted.")
    min_batch_cells: int = Field(
        20, ge=2, description="Smaller batches take no part in choosing variable genes."
    )
    n_pcs: int = Field(50, ge=2)
    target_sum: float = Field(1e4, gt=0, description="Counts per cell after normalisation.")


def prepare(dataset: AnnData, params: Params, *, seed: int) -> tuple[AnnData, AnnData]:
    """Choose genes and hide the cell types; all cells and their batches are seen by methods.

    Parameters
    ----------
    dataset
        C1 with `obs["batch"]` and `obs["cell_type"]`.
    params
        See `Params`.
    seed
        Decides which cells a trained method may use for validation only.

    Returns
    -------
    The data (C2) and the truth, both of all cells.

    Raises
    ------
    DataError
        If a column is missing.
    """
    from scgpt.data import preprocess
    from scgpt.data.io import labels_only
    from scgpt.data.splits import hold_out

    _check_columns(dataset)
    counts = dataset.uns[contracts.KEY]["value_kind"] == "counts"
    notes = _odd(dataset.obs, params)
    if counts:
        dataset = dataset[:, preprocess.genes_with_counts(dataset.X, params.min_gene_counts)]
    data = dataset.copy()
    held = hold_out(data.obs_names, params.valid_fraction, seed=seed)
    data.obs["split"] = _split(held)
    data.layers["lognorm"] = (
        preprocess.lognormalise(data.X, target_sum=params.target_sum) if counts else data.X.copy()
    )
    data.var["highly_variable"] = _variable_genes(data, params, counts=counts)
    variable = data.var["highly_variable"].to_numpy()
    data.obsm["X_pca"] = preprocess.pca(
        data.layers["lognorm"][:, variable],
        n_components=min(params.n_pcs, variable.sum() - 1, data.n_obs - 1),
    )
    truth = labels_only(data.obs[["batch", "cell_type"]].copy())
    if notes:
        truth.uns["notes"] = notes
    del data.obs["cell_type"]
    return data, truth


def _split(held: np.ndarray) -> pd.Categorical:
    import pandas as pd

    names = ["valid" if held_out else "train" for held_out in held]
    return pd.Categorical(names, categories=["train", "valid", "test"])


def _check_columns(dataset: AnnData) -> None:
    for name in ("batch", "cell_type"):
        if name not in dataset.obs:
            msg = (
                f"integration needs obs['{name}'], found {list(dataset.obs.columns)}; "
                "add the column in the reader of the data set"
            )
            raise DataError(msg)


def _odd(obs: pd.DataFrame, params: Params) -> list[str]:
    """Say what is odd about the batches, and what is done about it."""
    sizes = obs["batch"].value_counts()
    notes = []
    if len(sizes) == 1:
        notes.append(
            f"all cells are of the one batch '{sizes.index[0]}': there is nothing to integrate, "
            "and scores of mixing have no value"
        )
    small = sorted(sizes[sizes < params.min_batch_cells].index.astype(str))
    if small and len(sizes) > len(small):
        notes.append(
            f"{len(small)} of {len(sizes)} batches have fewer than {params.min_batch_cells} cells "
            f"({some(small)}): left out where variable genes are chosen, kept everywhere else"
        )
    return notes


def _variable_genes(data: AnnData, params: Params, *, counts: bool) -> np.ndarray:
    from scgpt.data import preprocess

    sizes = data.obs["batch"].value_counts()
    large = sizes[sizes >= params.min_batch_cells].index
    rows = data.obs["batch"].isin(large).to_numpy()
    used = data[rows] if rows.any() else data
    return preprocess.highly_variable_genes(
        used,
        n_top=min(params.n_highly_variable, data.n_vars),
        flavor="seurat_v3" if counts else "cell_ranger",
        batch_key="batch" if len(large) > 1 else None,
    )


def scoring_arrays(prediction: AnnData, truth: AnnData) -> dict[str, Any]:
    """Return the arrays that the metrics of this task name as their arguments.

    Cells are matched by name: a method may return them in any order. The neighbour graph and the
    clusterings are made once, for all metrics.

    Raises
    ------
    ContractError
        If the prediction does not cover exactly the cells of the data set.
    """
    from scgpt.metrics.integration_arrays import integration_arrays

    rows = rows_by_name(prediction, truth)
    return integration_arrays(
        prediction.obsm["X_emb"][rows].astype("float64"),
        truth.obs["batch"].astype(str).to_numpy(),
        truth.obs["cell_type"].astype(str).to_numpy(),
    )


def coordinates(
    data: AnnData,
    truth: AnnData,
    prediction: AnnData,
    *,
    table: str,
    max_cells: int,
    seed: int,
) -> pd.DataFrame:
    """Return the tidy table of cells: cell, x, y (UMAP of the embedding), cell_type, batch."""
    import pandas as pd

    from scgpt.data.preprocess import umap

    if table != "cells":
        msg = f"integration offers the table 'cells' to figures, not '{table}'"
        raise ConfigError(msg)
    x, y = umap(prediction.obsm["X_emb"][rows_by_name(prediction, truth)], seed=seed).T
    labels = {name: truth.obs[name].astype(str).to_numpy() for name in ("cell_type", "batch")}
    return pd.DataFrame({"cell": truth.obs_names, "x": x, "y": y, **labels})


def describe(data: AnnData, truth: AnnData) -> dict[str, Any]:
    """Return the sizes, and in words what limits the scores."""
    sizes = {name: int((data.obs["split"] == name).sum()) for name in ("train", "valid")}
    batches = {str(name): int(n) for name, n in truth.obs["batch"].value_counts().items()}
    n_variable = int(data.var["highly_variable"].sum())
    shown = some([f"{name} {n}" for name, n in batches.items()])
    return {
        "sizes": sizes,
        "batches": batches,
        "n_genes": data.n_vars,
        "n_highly_variable": n_variable,
        "notes": [
            f"{data.n_obs} cells in {len(batches)} batches ({shown}), "
            f"{truth.obs['cell_type'].nunique()} cell types, {n_variable} variable genes",
            *map(str, truth.uns.get("notes", ())),
        ],
    }
