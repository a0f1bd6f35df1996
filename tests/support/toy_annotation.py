"""Annotation task data (C2) with a known answer, small enough for tests."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

TYPES = np.array(["B", "Mono", "NK", "T"])
SHARES = (0.15, 0.2, 0.15, 0.5)
MARKERS_PER_TYPE = 5


def task_data(n_cells=160, n_genes=30, *, depth=1.0, background=1.0, marker=6.0, seed=0):
    """Return task data in which every type has marker genes, and the hidden labels.

    `depth` multiplies the mean counts `background` and `marker`; more depth is less noise.
    """
    rng = np.random.default_rng(seed)
    labels = rng.choice(TYPES, n_cells, p=SHARES)
    means = np.full((4, n_genes), background)
    for code in range(4):
        means[code, code * MARKERS_PER_TYPE : (code + 1) * MARKERS_PER_TYPE] = marker
    counts = rng.poisson(means[np.searchsorted(TYPES, labels)] * depth)
    lognorm = sparse.csr_matrix(np.log1p(counts).astype(np.float32))
    cells = [f"cell{i:04d}" for i in rng.permutation(n_cells)]
    split = np.repeat(["train", "valid", "test"], [n_cells // 2, n_cells // 8, n_cells * 3 // 8])
    obs = pd.DataFrame({"cell_type": labels, "split": rng.permutation(split)}, index=cells)
    truth = ad.AnnData(obs=obs.loc[obs["split"] == "test", ["cell_type"]].astype("category"))
    obs["cell_type"] = obs["cell_type"].mask(obs["split"] == "test")
    var = pd.DataFrame({"highly_variable": True}, index=[f"G{i}" for i in range(n_genes)])
    data = ad.AnnData(lognorm.copy(), obs=obs.astype("category"), var=var)
    data.layers["lognorm"] = lognorm
    centred = lognorm.toarray() - lognorm.toarray().mean(axis=0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:8]
    data.obsm["X_pca"] = (centred @ components.T).astype(np.float32)
    return data, truth


def accuracy(prediction, truth):
    """Return the share of test cells with the right type, matched by name."""
    answers = prediction.obs["cell_type_pred"].astype(str)
    return (answers == truth.obs["cell_type"].astype(str).loc[answers.index]).mean()
