"""Twins of the Perturb-seq sets in the files of GEARS: known effects of every perturbation.

A perturbed gene changes itself, the targets it regulates, the other members of its programme, and
a common response that all perturbations share in different strength. Two perturbations add up,
except for some pairs that buffer each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.tokens.keys import name_keys
from scgpt.twins import world
from scgpt.twins.count_model import CountModel, Term, library_sizes, one_hot, sparse_effects
from scgpt.twins.gears_files import write_gears, write_scperturb
from scgpt.twins.gene_symbols import gene_symbols

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scipy.sparse import csr_matrix

CONTROL = "ctrl"
SCPERTURB_FILES = {
    "norman": "NormanWeissman2019_filtered.h5ad",
    "replogle K562": "ReplogleWeissman2022_K562_essential.h5ad",
}
# Genes of the published screens, programmes and regulators first.
SCREENED = (
    "BHLHE40 DDIT3 CREB1 SPI1 EP300 SNAI1 HSPA5 ATF4 ATF6 XBP1 ERN1 EIF2AK3 SEL1L CALR HERPUD1 "
    "HMGCR HMGCS1 SQLE LSS IDI1 FDFT1 INSIG1 COX4I1 UQCRB NDUFS5 SDHB MCM2 MCM5 CDK1 PLK1 AURKA "
    "RPL3 RPS6 EEF2 RPLP0 STAT1 IRF7 SEC61A1 OST4 CAD CHERP COPB1 COPZ1 DARS DERL2 EIF2B4 GBF1 "
    "HARS IARS2 KARS MANF MRPL39 P4HB PSMD12 QARS SAMM50 SARS SEC63 SLC35B1 SPCS2 SRP68 TIMM44 "
    "TMED2 TTI1 UFL1 XRN1 YIPF5"
)
ACTIVATED = (
    "KLF1 CEBPA CEBPB CEBPE MAP2K3 MAP2K6 ETS2 BAK1 CDKN1A CDKN1B CDKN1C DUSP9 EGR1 FOXA1 FOXA3 "
    "GATA1 IRF1 SPI1 JUN LHX1 MAPK1 PTPN1 SNAI1 TP73 UBASH3B ZBTB10 ZBTB25 IKZF3 OSR2 SGK1"
)


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What a screen looks like.

    Attributes
    ----------
    genes
        Perturbed genes.
    pairs
        Pairs perturbed together.
    sign
        -1 if perturbing silences (CRISPRi), 1 if it activates (CRISPRa).
    cell_type
        Label of all cells, as the published file has it.
    """

    genes: Sequence[str]
    pairs: Sequence[tuple[str, str]] = ()
    sign: int = -1
    cell_type: str = "K562"

    @property
    def conditions(self) -> list[str]:
        """Conditions as GEARS writes them: single ones with `ctrl` in either place."""
        singles = [
            f"{gene}+{CONTROL}" if i % 3 else f"{CONTROL}+{gene}"
            for i, gene in enumerate(self.genes)
        ]
        return singles + [f"{a}+{b}" for a, b in self.pairs]


def adamson(
    folder: Path,
    *,
    seed: int,
    n_genes: int = 500,
    n_perturbed: int = 30,
    n_cells: int = 18,
    n_control: int = 120,
) -> None:
    """Write a twin of Adamson's CRISPRi screen: single perturbations.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the world.
    n_genes
        Measured genes, the perturbed ones among them.
    n_perturbed
        Perturbed genes, at most 67.
    n_cells, n_control
        Cells per perturbation, and unperturbed ones.
    """
    screen = Screen(genes=SCREENED.split()[:n_perturbed])
    _write(folder, screen, seed, "adamson", n_genes, n_cells, n_control)


def norman(
    folder: Path,
    *,
    seed: int,
    n_genes: int = 500,
    n_perturbed: int = 20,
    n_pairs: int = 20,
    n_cells: int = 15,
    n_control: int = 120,
) -> None:
    """Write a twin of Norman's CRISPRa screen: single and double perturbations.

    The cell type is `A549`, as in the published file, although the cells are K562.
    """
    genes = ACTIVATED.split()[:n_perturbed]
    rng = np.random.default_rng([seed, 21])
    every = [(a, b) for i, a in enumerate(genes) for b in genes[i + 1 :]]
    chosen = rng.choice(len(every), size=min(n_pairs, len(every)), replace=False)
    pairs = [every[i] if i % 2 else every[i][::-1] for i in sorted(chosen)]
    screen = Screen(genes=genes, pairs=pairs, sign=1, cell_type="A549")
    _write(folder, screen, seed, "norman", n_genes, n_cells, n_control)


def replogle(
    folder: Path,
    *,
    seed: int,
    n_genes: int = 500,
    n_perturbed: int = 60,
    n_cells: int = 10,
    n_control: int = 120,
    cell_type: str = "K562",
) -> None:
    """Write a twin of Replogle's essential-gene screen: many perturbations, few cells each."""
    screen = Screen(genes=SCREENED.split()[:n_perturbed], cell_type=cell_type)
    _write(folder, screen, seed, f"replogle {cell_type}", n_genes, n_cells, n_control)


def _write(
    folder: Path,
    screen: Screen,
    seed: int,
    name: str,
    n_genes: int,
    n_cells: int,
    n_control: int,
) -> None:
    first = [*screen.genes, *world.REGULATORS, *world.world_genes()]
    genes = gene_symbols(n_genes, first=list(dict.fromkeys(first))[:n_genes])
    words = [seed, int(name_keys([name])[0] % 2**31)]
    effects, edges = perturbation_effects(screen, genes, seed)
    conditions = [CONTROL] * n_control + [c for c in screen.conditions for _ in range(n_cells)]
    rng = np.random.default_rng([*words, 1])
    conditions = [conditions[i] for i in rng.permutation(len(conditions))]
    counts, lanes = _sample(effects, genes, conditions, screen, words)
    write_gears(
        folder / "perturb_processed.h5ad", counts, genes, conditions, cell_type=screen.cell_type
    )
    if name in SCPERTURB_FILES:
        path = folder / SCPERTURB_FILES[name]
        write_scperturb(path, counts, genes, conditions, cell_type="K562", lanes=lanes)
    table = pd.DataFrame(effects.effects, columns=genes)
    table.insert(0, "condition", effects.names)
    world.write_truth(folder, {"effects": table, "edges": edges})


def perturbation_effects(screen: Screen, genes: list[str], seed: int) -> tuple[Term, pd.DataFrame]:
    """Return the effect of every condition on every gene, and the edges behind them.

    Returns
    -------
    A term with one row per condition (natural-log fold changes), and the table of edges.
    """
    rng = np.random.default_rng([seed, 22])
    place = {gene: i for i, gene in enumerate(genes)}
    edges = world.regulation(screen.genes, genes, seed=seed, density=0.04)
    single = screen.sign * world.effects_of(edges, genes, screen.genes)
    common = rng.normal(0, 0.4, len(genes)) * (rng.random(len(genes)) < 0.15)
    strength = rng.gamma(2, 0.4, len(screen.genes))
    single += strength[:, None] * common[None, :]
    for row, gene in enumerate(screen.genes):
        for programme in world.PROGRAMMES:
            mates = world.members(programme)
            if gene in mates:
                single[row, [place[g] for g in mates if g in place]] += 0.8 * screen.sign
        single[row, place[gene]] = 2.5 * screen.sign if screen.sign < 0 else 2.0
    rows = list(single)
    number = {gene: i for i, gene in enumerate(screen.genes)}
    for i, (a, b) in enumerate(screen.pairs):
        together = single[number[a]] + single[number[b]]
        rows.append(together * (0.6 if i % 4 == 0 else 1.0))
    return Term(names=tuple(screen.conditions), effects=np.array(rows)), edges


def _sample(
    effects: Term, genes: list[str], conditions: list[str], screen: Screen, words: list[int]
) -> tuple[csr_matrix, np.ndarray]:
    """Return the counts, and the lane of the machine that each cell was in."""
    rng = np.random.default_rng([*words, 2])
    n_genes, n_cells = len(genes), len(conditions)
    baseline = rng.normal(0, 1.0, n_genes)
    perturbed = [genes.index(gene) for gene in screen.genes]
    baseline[perturbed] = np.maximum(baseline[perturbed], 1.0)  # seen also when silenced
    model = CountModel(
        baseline=baseline,
        dispersion=rng.gamma(2, 0.1, n_genes) + 0.05,
        terms={
            "condition": effects,
            "lane": sparse_effects(rng, ["1", "2", "3"], n_genes, share=1, scale=0.1),
            "state": sparse_effects(rng, ["cycle", "stress"], n_genes, share=0.1, scale=0.4),
        },
    )
    row = {name: i for i, name in enumerate(effects.names)}
    weights = np.zeros((n_cells, len(row)))
    for cell, condition in enumerate(conditions):
        if condition != CONTROL:
            weights[cell, row[condition]] = 1
    lanes = rng.integers(0, 3, n_cells)
    states = rng.normal(size=(n_cells, 2))
    counts = model.sample(
        {"condition": weights, "lane": one_hot(lanes, 3), "state": states},
        library_sizes=library_sizes(rng, np.full(n_cells, 4.0 * n_genes), log_scale=0.3),
        batches=lanes,
        seed=[*words, 3],
    )
    return counts, lanes
