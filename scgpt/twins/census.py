"""Twin of an organ's cells in the CELLxGENE Census: the h5ad that a query returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.twins import cell_types, world
from scgpt.twins.cells import Batch, Design, simulate
from scgpt.twins.formats import write_h5ad

if TYPE_CHECKING:
    from pathlib import Path


def census(
    folder: Path,
    *,
    seed: int,
    organ: str,
    n_cells: int = 500,
    n_genes: int = 600,
    n_datasets: int = 3,
) -> None:
    """Write cells of several data sets and donors; some stand in two data sets.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the world.
    organ
        Value of `tissue_general`.
    n_cells, n_genes, n_datasets
        Sizes.
    """
    batches = {
        f"{organ}-dataset-{i}": Batch(
            share=1 + i % 2,
            depth=1 - 0.15 * (i % 3),
            labels={"assay": "10x 3' v2" if i % 2 else "10x 3' v3", "suspension_type": "cell"},
        )
        for i in range(n_datasets)
    }
    design = Design(
        types=cell_types.CENSUS,
        batches=batches,
        programmes={"Respiratory electron transport": ["smooth muscle cell", "epithelial cell"]},
    )
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name=f"census {organ}")
    obs = cells.obs.rename(columns={"batch": "dataset_id"})
    rng = np.random.default_rng([seed, 51])
    donors = rng.integers(0, 3, n_cells).astype(str)
    obs["donor_id"] = [f"{d}-donor-{i}" for d, i in zip(obs["dataset_id"], donors, strict=True)]
    obs = obs.assign(tissue=organ, tissue_general=organ, disease="normal")
    obs["is_primary_data"] = rng.random(n_cells) > 0.05
    obs["soma_joinid"] = np.arange(1000, 1000 + n_cells)
    obs.index = pd.Index(obs["soma_joinid"].astype(str).to_numpy())
    var = pd.DataFrame(
        {
            "soma_joinid": np.arange(n_genes),
            "feature_name": cells.genes,
            "feature_id": world.ensembl_ids(cells.genes),
        },
        index=world.ensembl_ids(cells.genes),
    )
    write_h5ad(folder / "cells.h5ad", cells.counts, obs, var)
    world.write_truth(folder, cells.truth)
