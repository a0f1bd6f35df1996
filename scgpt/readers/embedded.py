"""Data sets that ship inside a dependency: nothing to download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scgpt.data import contracts
from scgpt.data.preprocess import check_lognorm
from scgpt.data.splits import hold_out
from scgpt.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

PBMC68K_FILE = "datasets/10x_pbmc68k_reduced.h5ad"
PBMC68K_SHAPE = (700, 765)
# Cells per label, to notice another version of the file.
PBMC68K_LABELS = {
    "Dendritic": 240,
    "CD14+ Monocyte": 129,
    "CD19+ B": 95,
    "CD4+/CD25 T Reg": 68,
    "CD8+ Cytotoxic T": 54,
    "CD8+/CD45RA+ Naive Cytotoxic": 43,
    "CD56+ NK": 31,
    "CD4+/CD45RO+ Memory": 19,
    "CD34+": 13,
    "CD4+/CD45RA+/CD25- Naive T": 8,
}


def read_pbmc68k(*, query_fraction: float = 0.3, seed: int = 0) -> AnnData:
    """Read the 700 blood cells that ship with scanpy, divided into reference and query.

    The values are log(1 + counts per 10,000) of 765 genes, rounded to three decimals; the totals
    behind them counted all genes, so the rows of these 765 sum to about 2,000, not 10,000. There
    is one batch: the query is a random part of the same sample, stratified by cell type.

    Parameters
    ----------
    query_fraction
        Share of the cells, of each type, that become the query.
    seed
        Of the division.

    Returns
    -------
    Data set by contract C1 with value kind `lognorm`.

    Raises
    ------
    DataError
        If scanpy is missing, or its file is not the one known here.

    References
    ----------
    Zheng et al., Nat Commun 2017, doi:10.1038/ncomms14049.
    """
    import anndata

    values, genes, cells, labels = _read_raw(_scanpy_file(PBMC68K_FILE))
    found = labels.value_counts().to_dict()
    if values.shape != PBMC68K_SHAPE or found != PBMC68K_LABELS:
        msg = (
            f"scanpy's pbmc68k_reduced has shape {values.shape} and labels {found}, expected "
            f"{PBMC68K_SHAPE} and {PBMC68K_LABELS}; this scanpy ships another version of it"
        )
        raise DataError(msg)
    check_lognorm(values, cell_names=cells, gene_names=genes)
    is_query = hold_out(cells, query_fraction, labels=labels, seed=seed)
    columns = pd.DataFrame(
        {
            "batch": "pbmc68k",
            "cell_type": labels.to_numpy(),
            "subset": np.where(is_query, "query", "reference"),
        },
        index=cells,
        dtype="category",
    )
    # The file carries no Ensembl ids, so the symbol identifies the gene.
    var = pd.DataFrame({"gene_id": genes, "feature_type": "gene"}, index=pd.Index(genes))
    var["feature_type"] = var["feature_type"].astype("category")
    data = anndata.AnnData(values, obs=columns, var=var)
    data.uns = {"value_kind": "lognorm"}
    return contracts.stamp(data, contracts.DATASET, dataset="pbmc68k", value_kind="lognorm")


def _read_raw(path: Path) -> tuple[csr_matrix, list[str], pd.Index, pd.Series]:
    """Read the unscaled values (`adata.raw`), genes, cells and labels of scanpy's file.

    Read with h5py: the file has an ancient layout that anndata reads with dozens of warnings.
    """
    import h5py

    with h5py.File(path) as file:
        try:
            raw, obs = file["raw.X"], file["obs"][:]
            values = csr_matrix(
                (raw["data"][:].astype(np.float32), raw["indices"][:], raw["indptr"][:]),
                shape=tuple(raw.attrs["h5sparse_shape"]),
            )
            genes = file["raw.var"]["index"].astype(str).tolist()
            names = file["uns/bulk_labels_categories"][:].astype(str)
        except KeyError as error:
            msg = f"{path}: not the known layout ({error}); this scanpy ships another version of it"
            raise DataError(msg) from error
    cells = pd.Index(obs["index"].astype(str))
    return values, genes, cells, pd.Series(names[obs["bulk_labels"]], index=cells)


def _scanpy_file(name: str) -> Path:
    # Found without importing scanpy, which takes seconds.
    spec = find_spec("scanpy")
    if spec is None or not spec.submodule_search_locations:
        msg = "the embedded data set ships with scanpy, which is not installed"
        raise DataError(msg)
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        msg = f"{path}: not there; this version of scanpy does not ship it"
        raise DataError(msg)
    return path
