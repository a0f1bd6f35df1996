"""Public AnnData files: which of their columns mean what is said in the catalogue, not in code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import vstack

from scgpt.data.io import open_h5ad
from scgpt.errors import DataError
from scgpt.readers.c1 import ValueKind, as_csr, column_of, data_set, names_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

Names = str | list[str]


def read_h5ad_files(
    files: Path,
    *,
    parts: Mapping[str, str],
    columns: Mapping[str, Names],
    optional: Mapping[str, Names] | None = None,
    symbols: Names | None = None,
    gene_ids: Names | None = None,
    layer: str | None = None,
    value_kind: ValueKind = "counts",
    exclude: Mapping[str, Sequence[str]] | None = None,
    labelled: Sequence[str] = (),
) -> AnnData:
    """Read one or more h5ad files of the same genes as one data set.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    parts
        File name -> `reference` or `query`; empty where the file is the whole data set.
    columns
        Column of C1 (`batch`, `cell_type`, `donor` ...) -> its name in the files, or several
        names of which the first that exists counts.
    optional
        The same for columns that the files may lack.
    symbols, gene_ids
        Columns of `var`, of which the first that exists counts; `index` stands for the index, which
        is taken where none is given.
    layer
        Where the values are; `X` by default.
    value_kind
        counts or lognorm.
    exclude
        Column of C1 -> values whose cells are left out.
    labelled
        Columns of C1 in which a missing value leaves the cell out.

    Returns
    -------
    Data set by contract C1. Without a batch column, the part a cell comes from is its batch.

    Raises
    ------
    DataError
        If a file, column or layer is missing, or the files have no genes in common.
    """
    notes: list[str] = []
    read = [
        _read_part(files / name, subset, columns, optional or {}, layer)
        for name, subset in parts.items()
    ]
    genes = _common_genes([source for source, *_ in read], list(parts), notes)
    matrices, tables = [], []
    for source, values, obs in read:
        place = source.var_names.get_indexer(genes)
        matrices.append(as_csr(values)[:, place])
        tables.append(obs)
    obs = pd.concat(tables)
    kept = _kept(obs, exclude or {}, labelled, notes)
    var = read[0][0].var.loc[genes]
    return data_set(
        vstack(matrices, format="csr")[kept],
        obs[kept],
        names_of(var, symbols),
        gene_ids=names_of(var, gene_ids),
        value_kind=value_kind,
        warnings=notes,
    )


def _read_part(
    path: Path,
    subset: str,
    columns: Mapping[str, Names],
    optional: Mapping[str, Names],
    layer: str | None,
) -> tuple[AnnData, object, pd.DataFrame]:
    source = open_h5ad(path)
    if not source.var_names.is_unique:
        source.var_names_make_unique()
    obs = pd.DataFrame(index=source.obs_names)
    for name, written in columns.items():
        obs[name] = column_of(source.obs, written, where=str(path)).to_numpy()
    for name, written in optional.items():
        found = column_of(source.obs, written, where=str(path), optional=True)
        if found is not None:
            obs[name] = found.to_numpy()
    if subset:
        obs["subset"] = subset
    if "batch" not in obs:
        obs["batch"] = subset or path.stem
    if layer is None:
        return source, source.X, obs
    if layer not in source.layers:
        msg = f"{path}: no layer '{layer}'; it has {', '.join(source.layers) or 'none'}"
        raise DataError(msg)
    return source, source.layers[layer], obs


def _common_genes(sources: Sequence[AnnData], names: list[str], notes: list[str]) -> pd.Index:
    genes = sources[0].var_names
    for name, source in zip(names[1:], sources[1:], strict=True):
        if source.var_names.equals(genes):
            continue
        common = genes[genes.isin(source.var_names)]
        if not len(common):
            msg = (
                f"{names[0]} and {name} have no gene in common ({genes[0]}, {source.var_names[0]})"
            )
            raise DataError(msg)
        if len(common) < max(len(genes), source.n_vars):
            counts = f"{len(genes)} and {source.n_vars}"
            notes.append(f"{names[0]} and {name} have {counts} genes, {len(common)} in common")
        genes = common
    return genes


def _kept(
    obs: pd.DataFrame,
    exclude: Mapping[str, Sequence[str]],
    labelled: Sequence[str],
    notes: list[str],
) -> np.ndarray:
    kept = np.ones(len(obs), dtype=bool)
    for name, values in exclude.items():
        out = obs[name].astype(str).isin(list(values)).to_numpy()
        notes += [f"{int(out.sum())} cells left out: {name} is {', '.join(values)}"] * bool(
            out.any()
        )
        kept &= ~out
    for name in labelled:
        missing = obs[name].isna().to_numpy()
        notes += [f"{int(missing.sum())} cells without {name} left out"] * bool(missing.any())
        kept &= ~missing
    return kept
