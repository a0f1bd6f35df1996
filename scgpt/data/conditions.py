"""Cells of one condition in numbers: mean, box plot, and the genes that change most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

CONTROL = "control"
N_CHANGED = 20
BOX = ("low", "q1", "median", "q3", "high")


def mean_expression(values: csr_matrix) -> np.ndarray:
    """Return the mean over cells, in double precision, shape (n_genes,)."""
    return np.asarray(values.mean(axis=0, dtype=np.float64)).ravel()


def condition_means(values: csr_matrix, rows: list[np.ndarray]) -> np.ndarray:
    """Return the means of several sets of cells, float32, shape (n_sets, n_genes)."""
    return np.array([mean_expression(values[cells]) for cells in rows], dtype=np.float32)


def five_numbers(values: np.ndarray) -> np.ndarray:
    """Return the box plot of every column: lower whisker, quartiles, upper whisker.

    Whiskers end at the last value within 1.5 interquartile ranges of the box.

    Parameters
    ----------
    values
        Shape (n_cells, n_genes).

    Returns
    -------
    Array of shape (5, n_genes).

    References
    ----------
    Tukey 1977, Exploratory Data Analysis.
    """
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    reach = 1.5 * (q3 - q1)
    low = np.where(values >= q1 - reach, values, np.inf).min(axis=0)
    high = np.where(values <= q3 + reach, values, -np.inf).max(axis=0)
    return np.array([np.minimum(low, q1), q1, median, q3, np.maximum(high, q3)])


def change_ranks(
    dataset: AnnData, values: csr_matrix, conditions: pd.Series, scored: list[str]
) -> np.ndarray:
    """Return for every condition the rank (1 to 20) of the genes that change most, else 0.

    The ranking of the published file, or else the same test: t against control, by absolute score.
    """
    published = dataset.uns.get("changed_genes")
    known = set() if published is None else set(published.index)
    lists = {name: published.loc[name].astype(str).tolist() for name in scored if name in known}
    # Where a scale has thinned the genes, the ranking is made anew.
    measured = set(dataset.var_names)
    lists = {name: genes for name, genes in lists.items() if measured.issuperset(genes)}
    missing = [name for name in scored if name not in lists]
    if missing:
        lists |= _t_ranking(dataset, values, conditions, missing)
    ranks = np.zeros((len(scored), dataset.n_vars), dtype=np.float32)
    for row, name in enumerate(scored):
        places = dataset.var_names.get_indexer(lists[name])
        ranks[row, places] = np.arange(1, len(places) + 1)
    return ranks


def _t_ranking(
    dataset: AnnData, values: csr_matrix, conditions: pd.Series, names: list[str]
) -> dict[str, list[str]]:
    import anndata
    import pandas as pd
    import scanpy

    used = conditions.isin([CONTROL, *names]).to_numpy()
    obs = pd.DataFrame({"condition": pd.Categorical(conditions[used])})
    obs.index = dataset.obs_names[used]
    bare = anndata.AnnData(values[used], obs=obs, var=pd.DataFrame(index=dataset.var_names))
    bare.uns["log1p"] = {"base": None}
    n_genes = min(N_CHANGED, dataset.n_vars)
    scanpy.tl.rank_genes_groups(
        bare,
        "condition",
        groups=names,
        reference=CONTROL,
        method="t-test",
        rankby_abs=True,
        n_genes=n_genes,
    )
    found = bare.uns["rank_genes_groups"]["names"]
    return {name: list(found[name]) for name in names}
