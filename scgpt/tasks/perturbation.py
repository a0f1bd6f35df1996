"""Perturbation: the mean expression of cells after perturbations that were never seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from scgpt.data import contracts
from scgpt.data.conditions import (
    BOX,
    CONTROL,
    change_ranks,
    condition_means,
    five_numbers,
    mean_expression,
)
from scgpt.data.perturbation_splits import SUBGROUPS, ConditionSplit, genes_of, simulation_split
from scgpt.errors import ConfigError, ContractError, DataError
from scgpt.files import digest_of
from scgpt.tasks.common import rows_by_name, some

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

TRUTH = contracts.PERTURBATION_TRUTH
PREDICTION = contracts.PERTURBATION_PREDICTION
PARTS = ("train", "valid", "test")
PAIRS_SEEN = "pairs_seen"


class Params(BaseModel):
    """Parameters of the preparation, the same for every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gene_fraction: float = Field(0.75, gt=0, lt=1, description="Share of perturbed genes seen.")
    pair_fraction: float = Field(0.75, ge=0, le=1, description="Share of pairs of seen genes.")
    valid_fraction: float = Field(0.1, gt=0, lt=1, description="Of genes and pairs seen.")
    test: list[str] = Field(
        default_factory=list,
        description="Conditions of the test, instead of a random choice: names, or `pairs_seen` "
        "for every pair whose genes were both perturbed alone, in screens that have such pairs.",
    )
    min_cells: int = Field(2, ge=2, description="A test condition with fewer cells is not scored.")
    other_half: float = Field(
        0.5, ge=0, le=0.5, description="Share of test cells kept for the technical duplicate."
    )
    n_pcs: int = Field(50, ge=2)
    target_sum: float = Field(1e4, gt=0, description="Counts per cell after normalisation.")


def prepare(dataset: AnnData, params: Params, *, seed: int) -> tuple[AnnData, AnnData]:
    """Divide the conditions; the cells of test conditions are removed from what methods see.

    Parameters
    ----------
    dataset
        C1 with `obs["condition"]`: `control`, `A`, or `A+B`.
    params
        See `Params`.
    seed
        Of the division; the published experiments use 1.

    Returns
    -------
    The data (C2: control, training and validation cells; `uns["queries"]` names the conditions to
    predict) and the truth (one row per query).

    Raises
    ------
    DataError
        If there are no control cells, or nothing is left to train on or to test.

    Notes
    -----
    The cells of every test condition are halved: `X` of the truth is the mean of one half and is
    what all predictions are compared with; the other half is the technical duplicate.
    """
    from scgpt.data import preprocess

    conditions = _conditions(dataset)
    sizes = conditions.value_counts()
    split = _divide(dataset, sizes, params, seed)
    scored = [name for name in split.test if sizes[name] >= params.min_cells]
    notes = _odd(split, scored, sizes, params)
    if not scored or not split.train:
        msg = (
            f"of {len(sizes) - 1} perturbations {len(split.train)} are left for training and "
            f"{len(scored)} for the test; use a larger screen or other fractions"
        )
        raise DataError(msg)
    counts = dataset.uns[contracts.KEY]["value_kind"] == "counts"
    values = (
        preprocess.lognormalise(dataset.X, target_sum=params.target_sum)
        if counts
        else dataset.X.copy()
    )
    truth = _truth(dataset, values, conditions, split, scored, params, seed)
    if notes:
        truth.uns["notes"] = notes
    return _visible(dataset, values, conditions, split, scored, params), truth


def _conditions(dataset: AnnData) -> pd.Series:
    if "condition" not in dataset.obs:
        msg = (
            f"perturbation needs obs['condition'], found {list(dataset.obs.columns)}; "
            "add the column in the reader of the data set"
        )
        raise DataError(msg)
    conditions = dataset.obs["condition"].astype(str)
    n_control = int((conditions == CONTROL).sum())
    if n_control < 2:
        msg = (
            f"perturbation needs control cells, found {n_control} with condition '{CONTROL}'; the "
            f"conditions are {some(sorted(conditions.unique()))}"
        )
        raise DataError(msg)
    return conditions


def _divide(dataset: AnnData, sizes: pd.Series, params: Params, seed: int) -> ConditionSplit:
    """Split the conditions as spelled in the source, and return them as C1 spells them."""
    names = sorted(name for name in sizes.index if name != CONTROL)
    test = params.test
    if test == [PAIRS_SEEN]:
        test = [
            name for name in names if len(genes_of(name)) > 1 and set(genes_of(name)) <= set(names)
        ]
    if test:
        return _chosen(names, set(test), params, seed)
    written = {name: name if "+" in name else f"{name}+ctrl" for name in names}
    table = dataset.uns.get("written_conditions")
    if table is not None:
        written |= {name: str(table["written"][name]) for name in names if name in table.index}
    ours = {theirs: name for name, theirs in written.items()}
    split = simulation_split(
        list(ours),
        seed=seed,
        gene_fraction=params.gene_fraction,
        pair_fraction=params.pair_fraction,
        valid_fraction=params.valid_fraction,
    )
    parts = {part: tuple(sorted(ours[n] for n in getattr(split, part))) for part in PARTS}
    return ConditionSplit(**parts, subgroup={ours[n]: g for n, g in split.subgroup.items()})


def _chosen(names: list[str], test: set[str], params: Params, seed: int) -> ConditionSplit:
    singles = {name for name in names if len(genes_of(name)) == 1}
    unknown = sorted(test - set(names))
    if unknown:
        msg = f"test conditions {some(unknown)} are not in the data, which have {some(names)}"
        raise DataError(msg)
    rest = [name for name in names if name not in test]
    seen = {gene for name in rest for gene in genes_of(name)}
    n_seen = {name: sum(gene in seen for gene in genes_of(name)) for name in test}
    subgroup = {
        name: "unseen_single" if name in singles else f"combo_seen{n_seen[name]}" for name in test
    }
    # A pair's own singles must stay: the additive model needs them.
    free = [name for name in rest if name not in {gene for pair in test for gene in genes_of(pair)}]
    n_valid = min(round(params.valid_fraction * len(rest)), len(free) - 1)
    order = np.random.default_rng(seed).permutation(len(free))
    valid = {free[i] for i in order[: max(n_valid, 0)]}
    return ConditionSplit(
        train=tuple(name for name in rest if name not in valid),
        valid=tuple(sorted(valid)),
        test=tuple(sorted(test)),
        subgroup=subgroup,
    )


def _odd(split: ConditionSplit, scored: list[str], sizes: pd.Series, params: Params) -> list[str]:
    notes = []
    small = [name for name in split.test if name not in scored]
    if small:
        shown = some([f"{name}: {sizes[name]}" for name in small])
        notes.append(
            f"{len(small)} of {len(split.test)} test conditions have fewer than {params.min_cells} "
            f"cells ({shown}) and are not scored"
        )
    single = [name for name in (*split.train, *split.valid) if sizes[name] == 1]
    if single:
        notes.append(
            f"{len(single)} conditions seen in training have one cell ({some(single)}): used as "
            "they are"
        )
    return notes


def _visible(
    dataset: AnnData,
    values: csr_matrix,
    conditions: pd.Series,
    split: ConditionSplit,
    scored: list[str],
    params: Params,
) -> AnnData:
    import pandas as pd

    from scgpt.data import preprocess

    part = {CONTROL: "train", **dict.fromkeys(split.train, "train")}
    part |= dict.fromkeys(split.valid, "valid")
    seen = conditions.isin(part).to_numpy()
    data = dataset[seen].copy()
    # Which genes change most in a test condition is part of the answer.
    data.uns = {contracts.KEY: dataset.uns[contracts.KEY], "queries": np.array(scored)}
    data.obs["split"] = pd.Categorical(conditions[seen].map(part), categories=list(PARTS))
    data.obs["condition"] = data.obs["condition"].cat.remove_unused_categories()
    data.layers["lognorm"] = values[seen]
    # All genes: the published files hold variable and perturbed genes only.
    data.var["highly_variable"] = True
    n_components = min(params.n_pcs, data.n_vars - 1, data.n_obs - 1)
    data.obsm["X_pca"] = preprocess.pca(data.layers["lognorm"], n_components=n_components)
    return data


def _truth(
    dataset: AnnData,
    values: csr_matrix,
    conditions: pd.Series,
    split: ConditionSplit,
    scored: list[str],
    params: Params,
    seed: int,
) -> AnnData:
    import anndata
    import pandas as pd

    from scgpt.data.splits import hold_out

    rows = {name: np.flatnonzero(conditions == name) for name in (*split.train, *scored)}
    control = np.flatnonzero(conditions == CONTROL)
    halves = {}
    for name in scored:
        cells = rows[name]
        other = np.zeros(len(cells), dtype=bool)
        if params.other_half:
            # Never the larger part, and never none: a condition that is scored has two cells.
            n_other = max(1, int(params.other_half * len(cells)))
            other = hold_out(dataset.obs_names[cells], n_other / len(cells), seed=seed)
        halves[name] = (cells[~other], cells[other])
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical(scored),
            "subgroup": pd.Categorical([split.subgroup[n] for n in scored], list(SUBGROUPS)),
            "n_cells": [float(len(rows[name])) for name in scored],
            "n_cells_scored": [float(len(halves[name][0])) for name in scored],
        },
        index=pd.Index(scored),
    )
    var = pd.DataFrame(index=dataset.var_names)
    var["control_mean"] = mean_expression(values[control])
    var["training_centroid"] = np.mean(
        [mean_expression(values[rows[n]]) for n in split.train], axis=0
    )
    truth = anndata.AnnData(
        condition_means(values, [halves[n][0] for n in scored]), obs=obs, var=var
    )
    if params.other_half:
        truth.layers["other_half"] = condition_means(values, [halves[n][1] for n in scored])
    truth.layers["de_rank"] = change_ranks(dataset, values, conditions, scored)
    boxes = [five_numbers(values[rows[name]].toarray()) for name in scored]
    for number, name in enumerate(BOX):
        truth.layers[f"box_{name}"] = np.array([box[number] for box in boxes], dtype=np.float32)
    return truth


def scoring_arrays(prediction: AnnData, truth: AnnData) -> dict[str, Any]:
    """Return the arrays that the metrics of this task name as their arguments.

    Conditions and genes are matched by name.

    Raises
    ------
    ContractError
        If the prediction does not cover exactly the queries and the genes.
    """
    rows = rows_by_name(prediction, truth, what="condition")
    columns = prediction.var_names.get_indexer(truth.var_names)
    if (columns < 0).any() or prediction.n_vars != truth.n_vars:
        msg = f"the prediction has {prediction.n_vars} genes, expected the {truth.n_vars} measured"
        raise ContractError(msg)
    return {
        "predicted": np.asarray(prediction.X, dtype=np.float64)[np.ix_(rows, columns)],
        "observed": np.asarray(truth.X, dtype=np.float64),
        "control": truth.var["control_mean"].to_numpy(dtype=np.float64),
        "centroid": truth.var["training_centroid"].to_numpy(dtype=np.float64),
        "de_rank": np.asarray(truth.layers["de_rank"]).astype(int),
        "conditions": truth.obs_names.to_numpy().astype(str),
        "subgroups": truth.obs["subgroup"].astype(str).to_numpy(),
        "genes": truth.var_names.to_numpy().astype(str),
        "cells_per_condition": truth.obs["n_cells_scored"].to_numpy().astype(int),
    }


def coordinates(
    data: AnnData,
    truth: AnnData,
    prediction: AnnData,
    *,
    table: str,
    max_cells: int,
    seed: int,
) -> pd.DataFrame:
    """Return the change of the 20 genes that change most, for every test condition.

    Returns
    -------
    `changes`: condition, gene, rank, kind (observed, predicted), mean and the five numbers of a box
    plot, all as difference to the control mean, and n (cells observed).
    """
    import pandas as pd

    del data, max_cells, seed
    if table != "changes":
        msg = f"perturbation offers the table 'changes' to figures, not '{table}'"
        raise ConfigError(msg)
    predicted = prediction[truth.obs_names, truth.var_names]
    ranks, control = np.asarray(truth.layers["de_rank"]), truth.var["control_mean"].to_numpy()
    rows = []
    for kind, source in (("observed", truth), ("predicted", predicted)):
        mean = np.asarray(source.X)
        boxes = {n: np.asarray(source.layers.get(f"box_{n}", mean)) for n in BOX}
        for i, condition in enumerate(truth.obs_names):
            for j in np.flatnonzero(ranks[i]):
                row = {"condition": condition, "gene": truth.var_names[j], "rank": int(ranks[i, j])}
                row |= {"kind": kind, "mean": mean[i, j] - control[j]}
                row |= {name: values[i, j] - control[j] for name, values in boxes.items()}
                rows.append(row | {"n": int(truth.obs["n_cells"].iloc[i])})
    return pd.DataFrame(rows).sort_values(["condition", "rank", "kind"], ignore_index=True)


def describe(data: AnnData, truth: AnnData) -> dict[str, Any]:
    """Return the division itself with its digest, the sizes, and in words what limits scores."""
    seen = data.obs[data.obs["condition"].astype(str) != CONTROL]
    parts = {
        part: sorted(seen.loc[seen["split"] == part, "condition"].astype(str).unique())
        for part in ("train", "valid")
    }
    parts["test"] = sorted(truth.obs_names)
    subgroups = {str(name): str(g) for name, g in truth.obs["subgroup"].items()}
    counts = {name: list(subgroups.values()).count(name) for name in SUBGROUPS}
    unmeasured = sorted(
        {g for name in truth.obs_names for g in genes_of(name)} - set(truth.var_names)
    )
    notes = [
        f"{len(parts['train'])} training, {len(parts['valid'])} validation and "
        f"{len(parts['test'])} test conditions; test: "
        + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items()),
        *map(str, truth.uns.get("notes", ())),
    ]
    if unmeasured:
        notes.append(f"perturbed genes of the test that are not measured: {some(unmeasured)}")
    return {
        "sizes": {name: len(names) for name, names in parts.items()},
        "n_control_cells": int((data.obs["condition"].astype(str) == CONTROL).sum()),
        "conditions": parts,
        "subgroups": subgroups,
        "split_sha256": digest_of(parts),
        "notes": notes,
    }
