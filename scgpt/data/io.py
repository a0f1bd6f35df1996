"""Read and write AnnData files through their contracts, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata

from scgpt.data import contracts
from scgpt.errors import ContractError
from scgpt.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scgpt.data.contracts import Schema


def write_h5ad(adata: AnnData, path: str | Path, schema: Schema, **keys: Any) -> None:
    """Stamp `adata` with `schema` and `keys`, check it, and write it atomically.

    Raises
    ------
    ContractError
        If the data do not have the shape of the schema; nothing is written then.
    """
    contracts.stamp(adata, schema, **keys)
    contracts.check(adata, schema, where=str(path))
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip", compression_opts=1)


def read_h5ad(path: str | Path, schema: Schema) -> AnnData:
    """Read an AnnData file and check it against `schema`.

    Raises
    ------
    ContractError
        If the file is missing, is not an h5ad, or breaks its contract.
    """
    return contracts.check(open_h5ad(path), schema, where=str(path))


def open_h5ad(path: str | Path) -> AnnData:
    """Read any AnnData file, ours or a user's.

    Raises
    ------
    ContractError
        If the file is missing, truncated, or not an h5ad.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file; run the step that makes it first"
        raise ContractError(msg)
    try:
        adata = anndata.read_h5ad(path)
    except (OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{path}: not a readable h5ad file ({reason}); make or download it again"
        raise ContractError(msg) from error
    # String columns come back as objects; names are always text here.
    adata.obs_names = adata.obs_names.astype(str)
    adata.var_names = adata.var_names.astype(str)
    return adata


def labels_only(obs: pd.DataFrame) -> AnnData:
    """Return an AnnData without a matrix that holds `obs` alone (truth, predictions)."""
    return anndata.AnnData(obs=obs, shape=(len(obs), 0))
