"""Twins: small simulated data sets with the shape of the paper's sets and known truth.

A twin imitates what makes the real set easy or hard (how many cells of which type in which study,
how alike the types are, how the studies differ), never its biology. Nothing here is a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.data import contracts
from scgpt.errors import DataError
from scgpt.twins import pancreas as pancreas_design
from scgpt.twins.count_model import (
    CountModel,
    Term,
    apportion,
    library_sizes,
    one_hot,
    sparse_effects,
)
from scgpt.twins.gene_symbols import gene_symbols

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

# Random streams: genes do not change with the number of cells, cells not with each other.
GENES, CELLS, COUNTS = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class AnnotationDesign:
    """What an annotation set looks like.

    Attributes
    ----------
    studies
        Study -> (reference or query, relative counts per cell, cells per type). The cells per
        type give proportions.
    lineages
        Lineage -> its types: types of a lineage resemble each other.
    markers, lineage_markers
        Type or lineage -> its marker genes, separated by spaces.
    """

    studies: Mapping[str, tuple[str, float, Mapping[str, int]]]
    lineages: Mapping[str, Sequence[str]]
    markers: Mapping[str, str]
    lineage_markers: Mapping[str, str]

    @property
    def types(self) -> list[str]:
        """All cell types, lineage by lineage."""
        return [name for types in self.lineages.values() for name in types]

    @property
    def marker_genes(self) -> list[str]:
        """All marker genes once."""
        texts = [*self.markers.values(), *self.lineage_markers.values()]
        return list(dict.fromkeys(gene for text in texts for gene in text.split()))


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """How hard the types are to tell apart; all effects are natural-log fold changes.

    Attributes
    ----------
    counts_per_gene
        Mean count of a gene in a cell, before the relative depth of the study.
    lineage_effect, type_effect
        Standard deviation of the effects on the genes that a lineage (15 %) or type (8 %) changes.
    marker_effect
        Mean effect of a type on its own marker genes.
    study_effect, study_type_effect
        Standard deviation of a study's effects on every gene, in all cells and in one type.
    mixing
        Mean share of a cell's type identity that comes from another type of its lineage.
    ambient
        Share of counts that comes from the study's other cells.
    """

    counts_per_gene: float = 1.5
    lineage_effect: float = 0.8
    type_effect: float = 0.7
    marker_effect: float = 2.5
    study_effect: float = 0.4
    study_type_effect: float = 0.15
    mixing: float = 0.16
    ambient: float = 0.1


def simulate_hpancreas(
    *, n_reference: int = 10_600, n_query: int = 4_218, n_genes: int = 3_000, seed: int = 0
) -> AnnData:
    """Simulate a twin of the paper's human pancreas set (sizes of the paper by default).

    Parameters
    ----------
    n_reference, n_query, n_genes
        Sizes. Rare types keep at least three cells per study that has them.
    seed
        Of everything; the genes' effects do not depend on the sizes in cells.

    Returns
    -------
    See `simulate_annotation`.
    """
    design = AnnotationDesign(
        studies=pancreas_design.STUDIES,
        lineages=pancreas_design.LINEAGES,
        markers=pancreas_design.MARKERS,
        lineage_markers=pancreas_design.LINEAGE_MARKERS,
    )
    return simulate_annotation(
        design, n_reference=n_reference, n_query=n_query, n_genes=n_genes, seed=seed
    )


def simulate_annotation(
    design: AnnotationDesign,
    *,
    n_reference: int,
    n_query: int,
    n_genes: int,
    difficulty: Difficulty | None = None,
    min_cells: int = 3,
    seed: int = 0,
) -> AnnData:
    """Simulate counts of a reference and a query measured in different studies.

    Parameters
    ----------
    design
        Studies, types, lineages and markers.
    n_reference, n_query, n_genes
        Sizes.
    difficulty
        How alike the types are and how much the studies differ.
    min_cells
        Cells of each type in each study that has it, at least.
    seed
        Of everything.

    Returns
    -------
    Data set by contract C1: counts, `obs` batch (the study), cell_type, subset; the truth in
    ``uns["truth"]``: `markers` (cell_type, gene, log_fold), `batch_effects` (genes x studies, log
    fold), `library_size` (expected total of each cell) and `identity` (share of its own type).

    Raises
    ------
    DataError
        If the sizes are too small for the types and their markers.
    """
    difficulty = difficulty or Difficulty()
    genes = gene_symbols(n_genes, first=design.marker_genes)
    model = _count_model(design, genes, difficulty, seed)
    obs = _cells(design, n_reference, n_query, min_cells, seed)
    weights, identity = _weights(design, obs, difficulty, seed)
    studies = list(design.studies)
    batches = obs["batch"].cat.codes.to_numpy().astype(int)
    depth = np.array([design.studies[study][1] for study in studies])
    rng = np.random.default_rng([seed, CELLS, 2])
    totals = library_sizes(
        rng, depth[batches] * difficulty.counts_per_gene * n_genes, log_scale=0.4
    )
    counts = model.sample(weights, library_sizes=totals, batches=batches, seed=[seed, COUNTS])
    empty = np.asarray(counts.sum(axis=1)).ravel() == 0
    if empty.any():
        msg = f"{empty.sum()} simulated cells have no counts; raise n_genes or counts_per_gene"
        raise DataError(msg)
    truth = {
        "markers": _marker_table(design, genes, model.terms["type"]),
        "batch_effects": pd.DataFrame(model.terms["study"].effects.T, genes, studies),
        "library_size": totals,
        "identity": identity,
    }
    return _dataset(counts, obs, genes, truth)


def _dataset(
    counts: np.ndarray, obs: pd.DataFrame, genes: list[str], truth: dict[str, object]
) -> AnnData:
    import anndata

    # Simulated genes have no Ensembl identity of their own: the symbol identifies them.
    var = pd.DataFrame({"gene_id": genes, "feature_type": "gene"}, index=genes)
    var["feature_type"] = var["feature_type"].astype("category")
    data = anndata.AnnData(counts, obs=obs, var=var)
    data.uns = {"truth": truth, "value_kind": "counts"}
    return contracts.stamp(data, contracts.DATASET, dataset="simulated", value_kind="counts")


def _count_model(
    design: AnnotationDesign, genes: list[str], difficulty: Difficulty, seed: int
) -> CountModel:
    rng = np.random.default_rng([seed, GENES])
    n_genes, types, studies = len(genes), design.types, list(design.studies)
    baseline = rng.normal(0, 1.3, n_genes)
    lineage = sparse_effects(
        rng, list(design.lineages), n_genes, share=0.15, scale=difficulty.lineage_effect
    )
    own = sparse_effects(rng, types, n_genes, share=0.08, scale=difficulty.type_effect)
    place = {gene: i for i, gene in enumerate(genes)}
    for rows, markers in ((lineage, design.lineage_markers), (own, design.markers)):
        for name, text in markers.items():
            columns = [place[gene] for gene in text.split()]
            drawn = rng.gamma(4, difficulty.marker_effect / 4, len(columns))
            rows.effects[rows.names.index(name), columns] = drawn
    effects = own.effects.copy()
    for row, members in enumerate(design.lineages.values()):
        effects[[types.index(name) for name in members]] += lineage.effects[row]
    pairs = [f"{study}/{name}" for study in studies for name in types]
    terms = {
        "type": Term(names=tuple(types), effects=effects),
        "study": sparse_effects(rng, studies, n_genes, share=1, scale=difficulty.study_effect),
        "study_type": sparse_effects(
            rng, pairs, n_genes, share=1, scale=difficulty.study_type_effect
        ),
        # Variation within types that has nothing to do with them: stress, cycle, dissociation.
        "state": sparse_effects(rng, ["state_1", "state_2"], n_genes, share=0.1, scale=0.5),
    }
    return CountModel(
        baseline=baseline,
        dispersion=rng.gamma(2, 0.15, n_genes) + 0.05,
        terms=terms,
        ambient=difficulty.ambient,
        dropout_midpoint=0.1,
        dropout_slope=1.0,
    )


def _cells(
    design: AnnotationDesign, n_reference: int, n_query: int, min_cells: int, seed: int
) -> pd.DataFrame:
    """Lay out which study measures how many cells of which type, in random order."""
    rows = []
    for subset, total in (
        (pancreas_design.REFERENCE, n_reference),
        (pancreas_design.QUERY, n_query),
    ):
        kinds = [
            (study, name, weight)
            for study, (of, _, types) in design.studies.items()
            if of == subset
            for name, weight in types.items()
        ]
        shares = apportion([weight for *_, weight in kinds], total, minimum=min_cells)
        for (study, name, _), n in zip(kinds, shares, strict=True):
            rows += [(study, name, subset)] * int(n)
    rng = np.random.default_rng([seed, CELLS, 0])
    obs = pd.DataFrame(rows, columns=["batch", "cell_type", "subset"])
    obs = obs.iloc[rng.permutation(len(obs))].reset_index(drop=True)
    number = obs.groupby("batch").cumcount() + 1
    obs.index = obs["batch"] + "_" + number.astype(str).str.zfill(5)
    for column, order in (
        ("batch", list(design.studies)),
        ("cell_type", design.types),
        ("subset", [pancreas_design.REFERENCE, pancreas_design.QUERY]),
    ):
        obs[column] = pd.Categorical(obs[column], categories=order).remove_unused_categories()
    return obs


def _weights(
    design: AnnotationDesign, obs: pd.DataFrame, difficulty: Difficulty, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return each cell's weights on the terms of the model, and its share of its own type."""
    rng = np.random.default_rng([seed, CELLS, 1])
    types, studies, n_cells = design.types, list(design.studies), len(obs)
    own = pd.Categorical(obs["cell_type"], categories=types).codes.astype(int)
    study = pd.Categorical(obs["batch"], categories=studies).codes.astype(int)
    # Intermediate cells: up to half of the identity comes from a relative.
    other_share = rng.beta(1, 1 / (2 * difficulty.mixing) - 1, n_cells) / 2
    relatives = {
        name: [other for other in members if other != name]
        for members in design.lineages.values()
        for name in members
    }
    other = np.array([types.index(rng.choice(relatives[types[code]])) for code in own])
    by_type = one_hot(own, len(types)) * (1 - other_share[:, None])
    by_type[np.arange(n_cells), other] += other_share
    weights = {
        "type": by_type,
        "study": one_hot(study, len(studies)),
        "study_type": one_hot(study * len(types) + own, len(studies) * len(types)),
        "state": rng.normal(size=(n_cells, 2)),
    }
    return weights, 1 - other_share


def _marker_table(design: AnnotationDesign, genes: list[str], term: Term) -> pd.DataFrame:
    """List the marker genes of every type with their log fold change."""
    place = {gene: i for i, gene in enumerate(genes)}
    rows = [
        (name, gene, term.effects[term.names.index(name), place[gene]])
        for name, text in design.markers.items()
        for gene in text.split()
    ]
    return pd.DataFrame(rows, columns=["cell_type", "gene", "log_fold"])
