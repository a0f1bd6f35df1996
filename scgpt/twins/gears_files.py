"""Write a Perturb-seq set as the processed file of GEARS, and as the counts of scPerturb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.data.preprocess import lognormalise
from scgpt.twins.formats import write_h5ad
from scgpt.twins.world import ensembl_ids

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scipy.sparse import csr_matrix

N_TOP = 20


def write_gears(
    path: Path,
    counts: csr_matrix,
    genes: Sequence[str],
    conditions: Sequence[str],
    *,
    cell_type: str,
) -> None:
    """Write `perturb_processed.h5ad`.

    Parameters
    ----------
    path
        Where to write.
    counts
        Shape (n_cells, n_genes).
    genes
        Symbols.
    conditions
        Of each cell, in the form `ctrl`, `A+ctrl`, `ctrl+A` or `A+B`.
    cell_type
        Of all cells.
    """
    import anndata

    values = lognormalise(counts)
    doses = ["1" if name == "ctrl" else "1+1" for name in conditions]
    full = [f"{cell_type}_{name}_{dose}" for name, dose in zip(conditions, doses, strict=True)]
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical(conditions),
            "cell_type": pd.Categorical([cell_type] * len(full)),
            "dose_val": pd.Categorical(doses),
            "control": [int(name == "ctrl") for name in conditions],
            "condition_name": pd.Categorical(full),
        },
        index=[f"CELL{i:06d}-{1 + i % 3}" for i in range(len(full))],
    )
    identifiers = ensembl_ids(genes)
    var = pd.DataFrame({"gene_name": list(genes)}, index=identifiers)
    adata = anndata.AnnData(values, obs=obs, var=var, layers={"counts": counts})
    adata.uns = _gene_lists(values, np.asarray(full), np.asarray(conditions), identifiers)
    adata.write_h5ad(path, compression="gzip")


def write_scperturb(
    path: Path,
    counts: csr_matrix,
    genes: Sequence[str],
    conditions: Sequence[str],
    *,
    cell_type: str,
    lanes: np.ndarray,
) -> None:
    """Write counts with the columns of scPerturb; a few cells have no label.

    Parameters
    ----------
    path, counts, genes, conditions, cell_type
        As in `write_gears`.
    lanes
        Lane of the machine that each cell was in.
    """
    parts = [[gene for gene in name.split("+") if gene != "ctrl"] for name in conditions]
    names = pd.Series(["_".join(genes_of) or "control" for genes_of in parts], dtype=object)
    names[np.arange(len(names)) % 97 == 5] = None
    obs = pd.DataFrame(
        {
            "perturbation": names.astype("category").to_numpy(),
            "gem_group": lanes + 1,
            "cell_line": pd.Categorical([cell_type] * len(names)),
            "nperts": [len(genes_of) for genes_of in parts],
        },
        index=[f"CELL{i:06d}-{lane + 1}" for i, lane in enumerate(lanes)],
    )
    obs["perturbation"] = obs["perturbation"].astype("category")
    var = pd.DataFrame({"ensembl_id": ensembl_ids(genes)}, index=list(genes))
    write_h5ad(path, counts, obs, var)


def _gene_lists(
    values: csr_matrix, full: np.ndarray, conditions: np.ndarray, identifiers: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Rank the genes of every condition by the size of their standardised change."""
    control = values[conditions == "ctrl"]
    mean = np.asarray(control.mean(axis=0)).ravel()
    spread = np.sqrt(np.asarray(control.multiply(control).mean(axis=0)).ravel() - mean**2) + 0.1
    names = np.array(identifiers)
    ranked, expressed, top = {}, {}, {}
    for condition in sorted(set(full[conditions != "ctrl"])):
        here = np.asarray(values[full == condition].mean(axis=0)).ravel()
        order = np.argsort(-np.abs(here - mean) / spread, kind="stable")
        ranked[condition] = names[order]
        expressed[condition] = np.flatnonzero(here)
        top[condition] = names[order[here[order] > 0][:N_TOP]]
    return {
        "rank_genes_groups_cov_all": ranked,
        "top_non_dropout_de_20": top,
        "top_non_zero_de_20": dict(top),
        "non_dropout_gene_idx": expressed,
        "non_zeros_gene_idx": dict(expressed),
    }
