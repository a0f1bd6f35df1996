"""Perturbation task data as arrays: conditions, their mean profiles, the questions asked.

A condition is `control` or the names of the perturbed genes, sorted and joined by `+`. All arrays
are in the order of names, so that no method depends on the order of cells and genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scgpt.data.conditions import BOX, CONTROL, five_numbers, mean_expression
from scgpt.errors import DataError
from scgpt.methods.task_data import SHOWN, cells_of, lognorm_matrix, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from anndata import AnnData


def queries_of(data: AnnData) -> np.ndarray:
    """Return the conditions to predict, in the order asked.

    Raises
    ------
    DataError
        If there is none, one is asked twice or is control, or cells of one are in the data.
    """
    if "queries" not in data.uns:
        msg = f"uns['queries'] is missing (uns has {list(data.uns)}); make the task data first"
        raise DataError(msg)
    queries = np.atleast_1d(np.asarray(data.uns["queries"])).astype(str)
    if not len(queries) or len(set(queries)) < len(queries) or CONTROL in queries:
        msg = (
            f"uns['queries'] is {queries[:SHOWN].tolist()}; expected perturbed conditions, "
            "each once"
        )
        raise DataError(msg)
    known = sorted(set(queries.tolist()) & set(data.obs["condition"].astype(str)))
    if known:
        msg = (
            f"{len(known)} of {len(queries)} queried conditions have cells in these data, "
            f"e.g. {known[:SHOWN]}; their cells belong to the truth alone"
        )
        raise DataError(msg)
    return queries


@dataclass(frozen=True, kw_only=True)
class PerturbedCells:
    """Cells of some splits, sorted by name, and all genes, sorted by name.

    Attributes
    ----------
    names, conditions, splits
        Of every cell, arrays of str.
    genes
        Names of the columns.
    values
        Log-normalised expression, CSR float32 of shape (n_cells, n_genes).
    """

    names: np.ndarray
    conditions: np.ndarray
    splits: np.ndarray
    genes: np.ndarray
    values: sp.csr_matrix

    @property
    def control(self) -> np.ndarray:
        """Rows of the control cells."""
        return np.flatnonzero(self.conditions == CONTROL)

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean expression of some cells, shape (n_genes,), float64."""
        return mean_expression(self.values[rows])

    def control_mean(self) -> np.ndarray:
        """Return the mean expression of the control cells, shape (n_genes,), float64."""
        return self.mean(self.control)

    def condition_means(self) -> dict[str, np.ndarray]:
        """Return the mean expression of every perturbed condition, sorted by name."""
        found = sorted(set(self.conditions.tolist()) - {CONTROL})
        return {name: self.mean(np.flatnonzero(self.conditions == name)) for name in found}

    def subset(self, rows: np.ndarray, columns: np.ndarray) -> PerturbedCells:
        """Return some cells and genes, in their order here."""
        return PerturbedCells(
            names=self.names[rows],
            conditions=self.conditions[rows],
            splits=self.splits[rows],
            genes=self.genes[columns],
            values=self.values[rows][:, columns],
        )

    def as_asked(self, data: AnnData, profiles: np.ndarray) -> np.ndarray:
        """Return profiles with the genes in the order of `data`."""
        return profiles[:, np.searchsorted(self.genes, data.var_names.to_numpy().astype(str))]


def perturbed_cells(data: AnnData, *splits: str) -> PerturbedCells:
    """Return the cells of some splits.

    Raises
    ------
    DataError
        If `obs["condition"]` is missing or incomplete, or there is no control or no perturbed cell.
    """
    if "condition" not in data.obs:
        msg = f"obs['condition'] is missing (obs has {list(data.obs)})"
        raise DataError(msg)
    cells = cells_of(data, *splits)
    labels = data.obs["condition"].iloc[cells]
    if labels.isna().any():
        names = list(data.obs_names[cells[labels.isna().to_numpy()]][:SHOWN])
        msg = f"{labels.isna().sum()} of {len(cells)} cells have no condition, e.g. {names}"
        raise DataError(msg)
    conditions = labels.to_numpy().astype(str)
    for what, found in (("control", conditions == CONTROL), ("perturbed", conditions != CONTROL)):
        if not found.any():
            msg = f"no {what} cell among the {len(cells)} cells of split {' or '.join(splits)}"
            raise DataError(msg)
    genes = np.sort(data.var_names.to_numpy().astype(str))
    return PerturbedCells(
        names=data.obs_names.to_numpy().astype(str)[cells],
        conditions=conditions,
        splits=data.obs["split"].iloc[cells].to_numpy().astype(str),
        genes=genes,
        values=lognorm_matrix(data, cells, genes),
    )


def box_statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the box plot of every gene over cells.

    Parameters
    ----------
    values
        Shape (n_cells, n_genes).

    Returns
    -------
    `low`, `q1`, `median`, `q3`, `high`, each of shape (n_genes,).
    """
    return dict(zip(BOX, five_numbers(values), strict=True))


def count_note(affected: Sequence[str], n: int, what: str, *, kind: str = "queried") -> list[str]:
    """Return one sentence about some of `n` conditions, or nothing if there are none."""
    if not affected:
        return []
    return [f"{len(affected)} of {n} {kind} conditions {what}: {shown(affected)}"]
