"""Task data as arrays, always in the order of names, so that no method depends on row order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scgpt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData

SHOWN = 10


def cells_of(data: AnnData, *splits: str) -> np.ndarray:
    """Return the positions of the cells of some splits, sorted by cell name.

    Raises
    ------
    DataError
        If `obs["split"]` is missing.
    """
    if "split" not in data.obs:
        msg = f"obs['split'] is missing (obs has {list(data.obs)}); make the task data first"
        raise DataError(msg)
    positions = np.flatnonzero(data.obs["split"].isin(splits).to_numpy())
    names = data.obs_names.to_numpy().astype(str)[positions]
    return positions[np.argsort(names, kind="stable")]


def training_cells(data: AnnData) -> np.ndarray:
    """Return the positions of the training cells, sorted by name; at least one or a DataError."""
    positions = cells_of(data, "train")
    if not len(positions):
        found = sorted(map(str, data.obs["split"].unique()))
        msg = f"no cell has split 'train'; the splits found are {found}"
        raise DataError(msg)
    return positions


def query_cells(data: AnnData) -> np.ndarray:
    """Return the positions of the test cells, sorted by name; at least one or a DataError."""
    positions = cells_of(data, "test")
    if not len(positions):
        found = sorted(map(str, data.obs["split"].unique()))
        msg = f"no cell has split 'test'; the splits found are {found}"
        raise DataError(msg)
    return positions


def cell_types_of(data: AnnData, cells: np.ndarray) -> np.ndarray:
    """Return the cell types of some cells as an array of str.

    Raises
    ------
    DataError
        If the column or a label is missing.
    """
    if "cell_type" not in data.obs:
        msg = f"obs['cell_type'] is missing (obs has {list(data.obs)})"
        raise DataError(msg)
    labels = data.obs["cell_type"].iloc[cells]
    missing = labels.isna().to_numpy()
    if missing.any():
        names = list(data.obs_names[cells[missing]][:SHOWN])
        msg = (
            f"{missing.sum()} of {len(cells)} labelled cells have no cell type, e.g. {names}; "
            "give them a label or leave them out of the reference"
        )
        raise DataError(msg)
    return labels.to_numpy().astype(str)


def cells_by_name(data: AnnData) -> np.ndarray:
    """Return the positions of all cells, sorted by cell name."""
    return np.argsort(data.obs_names.to_numpy().astype(str), kind="stable")


def batches_of(data: AnnData, cells: np.ndarray) -> np.ndarray:
    """Return the batches of some cells as an array of str.

    Raises
    ------
    DataError
        If `obs["batch"]` or a value in it is missing.
    """
    if "batch" not in data.obs:
        msg = f"obs['batch'] is missing (obs has {list(data.obs)}); integration needs it"
        raise DataError(msg)
    labels = data.obs["batch"].iloc[cells]
    n_missing = int(labels.isna().sum())
    if n_missing:
        msg = f"{n_missing} of {len(cells)} cells have no batch; give them one or remove them"
        raise DataError(msg)
    return labels.to_numpy().astype(str)


def variable_genes(data: AnnData, *, only_highly_variable: bool = True) -> np.ndarray:
    """Return gene names, sorted; by default those marked as highly variable.

    Raises
    ------
    DataError
        If the mark is missing or marks nothing.
    """
    names = data.var_names.to_numpy().astype(str)
    if only_highly_variable:
        if "highly_variable" not in data.var:
            msg = f"var['highly_variable'] is missing (var has {list(data.var)})"
            raise DataError(msg)
        names = names[data.var["highly_variable"].to_numpy(dtype=bool)]
    if not len(names):
        msg = f"none of the {data.n_vars} genes is marked in var['highly_variable']"
        raise DataError(msg)
    return np.sort(names)


def lognorm_matrix(data: AnnData, cells: np.ndarray, genes: Sequence[str]) -> sp.csr_matrix:
    """Return log-normalised expression of some cells and genes.

    Parameters
    ----------
    data
        Task data with `layers["lognorm"]`.
    cells
        Positions of the rows wanted.
    genes
        Names of the columns wanted, in this order.

    Returns
    -------
    CSR float32 matrix of shape (len(cells), len(genes)) with sorted indices and no stored zeros.

    Raises
    ------
    DataError
        If the layer or a gene is missing, or a value is not finite.
    """
    if "lognorm" not in data.layers:
        msg = f"layers['lognorm'] is missing (layers: {list(data.layers)})"
        raise DataError(msg)
    columns = data.var_names.get_indexer(genes)
    if (columns < 0).any():
        absent = [str(gene) for gene, column in zip(genes, columns, strict=True) if column < 0]
        msg = (
            f"{len(absent)} of {len(columns)} genes seen in fit are not in these data, "
            f"e.g. {absent[:SHOWN]}"
        )
        raise DataError(msg)
    matrix = sp.csr_matrix(data.layers["lognorm"][cells][:, columns], dtype=np.float32)
    if not np.isfinite(matrix.data).all():
        msg = "layers['lognorm'] holds NaN or infinite values; remove or correct those cells"
        raise DataError(msg)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def uniform_by_name(seed: int, name: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the name only."""
    digest = hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest()
    # 53 bits: every value is exactly a float below 1.
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def shown(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
