"""Cells of the CELLxGENE Census, which is a database and not a file: retrieved by a query.

Needs the package `cellxgene-census` in an environment of its own, `envs/census.txt`: its needs and
those of the methods exclude each other.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from scgpt.errors import DataError, DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORGANISM = "Homo sapiens"
OBS_COLUMNS = (
    *("soma_joinid", "dataset_id", "donor_id", "cell_type", "tissue", "tissue_general"),
    *("disease", "assay", "suspension_type", "is_primary_data"),
)
ENVIRONMENT = ".venv-census"
PARTITION = 200_000  # cells retrieved at once, as for the pretraining corpus of the paper


def organ_filter(organ: str) -> str:
    """Return the query by which scGPT's authors chose the cells of an organ.

    It does not ask for `is_primary_data`, so that cells of several studies enter more than once.
    """
    return f"suspension_type != 'na' and disease == 'normal' and tissue_general == '{organ}'"


def retrieve(
    folder: Path, *, version: str, organ: str, primary_only: bool = False, file: str = "cells.h5ad"
) -> None:
    """Write the cells of an organ as one h5ad, retrieved partition by partition.

    A partition that is there is kept, so that a broken retrieval goes on where it stopped.

    Parameters
    ----------
    folder
        Where to write.
    version
        Release of the Census; those with long-term support stay available.
    organ
        Value of `tissue_general`.
    primary_only
        Leave out the copies of cells that stand in several studies.
    file
        Name of the file.

    Raises
    ------
    DataError
        If the package is missing, the network must not be used, or no cell is found.
    DownloadError
        If the database cannot be reached or breaks off.
    """
    if os.environ.get("SCGPT_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        msg = f"the Census must be asked for '{organ}', but SCGPT_OFFLINE is set; {_advice(folder)}"
        raise DataError(msg)
    client = _client(folder)
    where = organ_filter(organ) + (" and is_primary_data == True" if primary_only else "")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        parts = list(_partitions(client, folder, version, where))
    except OSError as error:
        reason = " ".join(str(error).split())[:300]
        msg = (
            f"the Census {version} could not be read ({type(error).__name__}: {reason}); run this "
            "again, what has arrived is kept"
        )
        raise DownloadError(msg) from error
    if not parts:
        msg = f"the Census {version} has no cell with {where}"
        raise DataError(msg)
    _join(parts, folder / file)
    for part in parts:
        part.unlink()


def _client(folder: Path) -> Any:
    try:
        import cellxgene_census
    except ImportError as error:
        python = f"{ENVIRONMENT}/bin/python"
        msg = (
            "the CELLxGENE Census is read through the package 'cellxgene-census', which needs an "
            f"environment of its own: python3.11 -m venv {ENVIRONMENT} && {python} -m pip install "
            f"-r envs/census.txt && {python} -m scgpt data fetch {folder.name}; {_advice(folder)}"
        )
        raise DataError(msg) from error
    return cellxgene_census


def _advice(folder: Path) -> str:
    return f"or retrieve the cells elsewhere and put the file into {folder}"


def _partitions(client: Any, folder: Path, version: str, where: str) -> Iterator[Path]:
    """Retrieve the cells in the order of their identifiers, so that partitions do not change."""
    import numpy as np

    with client.open_soma(census_version=version) as census:
        human = census["census_data"]["homo_sapiens"]
        table = human.obs.read(value_filter=where, column_names=["soma_joinid"]).concat()
        ids = np.sort(table["soma_joinid"].to_numpy())
        for number, start in enumerate(range(0, len(ids), PARTITION)):
            path = folder / f".partition-{version}-{number:05d}.h5ad"
            if not path.is_file():
                end = min(start + PARTITION, len(ids))
                print(f"{folder.name}: cells {start} to {end} of {len(ids)}", file=sys.stderr)
                adata = client.get_anndata(
                    census,
                    ORGANISM,
                    obs_coords=ids[start:end].tolist(),
                    obs_column_names=list(OBS_COLUMNS),
                )
                adata.obs_names = adata.obs["soma_joinid"].astype(str).to_numpy()
                adata.var_names = adata.var["feature_id"].astype(str).to_numpy()
                part = path.with_name(f"{path.name}.part")
                adata.write_h5ad(part, compression="gzip", compression_opts=1)
                part.replace(path)
            yield path


def _join(parts: list[Path], target: Path) -> None:
    from anndata.experimental import concat_on_disk

    part = target.with_name(f".joined-{target.name}")  # the suffix tells anndata the format
    concat_on_disk([str(path) for path in parts], str(part), join="outer", merge="first")
    part.replace(target)
