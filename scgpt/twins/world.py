"""What all twins share: genes, programmes, who regulates whom, and what is written as truth.

The twins describe one simulated world, so that a network read from one data set can be checked
against the knowledge bases that stand beside it. Programmes carry the names of real pathways and
well-known members; who regulates whom is drawn at random. Nothing here is a measurement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.tokens.keys import name_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WORDS = 2.0**64

# Reactome name -> (its identifier, members).
PROGRAMMES: dict[str, tuple[str, str]] = {
    "MHC class II antigen presentation": (
        "R-HSA-2132295",
        "HLA-DRA HLA-DRB1 HLA-DPA1 HLA-DPB1 HLA-DQA1 HLA-DQB1 HLA-DMA HLA-DMB CD74 CTSS CTSH LAG3",
    ),
    "TCR signaling": (
        "R-HSA-202403",
        "CD3D CD3E CD3G CD247 LCK ZAP70 LAT ITK CD4 CD8A TRAC TRBC2 LCP2 GRAP2",
    ),
    "Interferon alpha/beta signaling": (
        "R-HSA-909733",
        "ISG15 IFI6 IFIT1 IFIT2 IFIT3 MX1 MX2 OAS1 OAS2 STAT1 IRF7 IFI27 XAF1 RSAD2",
    ),
    "Unfolded Protein Response (UPR)": (
        "R-HSA-381119",
        "HSPA5 DDIT3 ATF4 ATF6 XBP1 HERPUD1 DNAJB9 SDF2L1 CALR HSP90B1 PDIA4 ERN1 EIF2AK3 SEL1L",
    ),
    "Cell Cycle, Mitotic": (
        "R-HSA-69278",
        "MKI67 TOP2A CDK1 CCNB1 CCNB2 AURKA AURKB PLK1 BUB1 CDC20 CENPF TYMS PCNA MCM2 MCM5",
    ),
    "Respiratory electron transport": (
        "R-HSA-611105",
        "NDUFA1 NDUFA4 NDUFB2 NDUFS5 COX4I1 COX5A COX6C COX7C UQCRB UQCRQ SDHB SDHC CYCS ETFA",
    ),
    "Cholesterol biosynthesis": (
        "R-HSA-191273",
        "HMGCR HMGCS1 LDLR SQLE LSS DHCR7 DHCR24 IDI1 FDFT1 FDPS MVD INSIG1 CYP51A1",
    ),
    "Eukaryotic Translation Elongation": (
        "R-HSA-156842",
        "EEF1A1 EEF1B2 EEF1D EEF2 RPL3 RPL10 RPL13 RPL32 RPS3 RPS6 RPS12 RPS27A RPLP0 RPLP1",
    ),
}
# The first two are the regulators that the paper follows in Adamson's data.
REGULATORS = ("BHLHE40", "DDIT3", "CREB1", "SPI1", "ATF4", "XBP1", "STAT1", "EP300", "SNAI1")


def members(programme: str) -> list[str]:
    """Return the genes of a programme."""
    return PROGRAMMES[programme][1].split()


def world_genes() -> list[str]:
    """Return the regulators and all members of programmes, each once."""
    return list(dict.fromkeys([*REGULATORS, *(g for name in PROGRAMMES for g in members(name))]))


def ensembl_ids(symbols: Sequence[str]) -> list[str]:
    """Return identifiers that look like Ensembl's and are none: `ENSG9...` is not in use."""
    return [f"ENSG9{int(key) % 10**10:010d}" for key in name_keys(symbols, seed=1)]


def regulation(
    regulators: Sequence[str], genes: Sequence[str], *, seed: int, density: float = 0.05
) -> pd.DataFrame:
    """Return who regulates whom, the same for a pair of genes in every data set.

    Parameters
    ----------
    regulators, genes
        Candidates; a regulator does not regulate itself.
    seed
        Of the world.
    density
        Share of the genes that a regulator regulates.

    Returns
    -------
    One row per edge: `regulator`, `target`, `weight` (natural-log fold change of the target when
    the regulator doubles; a fifth of the edges are negative).
    """
    rows = []
    for regulator in regulators:
        chance = name_keys([f"{regulator}>{gene}" for gene in genes], seed=seed) / WORDS
        size = name_keys([f"{regulator}~{gene}" for gene in genes], seed=seed) / WORDS
        sign = np.where(size < 0.2, -1.0, 1.0)
        for at in np.flatnonzero(chance < density):
            if genes[at] != regulator:
                weight = sign[at] * (0.5 + abs(size[at] - 0.2))
                rows.append((regulator, genes[at], weight))
    table = pd.DataFrame(rows, columns=["regulator", "target", "weight"])
    return table.astype({"weight": float})


def effects_of(edges: pd.DataFrame, genes: Sequence[str], regulators: Sequence[str]) -> np.ndarray:
    """Return the edges as a table of effects, shape (n_regulators, n_genes)."""
    place = {gene: i for i, gene in enumerate(genes)}
    row = {name: i for i, name in enumerate(regulators)}
    effects = np.zeros((len(row), len(place)))
    for regulator, target, weight in edges.itertuples(index=False):
        if regulator in row and target in place:
            effects[row[regulator], place[target]] = weight
    return effects


def write_truth(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write what a twin knows as `truth/NAME.tsv`, beside the files that are served."""
    (folder / "truth").mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / "truth" / f"{name}.tsv", sep="\t", index=False, float_format="%.6g")
