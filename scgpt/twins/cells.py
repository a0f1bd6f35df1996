"""Cells of known types from known batches, with programmes and regulators at work in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.tokens.keys import name_keys
from scgpt.twins import world
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

    from scipy.sparse import csr_matrix

MIN_CELLS = 2  # of each type in each batch that has it
MARKER, PROGRAMME = 2.2, 0.9  # natural-log fold changes


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch: a donor, a sample, a study.

    Attributes
    ----------
    share
        How many cells, relative to the other batches.
    depth
        Counts per cell, relative to the other batches.
    labels
        Further columns of the raw file, the same for all cells of the batch.
    lacks
        Types that it does not have.
    """

    share: float = 1.0
    depth: float = 1.0
    labels: Mapping[str, str] = field(default_factory=dict)
    lacks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a data set looks like.

    Attributes
    ----------
    types
        Type -> (lineage, relative number of cells, marker genes separated by spaces).
    batches
        Batch name -> batch.
    programmes
        Programme of `world.PROGRAMMES` -> the types in which it runs.
    regulators
        Genes whose activity varies between cells and drives their targets.
    batch_effect
        Standard deviation of a batch's effect on every gene (natural-log fold change).
    counts_per_gene
        Mean count of a gene in a cell.
    """

    types: Mapping[str, tuple[str, float, str]]
    batches: Mapping[str, Batch]
    programmes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    regulators: Sequence[str] = ()
    batch_effect: float = 0.3
    counts_per_gene: float = 1.5

    @property
    def genes(self) -> list[str]:
        """Genes that must be measured: markers, regulators, members of programmes."""
        markers = [gene for *_, text in self.types.values() for gene in text.split()]
        programmes = [gene for name in self.programmes for gene in world.members(name)]
        return list(dict.fromkeys([*markers, *self.regulators, *programmes]))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Simulated cells.

    Attributes
    ----------
    counts
        Shape (n_cells, n_genes), CSR.
    obs
        `batch`, `cell_type` and the labels of the batches, one row per cell.
    genes
        Symbols.
    truth
        `markers`, `programmes`, `edges`: what was put in.
    model, weights
        The generator and each cell's weights on its terms, for further modalities.
    """

    counts: csr_matrix
    obs: pd.DataFrame
    genes: list[str]
    truth: dict[str, pd.DataFrame]
    model: CountModel
    weights: dict[str, np.ndarray]


def simulate(design: Design, *, n_cells: int, n_genes: int, seed: int, name: str) -> Cells:
    """Simulate the counts of a data set.

    Parameters
    ----------
    design
        Types, batches, programmes, regulators.
    n_cells, n_genes
        Sizes; rare types keep two cells per batch.
    seed
        Of the world.
    name
        Of the data set: others get other random numbers from the same seed.

    Raises
    ------
    DataError
        If the sizes are too small for the design.
    """
    words = [seed, int(name_keys([name])[0] % 2**31)]
    genes = gene_symbols(n_genes, first=design.genes)
    edges = world.regulation(design.regulators, genes, seed=seed)
    model = _model(design, genes, edges, words)
    obs = _layout(design, n_cells, words)
    weights = _weights(design, obs, words)
    rng = np.random.default_rng([*words, 3])
    batches = obs["batch"].cat.codes.to_numpy().astype(int)
    depth = np.array([batch.depth for batch in design.batches.values()])
    totals = library_sizes(rng, depth[batches] * design.counts_per_gene * n_genes, log_scale=0.35)
    counts = model.sample(weights, library_sizes=totals, batches=batches, seed=[*words, 4])
    place = {gene: i for i, gene in enumerate(genes)}
    truth = {
        "markers": pd.DataFrame(
            [
                (label, gene, model.terms["type"].effects[row, place[gene]])
                for row, (label, (*_, text)) in enumerate(design.types.items())
                for gene in text.split()
            ],
            columns=["cell_type", "gene", "log_fold"],
        ),
        "programmes": pd.DataFrame(
            [(each, gene) for each in design.programmes for gene in world.members(each)],
            columns=["programme", "gene"],
        ),
        "edges": edges,
    }
    return Cells(counts=counts, obs=obs, genes=genes, truth=truth, model=model, weights=weights)


def _model(
    design: Design, genes: list[str], edges: pd.DataFrame, words: Sequence[int]
) -> CountModel:
    rng = np.random.default_rng([*words, 0])
    n_genes, place = len(genes), {gene: i for i, gene in enumerate(genes)}
    lineages = list(dict.fromkeys(lineage for lineage, *_ in design.types.values()))
    lineage = sparse_effects(rng, lineages, n_genes, share=0.15, scale=0.7)
    own = sparse_effects(rng, list(design.types), n_genes, share=0.08, scale=0.6)
    for row, (of, _, text) in enumerate(design.types.values()):
        own.effects[row] += lineage.effects[lineages.index(of)]
        columns = [place[gene] for gene in text.split()]
        own.effects[row, columns] = rng.gamma(6, MARKER / 6, len(columns))
    running = np.zeros((len(design.programmes), n_genes))
    for row, programme in enumerate(design.programmes):
        running[row, [place[gene] for gene in world.members(programme)]] = PROGRAMME
    driven = world.effects_of(edges, genes, design.regulators)
    for row, gene in enumerate(design.regulators):
        driven[row, place[gene]] = 1.0
    names = list(design.batches)
    return CountModel(
        baseline=rng.normal(0, 1.2, n_genes),
        dispersion=rng.gamma(2, 0.12, n_genes) + 0.05,
        terms={
            "type": own,
            "batch": sparse_effects(rng, names, n_genes, share=1, scale=design.batch_effect),
            "programme": Term(names=tuple(design.programmes), effects=running),
            "regulator": Term(names=tuple(design.regulators), effects=driven),
            "state": sparse_effects(rng, ["stress", "cycle"], n_genes, share=0.1, scale=0.4),
        },
        ambient=0.05,
        dropout_midpoint=0.1,
    )


def _layout(design: Design, n_cells: int, words: Sequence[int]) -> pd.DataFrame:
    """Lay out how many cells of which type each batch has, in random order."""
    kinds = [
        (batch, label, settings.share * weight)
        for batch, settings in design.batches.items()
        for label, (_, weight, _) in design.types.items()
        if label not in settings.lacks
    ]
    shares = apportion([weight for *_, weight in kinds], n_cells, minimum=MIN_CELLS)
    rows = [kind[:2] for kind, n in zip(kinds, shares, strict=True) for _ in range(int(n))]
    rng = np.random.default_rng([*words, 1])
    obs = pd.DataFrame([rows[i] for i in rng.permutation(len(rows))])
    obs.columns = ["batch", "cell_type"]
    obs["batch"] = pd.Categorical(obs["batch"], categories=list(design.batches))
    obs["cell_type"] = pd.Categorical(obs["cell_type"], categories=list(design.types))
    columns = {key: None for batch in design.batches.values() for key in batch.labels}
    for column in columns:
        values = {name: batch.labels.get(column) for name, batch in design.batches.items()}
        obs[column] = obs["batch"].astype(str).map(values).to_numpy()
    obs.index = pd.Index(barcodes(len(obs), words))
    return obs


def _weights(design: Design, obs: pd.DataFrame, words: Sequence[int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([*words, 2])
    n_cells = len(obs)
    types = obs["cell_type"].cat.codes.to_numpy().astype(int)
    running = np.array(
        [[label in types_of for label in design.types] for types_of in design.programmes.values()],
        dtype=float,
    ).reshape(len(design.programmes), len(design.types))
    level = rng.normal(0, 0.5, (len(design.regulators), len(design.types)))
    return {
        "type": one_hot(types, len(design.types)),
        "batch": one_hot(obs["batch"].cat.codes.to_numpy().astype(int), len(design.batches)),
        "programme": 1.5 * running[:, types].T
        + rng.normal(0, 0.8, (n_cells, len(design.programmes))),
        "regulator": level[:, types].T + rng.normal(0, 0.7, (n_cells, len(design.regulators))),
        "state": rng.normal(size=(n_cells, 2)),
    }


def barcodes(n_cells: int, words: Sequence[int]) -> list[str]:
    """Return different 10x-like barcodes."""
    rng = np.random.default_rng([*words, 5])
    found: dict[str, None] = {}
    while len(found) < n_cells:
        found["".join(rng.choice(list("ACGT"), 16)) + "-1"] = None
    return list(found)
