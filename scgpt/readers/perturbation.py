"""Perturb-seq sets as GEARS distributes them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd

from scgpt.data.conditions import N_CHANGED
from scgpt.data.io import open_h5ad
from scgpt.data.perturbation_splits import simulation_split
from scgpt.readers.c1 import (
    CONTROL,
    column_of,
    condition_name,
    data_set,
    names_of,
    spellings,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

SHOWN = 5


def read_gears(
    files: Path,
    *,
    file: str = "perturb_processed.h5ad",
    cell_type: str | None = None,
    split_seed: int = 1,
) -> AnnData:
    """Read a processed Perturb-seq file of GEARS.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    file
        Name of the file in it.
    cell_type
        The cell line, where the file has it wrong.
    split_seed
        Of the `simulation` split; 1 is the published one.

    Returns
    -------
    Log-normalised values; `obs["condition"]` is `control` or the perturbed genes, sorted and
    joined by `+`, and `uns["written_conditions"]` has their spelling in the file.
    `uns["division"]` is the `simulation` split of all spellings. `uns["changed_genes"]` holds the
    20 genes that GEARS ranks first for every condition, if the file has its ranking.

    Raises
    ------
    DataError
        If the file lacks what GEARS writes.

    References
    ----------
    Roohani et al., Nat Biotechnol 2024, doi:10.1038/s41587-023-01905-6.
    """
    path = files / file
    source = open_h5ad(path)
    written = column_of(source.obs, "condition", where=str(path))
    obs = pd.DataFrame({"condition": [condition_name(name) for name in written]})
    obs.index = source.obs_names
    known = column_of(source.obs, ["cell_type", "celltype"], where=str(path), optional=True)
    if known is not None or cell_type is not None:
        obs["cell_type"] = cell_type or known.to_numpy()
    symbols = names_of(source.var, ["gene_name", "index"])
    adata = data_set(
        source.X,
        obs,
        symbols,
        gene_ids=source.var_names,
        value_kind="lognorm",
        warnings=_unmeasured(obs["condition"], symbols),
    )
    adata.uns["written_conditions"] = spellings(written)
    adata.uns["division"] = _division(written, split_seed)
    ranking = source.uns.get("rank_genes_groups_cov_all")
    if ranking is not None:
        adata.uns["changed_genes"] = _changed_genes(adata, source, ranking)
    return adata


def read_scperturb(files: Path, *, file: str, cell_type: str | None = None) -> AnnData:
    """Read a data set in the columns of scPerturb: counts of all genes.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    file
        Name of the file in it.
    cell_type
        The cell line, where the file does not name it.

    Returns
    -------
    Counts; `condition` as in `read_gears`. Cells without a perturbation label are left out.

    Raises
    ------
    DataError
        If a column is missing.

    References
    ----------
    Peidli et al., Nat Methods 2024, doi:10.1038/s41592-023-02144-y.
    """
    path = files / file
    source = open_h5ad(path)
    written = column_of(source.obs, "perturbation", where=str(path))
    known = written.notna().to_numpy()
    # Genes that are perturbed together are joined by an underscore here.
    names = [condition_name(str(name).replace("_", "+")) for name in written[known]]
    obs = pd.DataFrame({"condition": names}, index=source.obs_names[known])
    batch = column_of(source.obs, ["gem_group", "batch"], where=str(path), optional=True)
    if batch is not None:
        obs["batch"] = batch[known].astype(str).to_numpy()
    line = column_of(source.obs, ["cell_line", "celltype"], where=str(path), optional=True)
    if cell_type is not None or line is not None:
        obs["cell_type"] = cell_type or line[known].astype(str).to_numpy()
    symbols = names_of(source.var, ["gene_name", "gene_symbol", "index"])
    notes = _unmeasured(obs["condition"], symbols)
    notes += [f"{(~known).sum()} cells without a label left out"] * (not known.all())
    return data_set(
        source.X[known],
        obs,
        symbols,
        gene_ids=names_of(source.var, ["ensembl_id", "ensemble_id", "gene_id", "index"]),
        value_kind="counts",
        warnings=notes,
    )


def perturbed_genes(conditions: pd.Series) -> list[str]:
    """Return every gene that is perturbed in some condition, sorted."""
    names = set(conditions.astype(str)) - {CONTROL}
    return sorted({gene for name in names for gene in name.split("+")})


def _division(written: pd.Series, seed: int) -> pd.DataFrame:
    """Return the part of every condition as the file writes it; some have two spellings."""
    names = sorted(n for n in written.astype(str).unique() if condition_name(n) != CONTROL)
    if not names:
        return pd.DataFrame({"unit": [], "subset": [], "subgroup": []}, dtype=str)
    found = simulation_split(names, seed=seed)
    part = {name: key for key in ("train", "valid", "test") for name in getattr(found, key)}
    rows = [(name, part[name], found.subgroup.get(name, "")) for name in names]
    return pd.DataFrame(rows, columns=["unit", "subset", "subgroup"])


def _unmeasured(conditions: pd.Series, symbols: list[str]) -> list[str]:
    genes = perturbed_genes(conditions)
    absent = sorted(set(genes) - set(symbols))
    if not absent:
        return []
    shown = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
    return [f"{len(absent)} of {len(genes)} perturbed genes are not measured ({shown})"]


def _changed_genes(adata: AnnData, source: AnnData, ranking: dict[str, object]) -> pd.DataFrame:
    """Return the genes GEARS ranks first: one row per condition, one column per rank.

    A condition that the file writes in two ways has two lists, each of some of its cells: neither
    is that of all of them, so there is none.
    """
    symbol = dict(zip(source.var_names, adata.var_names, strict=True))
    short = source.obs["condition"].map(condition_name).astype(str)
    condition = dict(zip(source.obs["condition_name"].astype(str), short, strict=True))
    rows = {
        condition[name]: [symbol[str(gene)] for gene in list(genes)[:N_CHANGED]]
        for name, genes in ranking.items()
        if condition.get(name, CONTROL) != CONTROL
    }
    written = Counter(condition[name] for name in ranking if name in condition)
    rows = {name: genes for name, genes in rows.items() if written[name] == 1}
    columns = [str(rank + 1) for rank in range(N_CHANGED)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
