"""Write the file formats of public sources: h5ad, Matrix Market, 10x HDF5, npz, csv.gz."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, save_npz

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scipy.sparse import csr_matrix, spmatrix


def write_h5ad(
    path: Path,
    values: spmatrix | np.ndarray,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    *,
    layers: Mapping[str, spmatrix] | None = None,
) -> None:
    """Write an AnnData file; text columns of `obs` become categories.

    Parameters
    ----------
    path
        Where to write.
    values
        Cells x genes.
    obs, var
        Tables of cells and genes.
    layers
        Further matrices of the same shape.
    """
    import anndata

    obs = obs.copy()
    for name in obs:
        if not pd.api.types.is_numeric_dtype(obs[name]):
            obs[name] = obs[name].astype("category").cat.remove_unused_categories()
    values = values.astype(np.float32)
    adata = anndata.AnnData(values, obs=obs, var=var.copy(), layers=dict(layers or {}))
    adata.write_h5ad(path, compression="gzip")


def write_mtx(path: Path, values: spmatrix, *, field: str = "integer") -> None:
    """Write a Matrix Market file; `values` as it shall stand there, `field` integer or real."""
    buffer = io.BytesIO()
    values = values.astype(np.int32) if field == "integer" else values
    mmwrite(buffer, values.tocoo(), field=field, precision=4, symmetry="general")
    path.write_bytes(buffer.getvalue())


def write_lines(path: Path, rows: Sequence[Sequence[str] | str], *, separator: str = "\t") -> None:
    """Write one line per row, its fields joined by `separator`."""
    lines = [row if isinstance(row, str) else separator.join(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_csv_gz(path: Path, table: pd.DataFrame) -> None:
    """Write a gzipped csv that does not depend on the time of day."""
    text = table.to_csv()
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
        stream.write(text.encode())


def write_sparse_npz(path: Path, values: spmatrix) -> None:
    """Write scipy's npz of a sparse matrix."""
    save_npz(path, csc_matrix(values))


def write_10x_h5(
    path: Path,
    counts: csr_matrix,
    barcodes: Sequence[str],
    features: pd.DataFrame,
) -> None:
    """Write the filtered feature-barcode matrix of Cell Ranger 3 and later.

    Parameters
    ----------
    path
        Where to write.
    counts
        Cells x features.
    barcodes
        Names of the cells.
    features
        Columns `id`, `name`, `feature_type`, `genome`.
    """
    import h5py

    columns = csc_matrix(counts.T)  # features x cells, as Cell Ranger writes it
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes, dtype="S")
        matrix["data"] = columns.data.astype(np.int32)
        matrix["indices"] = columns.indices.astype(np.int64)
        matrix["indptr"] = columns.indptr.astype(np.int64)
        matrix["shape"] = np.array(columns.shape, dtype=np.int32)
        group = matrix.create_group("features")
        for name in ("id", "name", "feature_type", "genome"):
            group[name] = features[name].to_numpy().astype("S")
        group["_all_tag_keys"] = np.array(["genome"], dtype="S")
