"""Perturbation task data (C2) with known shared and specific effects, small enough for tests."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

SUBGROUPS = ("unseen_single", "combo_seen0", "combo_seen1", "combo_seen2")
BOX = ("low", "q1", "median", "q3", "high")


@dataclass(frozen=True)
class Effects:
    """Effects on the mean log-normalised expression: one shared, one specific per condition."""

    baseline: np.ndarray
    shared: np.ndarray
    specific: dict


def effects(genes, perturbed, *, seed=0, shared=0.4, specific=0.6):
    """Draw the effects of single perturbations; the own level falls by a fixed share."""
    rng = np.random.default_rng([seed, 1])
    n_genes = len(genes)
    baseline = rng.uniform(0.8, 2.0, n_genes)
    common = rng.normal(0, shared, n_genes) * (rng.random(n_genes) < 0.5)
    own = {}
    for gene in perturbed:
        own[gene] = rng.normal(0, specific, n_genes) * (rng.random(n_genes) < 0.3)
        if gene in genes:
            own[gene][genes.index(gene)] = -0.7 * baseline[genes.index(gene)]
    return Effects(baseline, common, own)


def mean_profile(known, condition):
    """Return the true mean of a condition: doubles add up the specific effects."""
    if condition == "control":
        return known.baseline
    specific = sum(known.specific[gene] for gene in condition.split("+"))
    return np.maximum(known.baseline + known.shared + specific, 0)


def task_data(
    seed=0,
    *,
    n_genes=40,
    n_perturbed=8,
    n_cells=8,
    n_control=40,
    noise=0.3,
    unmeasured=False,
    one_cell=False,
    shared=0.4,
    specific=0.6,
):
    """Return task data and truth.

    Perturbed genes are P0, P1, ...; the last two are never seen, and the one before them is
    perturbed in validation cells only. Queries: both unseen singles and one double of each
    subgroup. `unmeasured` adds the perturbed genes U0 (seen alone) and U1 (not seen; the queries
    U1 and P0+U0), which are not among the measured ones. `one_cell` leaves P1 a single cell.
    """
    perturbed = [f"P{i}" for i in range(n_perturbed)] + ["U0", "U1"] * unmeasured
    genes = [f"G{i:03d}" for i in range(n_genes - n_perturbed)] + perturbed[:n_perturbed]
    known = effects(genes, perturbed, seed=seed, shared=shared, specific=specific)
    unseen = [f"P{n_perturbed - 2}", f"P{n_perturbed - 1}"]
    valid = [f"P{n_perturbed - 3}"]
    seen = [gene for gene in perturbed if gene not in (*unseen, "U1")]
    queries = {
        unseen[0]: "unseen_single",
        unseen[1]: "unseen_single",
        "+".join(unseen): "combo_seen0",
        f"P0+{unseen[0]}": "combo_seen1",
        "P0+P1": "combo_seen2",
        "P1+P2": "combo_seen2",
    }
    if unmeasured:
        queries |= {"U1": "unseen_single", "P0+U0": "combo_seen2"}
    conditions = ["control"] * n_control
    for condition in [*seen, "P0+P2", "P2+P3"]:
        conditions += [condition] * (1 if one_cell and condition == "P1" else n_cells)
    rng = np.random.default_rng([seed, 2])
    conditions = [conditions[i] for i in rng.permutation(len(conditions))]
    values = sparse.csr_matrix(_cells(known, conditions, noise, rng))
    split = ["valid" if condition in valid else "train" for condition in conditions]
    obs = pd.DataFrame(
        {"condition": conditions, "split": split},
        index=[f"cell{i:04d}" for i in rng.permutation(len(conditions))],
    )
    var = pd.DataFrame({"highly_variable": True}, index=genes)
    data = ad.AnnData(values.copy(), obs=obs.astype("category"), var=var)
    data.layers["lognorm"] = values
    data.obsm["X_pca"] = np.asarray(values[:, :5].todense())
    data.uns["queries"] = np.array(list(queries), dtype=object)
    data.uns["scgpt"] = {"value_kind": "lognorm"}
    return data, _truth(known, data, queries, n_cells, noise, rng)


def _cells(known, conditions, noise, rng):
    means = np.array([mean_profile(known, condition) for condition in conditions])
    values = np.maximum(means + noise * rng.normal(size=means.shape), 0)
    return values.astype(np.float32)


def _truth(known, data, queries, n_cells, noise, rng):
    control = data.layers["lognorm"][(data.obs["condition"] == "control").to_numpy()]
    control = np.asarray(control.mean(axis=0)).ravel()
    halves = [[], []]
    boxes = []
    for query in queries:
        cells = _cells(known, [query] * 2 * n_cells, noise, rng)
        halves[0].append(cells[:n_cells].mean(axis=0))
        halves[1].append(cells[n_cells:].mean(axis=0))
        boxes.append(np.percentile(cells[:n_cells], [0, 25, 50, 75, 100], axis=0))
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical(list(queries)),
            "subgroup": pd.Categorical(list(queries.values()), categories=list(SUBGROUPS)),
            "n_cells": 2 * n_cells,
            "n_cells_scored": n_cells,
        },
        index=list(queries),
    )
    seen = data[data.obs["condition"] != "control"]
    seen = seen[seen.obs["split"] == "train"]
    centroid = seen.to_df(layer="lognorm").groupby(seen.obs["condition"].astype(str)).mean()
    var = pd.DataFrame(
        {"control_mean": control, "training_centroid": centroid.mean().to_numpy()},
        index=data.var_names,
    )
    observed = np.array(halves[0], dtype=np.float32)
    truth = ad.AnnData(observed, obs=obs, var=var)
    truth.layers["other_half"] = np.array(halves[1], dtype=np.float32)
    order = np.argsort(-np.abs(observed - control), axis=1)
    ranks = np.zeros(observed.shape, dtype=np.int32)
    np.put_along_axis(ranks, order[:, :20], np.arange(1, 21)[None], axis=1)
    truth.layers["de_rank"] = ranks
    for name, values in zip(BOX, np.moveaxis(np.array(boxes), 1, 0), strict=True):
        truth.layers[f"box_{name}"] = values.astype(np.float32)
    return truth


def scoring_arrays(prediction, truth):
    """Return what the metrics of perturbation take, matched by names."""
    prediction = prediction[truth.obs_names, truth.var_names]
    return {
        "predicted": np.asarray(prediction.X, dtype=np.float64),
        "observed": np.asarray(truth.X, dtype=np.float64),
        "control": truth.var["control_mean"].to_numpy(dtype=np.float64),
        "centroid": truth.var["training_centroid"].to_numpy(dtype=np.float64),
        "de_rank": np.asarray(truth.layers["de_rank"]),
        "conditions": truth.obs_names.to_numpy().astype(str),
        "subgroups": truth.obs["subgroup"].to_numpy().astype(str),
        "genes": truth.var_names.to_numpy().astype(str),
        "cells_per_condition": truth.obs["n_cells_scored"].to_numpy(),
    }


def write_knowledge(folder, genes):
    """Write the two tables of GEARS; every second gene shares a term with its neighbour."""
    folder.mkdir(parents=True, exist_ok=True)
    terms = ["set\tgene"]
    edges = ["regulator\ttarget\tweight"]
    for i, gene in enumerate(genes):
        terms += [f"GO:{i // 2:07d}\t{gene}", f"GO:{1000 + i:07d}\t{gene}"]
        edges += [f"{gene}\t{gene}\t1"]
        other = genes[i ^ 1] if (i ^ 1) < len(genes) else None
        edges += [f"{other}\t{gene}\t0.33"] if other else []
    paths = {"gene2go": folder / "gene2go.tsv", "gears_go_graph": folder / "gears_go_graph.tsv"}
    paths["gene2go"].write_text("\n".join([*terms, ""]))
    paths["gears_go_graph"].write_text("\n".join([*edges, "ELSE\tP0\t0.2", ""]))
    return paths
