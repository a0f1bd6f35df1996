"""Sets that measure genes with peaks or proteins: one data set with all features side by side.

Proteins are called `p_NAME`, since many share their name with a gene.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack, load_npz, vstack

from scgpt.data.io import open_h5ad
from scgpt.errors import DataError
from scgpt.fetch.archives import unpack
from scgpt.readers.c1 import as_csr, column_of, data_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

PROTEIN_PREFIX = "p_"
FEATURE_TYPES = {
    "GEX": "gene",
    "Gene Expression": "gene",
    "ADT": "protein",
    "Antibody Capture": "protein",
    "ATAC": "peak",
    "Peaks": "peak",
}
MAX_UNPACKED = 64 << 30
_SUFFIXES = ("_RNA", "_ATAC")


def read_open_problems(
    files: Path,
    *,
    file: str,
    donors: Sequence[str] = (),
    n_types: int | None = None,
) -> AnnData:
    """Read the bone marrow sets of the NeurIPS 2021 competition (CITE-seq or multiome).

    Parameters
    ----------
    files
        Folder of the downloaded files.
    file
        The h5ad, also compressed (`.h5ad.gz`).
    donors, n_types
        Keep these donors (`DonorID`), and the first types of the alphabet: the sub-set of scGPT's
        tutorial.

    Returns
    -------
    Counts of genes and proteins (or peaks), `batch` (site and donor), `donor`, `cell_type`.

    Raises
    ------
    DataError
        If a column or the counts are missing.

    References
    ----------
    Luecken et al., NeurIPS Datasets and Benchmarks 2021.
    """
    path = files / file
    source = _open(path)
    if "counts" not in source.layers:
        msg = f"{path}: no layer 'counts'; it has {', '.join(source.layers) or 'none'}"
        raise DataError(msg)
    where = str(path)
    obs = pd.DataFrame(
        {
            "batch": column_of(source.obs, "batch", where=where),
            "cell_type": column_of(source.obs, "cell_type", where=where),
        }
    )
    donor = column_of(source.obs, ["DonorID", "DonorNumber"], where=where, optional=True)
    if donor is not None:
        obs["donor"] = donor.astype(str)
    kept, notes = _subset(obs, donors, n_types)
    kinds = _kinds(column_of(source.var, "feature_types", where=where), where)
    identifiers = column_of(source.var, ["gene_id", "gene_ids"], where=where, optional=True)
    return data_set(
        as_csr(source.layers["counts"])[kept],
        obs[kept],
        _feature_names(source.var_names, kinds),
        gene_ids=_identifiers(identifiers, source.var_names),
        feature_types=kinds,
        value_kind="counts",
        warnings=notes,
    )


def read_multiome_pair(files: Path, *, genes: str, peaks: str) -> AnnData:
    """Read a multiome set that comes as one h5ad of genes and one of peaks of the same cells.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    genes, peaks
        Names of the two files.

    Returns
    -------
    Counts; `cell_type`; everything is one batch.

    Raises
    ------
    DataError
        If the files do not hold the same cells.

    References
    ----------
    Cao and Gao, Nat Biotechnol 2022, doi:10.1038/s41587-022-01284-4.
    """
    parts = [open_h5ad(files / name) for name in (genes, peaks)]
    for part in parts:
        part.obs_names = [_bare(name) for name in part.obs_names]
    first, second = parts
    shared = first.obs_names[first.obs_names.isin(second.obs_names)]
    if not len(shared):
        found = f"{first.obs_names[0]}, {second.obs_names[0]}"
        msg = f"{files}: {genes} and {peaks} have no cell in common (e.g. {found})"
        raise DataError(msg)
    notes = []
    if len(shared) < max(first.n_obs, second.n_obs):
        notes.append(f"{len(shared)} cells are in both files of {first.n_obs} and {second.n_obs}")
    matrices = [as_csr(p.X)[p.obs_names.get_indexer(shared)] for p in parts]
    types = column_of(first.obs, ["cell_type", "celltype"], where=genes)
    obs = pd.DataFrame({"batch": "multiome", "cell_type": types.loc[shared]}, index=shared)
    kinds = ["gene"] * first.n_vars + ["peak"] * second.n_vars
    names = [*first.var_names, *second.var_names]
    known = column_of(first.var, ["gene_ids", "gene_id"], where=genes, optional=True)
    return data_set(
        hstack(matrices, format="csr"),
        obs,
        names,
        gene_ids=[*_identifiers(known, first.var_names), *second.var_names],
        feature_types=kinds,
        value_kind="counts",
        warnings=notes,
    )


def read_10x_h5(files: Path, *, file: str) -> AnnData:
    """Read a feature-barcode matrix of Cell Ranger 3 or later (HDF5), without labels.

    Raises
    ------
    DataError
        If it is not one.
    """
    import h5py

    path = files / file
    try:
        with h5py.File(path) as content:
            matrix = content["matrix"]
            shape = tuple(int(n) for n in matrix["shape"][:])
            values = csr_matrix(  # stored column by column: features x cells as CSC
                (matrix["data"][:], matrix["indices"][:], matrix["indptr"][:]),
                shape=(shape[1], shape[0]),
            )
            barcodes = matrix["barcodes"][:].astype(str)
            features = {
                name: matrix[f"features/{name}"][:].astype(str)
                for name in ("id", "name", "feature_type")
            }
    except (OSError, KeyError, ValueError) as error:
        msg = f"{path}: not a feature-barcode matrix of Cell Ranger ({error}); fetch it again"
        raise DataError(msg) from error
    kinds = _kinds(pd.Series(features["feature_type"]), str(path))
    obs = pd.DataFrame({"batch": path.stem}, index=barcodes)
    return data_set(
        values,
        obs,
        _feature_names(features["name"], kinds),
        gene_ids=features["id"],
        feature_types=kinds,
        value_kind="counts",
    )


def read_asap_pbmc(files: Path, *, label: str = "coarse_cluster") -> AnnData:
    """Read the ASAP-seq and CITE-seq blood cells as prepared for scMoMaT: a mosaic of four batches.

    Parameters
    ----------
    files
        Folder with the matrices (features x cells), the names of features, and the tables of cells.
    label
        Column of the tables that becomes `cell_type`.

    Returns
    -------
    Counts; batches 1 and 2 have genes and proteins, 3 and 4 peaks and proteins, which
    `obs["measured"]` says. Features that were not measured are empty.

    Raises
    ------
    DataError
        If the files do not fit together.

    References
    ----------
    Mimitou et al., Nat Biotechnol 2021, doi:10.1038/s41587-021-00927-2; Zhang et al., Nat Commun
    2023, doi:10.1038/s41467-023-36066-2.
    """
    names = {
        kind: (files / f"{kind}s.txt").read_text(encoding="utf-8").split("\n")
        for kind in ("gene", "region", "protein")
    }
    names = {kind: [line.strip('" \r') for line in lines if line] for kind, lines in names.items()}
    rows, tables = [], []
    for number in (1, 2, 3, 4):
        kind, prefix = ("gene", "G") if number < 3 else ("region", "R")
        measured = _read_npz(files / f"{prefix}xC{number}.npz", len(names[kind]))
        proteins = _read_npz(files / f"PxC{number}.npz", len(names["protein"]))
        absent = csr_matrix((measured.shape[0], len(names["region" if number < 3 else "gene"])))
        order = [measured, absent] if number < 3 else [absent, measured]
        rows.append(hstack([*order, proteins], format="csr"))
        table = pd.read_csv(files / f"meta_c{number}.csv", index_col=0)
        if len(table) != measured.shape[0]:
            msg = f"{files}: batch {number} has {measured.shape[0]} cells, its table {len(table)}"
            raise DataError(msg)
        label_of = column_of(table, label, where=f"meta_c{number}.csv")
        tables.append(
            pd.DataFrame(
                {
                    "batch": f"c{number}",
                    "cell_type": label_of.to_numpy(),
                    "measured": "gene+protein" if number < 3 else "peak+protein",
                },
                index=[f"{cell}-c{number}" for cell in table.index],
            )
        )
    kinds = [
        *["gene"] * len(names["gene"]),
        *["peak"] * len(names["region"]),
        *["protein"] * len(names["protein"]),
    ]
    written = [*names["gene"], *names["region"], *names["protein"]]
    return data_set(
        vstack(rows, format="csr"),
        pd.concat(tables),
        _feature_names(written, kinds),
        gene_ids=written,
        feature_types=kinds,
        value_kind="counts",
    )


def _open(path: Path) -> AnnData:
    if path.suffix != ".gz":
        return open_h5ad(path)
    with TemporaryDirectory(prefix=".unpacked-", dir=path.parent) as scratch:
        inside = unpack(path, Path(scratch) / "file", max_bytes=MAX_UNPACKED, max_members=1)
        return open_h5ad(next(iter(inside.values())))


def _subset(
    obs: pd.DataFrame, donors: Sequence[str], n_types: int | None
) -> tuple[np.ndarray, list[str]]:
    kept = np.ones(len(obs), dtype=bool)
    notes = []
    if donors:
        if "donor" not in obs:
            msg = "a choice of donors was asked for, but the file has no column 'DonorID'"
            raise DataError(msg)
        kept &= obs["donor"].isin([str(donor) for donor in donors]).to_numpy()
    if n_types is not None:
        # The first types of the whole set, as in the tutorial, not of the chosen donors.
        first = sorted(obs["cell_type"].astype(str).unique())[:n_types]
        kept &= obs["cell_type"].astype(str).isin(first).to_numpy()
    if not kept.any():
        msg = f"no cell is left of the donors {list(donors)}; there are {sorted(set(obs['donor']))}"
        raise DataError(msg)
    return kept, notes


def _kinds(column: pd.Series, where: str) -> list[str]:
    written = column.astype(str)
    unknown = sorted(set(written) - set(FEATURE_TYPES))
    if unknown:
        msg = f"{where}: unknown types of features {unknown}; known are {sorted(FEATURE_TYPES)}"
        raise DataError(msg)
    return [FEATURE_TYPES[name] for name in written]


def _feature_names(names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    return [
        PROTEIN_PREFIX + str(name) if kind == "protein" else str(name)
        for name, kind in zip(names, kinds, strict=True)
    ]


def _identifiers(known: pd.Series | None, names: Sequence[str]) -> list[str]:
    """Return identifiers, the name where a feature has none (proteins, peaks)."""
    if known is None:
        return [str(name) for name in names]
    text = known.astype("object").where(known.notna(), "").astype(str)
    pairs = zip(text, names, strict=True)
    return [
        identifier if identifier not in ("", "nan") else str(name) for identifier, name in pairs
    ]


def _bare(name: str) -> str:
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _read_npz(path: Path, n_features: int) -> csr_matrix:
    """Read a sparse matrix of features x cells as cells x features."""
    try:
        values = as_csr(load_npz(path).T)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        msg = f"{path}: not a sparse matrix in numpy's format ({error}); fetch it again"
        raise DataError(msg) from error
    if values.shape[1] != n_features:
        msg = f"{path}: has {values.shape[1]} features, but {n_features} are named"
        raise DataError(msg)
    return values
