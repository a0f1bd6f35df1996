"""Integration task data (C2) with known types and batch effects, small enough for tests."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt.data import contracts

TYPES = np.array(["B", "Mono", "NK", "T"])
SHARES = (0.2, 0.2, 0.2, 0.4)
KEYS = {"scale": "tiny", "task": "integration", "dataset": "toy", "split": "0"}


def task_data(
    seed=0, n_cells=240, n_genes=120, n_batches=2, *, effect=0.7, value_kind="counts", sizes=None
):
    """Return task data whose types have marker genes, and the truth (types and batches).

    `effect` is the spread of the log fold changes that every batch but the first adds to all
    genes. `sizes` gives the number of cells of every batch, instead of equal ones.
    """
    rng = np.random.default_rng(seed)
    sizes = sizes or [len(part) for part in np.array_split(np.arange(n_cells), n_batches)]
    n_cells = sum(sizes)
    batches = rng.permutation(np.repeat([f"b{i}" for i in range(len(sizes))], sizes))
    types = rng.choice(TYPES, n_cells, p=SHARES)
    types[: 2 * len(TYPES)] = np.tile(TYPES, 2)
    logs = rng.normal(0, 0.5, n_genes) + np.zeros((len(TYPES), n_genes))
    for code in range(len(TYPES)):
        logs[code, code * 10 : (code + 1) * 10] += 2.5
    shifts = rng.normal(0, effect, (len(sizes), n_genes))
    shifts[0] = 0
    batch_codes = np.unique(batches, return_inverse=True)[1]
    counts = rng.poisson(np.exp(logs[np.searchsorted(TYPES, types)] + shifts[batch_codes]))
    counts = sparse.csr_matrix(counts.astype(np.float32))
    return _assemble(counts, types, batches, rng, value_kind)


def _assemble(counts, types, batches, rng, value_kind):
    n_cells, n_genes = counts.shape
    depth = np.maximum(np.asarray(counts.sum(axis=1)), 1)
    lognorm = sparse.csr_matrix(counts.multiply(1e3 / depth).log1p(), dtype=np.float32)
    obs = pd.DataFrame(
        {
            "batch": batches,
            "split": np.where(rng.random(n_cells) < 0.1, "valid", "train"),
        },
        index=[f"cell{i:04d}" for i in rng.permutation(n_cells)],
    ).astype("category")
    names = [f"G{i:03d}" for i in rng.permutation(n_genes)]
    var = pd.DataFrame(
        {
            "gene_id": [f"ENSG{i}" for i in range(n_genes)],
            "feature_type": pd.Categorical(["gene"] * n_genes),
            "highly_variable": np.arange(n_genes) < n_genes - 20,
        },
        index=names,
    )
    matrix = counts if value_kind == "counts" else lognorm.copy()
    data = ad.AnnData(matrix, obs=obs, var=var, layers={"lognorm": lognorm})
    values = lognorm.toarray()[:, var["highly_variable"].to_numpy()]
    centred = values - values.mean(axis=0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:20]
    data.obsm["X_pca"] = (centred @ components.T).astype(np.float32)
    contracts.stamp(data, contracts.TASK_DATA, value_kind=value_kind, **KEYS)
    truth = ad.AnnData(obs=obs[["batch"]].assign(cell_type=pd.Categorical(types)))
    contracts.stamp(truth, contracts.INTEGRATION_TRUTH, **KEYS)
    contracts.check(data, contracts.TASK_DATA)
    contracts.check(truth, contracts.INTEGRATION_TRUTH)
    return data, truth
