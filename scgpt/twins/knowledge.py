"""Twins of the knowledge bases: they know the world that the simulated data sets come from."""

from __future__ import annotations

import gzip
import json
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.twins import world
from scgpt.twins.formats import write_lines
from scgpt.twins.gene_symbols import gene_symbols
from scgpt.twins.perturbation import ACTIVATED, SCREENED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PICKLE_PROTOCOL = 3
N_EXPERIMENTS = 6
UNANNOTATED, N_PROCESSES = 10, 6


def _universe(n_genes: int) -> list[str]:
    first = [*world.world_genes(), *SCREENED.split(), *ACTIVATED.split()]
    return gene_symbols(n_genes, first=list(dict.fromkeys(first)))


def _decoys(genes: Sequence[str], n_sets: int, seed: int) -> dict[str, list[str]]:
    """Return gene sets that nothing in the simulated data follows."""
    rng = np.random.default_rng([seed, 61])
    sizes = rng.integers(5, 40, n_sets)
    names = [f"Decoy pathway {i + 1}" for i in range(n_sets)]
    return {
        name: sorted(rng.choice(genes, size=size, replace=False))
        for name, size in zip(names, sizes, strict=True)
    }


def reactome_enrichr(
    folder: Path, *, seed: int, file: str, n_genes: int = 1500, n_decoys: int = 60
) -> None:
    """Write Reactome as Enrichr's text library: the programmes, hidden among other sets.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the world.
    file
        Name of the file.
    n_genes
        Genes that the sets are drawn from.
    n_decoys
        Sets that nothing in the data follows.
    """
    decoys = _decoys(_universe(n_genes), n_decoys, seed)
    sets = {
        f"{name} {identifier}": text.split()
        for name, (identifier, text) in world.PROGRAMMES.items()
    }
    sets |= {f"{name} R-HSA-{900_000 + i}": genes for i, (name, genes) in enumerate(decoys.items())}
    write_lines(folder / file, [[name, "", *genes] for name, genes in sorted(sets.items())])


def reactome_gmt(folder: Path, *, seed: int, n_genes: int = 1500, n_decoys: int = 60) -> None:
    """Write Reactome's own GMT: name, identifier, genes."""
    decoys = _decoys(_universe(n_genes), n_decoys, seed)
    rows = [[name, ident, *text.split()] for name, (ident, text) in world.PROGRAMMES.items()]
    rows += [
        [name, f"R-HSA-{900_000 + i}", *genes] for i, (name, genes) in enumerate(decoys.items())
    ]
    write_lines(folder / "ReactomePathways.gmt", sorted(rows))


def chip_atlas(folder: Path, *, seed: int, regulators: Sequence[str], n_genes: int = 1500) -> None:
    """Write ChIP-Atlas' tables of targets: true targets with high scores, others by chance.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the world.
    regulators
        Transcription factors, one table each.
    n_genes
        Genes that can be targets.
    """
    genes = _universe(n_genes)
    for number, regulator in enumerate(regulators):
        rng = np.random.default_rng([seed, 62, number])
        edges = world.regulation([regulator], genes, seed=seed).set_index("target")["weight"]
        strength = edges.abs().reindex(genes).fillna(0.0).to_numpy()
        seen = rng.random((len(genes), N_EXPERIMENTS)) < np.where(strength > 0, 0.9, 0.15)[:, None]
        level = rng.gamma(2, 60, (len(genes), N_EXPERIMENTS)) + 900 * strength[:, None]
        scores = np.where(seen, level, 0).astype(int)
        table = pd.DataFrame(
            scores, columns=[f"SRX{100000 + i}|K562" for i in range(N_EXPERIMENTS)]
        )
        table.insert(0, f"{regulator}|Average", scores.mean(axis=1).round(6))
        table.insert(0, "Target_genes", genes)
        table["STRING"] = 0
        table = table[table[f"{regulator}|Average"] > 0]
        table = table.sort_values(f"{regulator}|Average", ascending=False, kind="stable")
        table.to_csv(folder / f"{regulator}.10.tsv", sep="\t", index=False)


def gene2go(folder: Path, *, seed: int, n_genes: int = 1500, n_decoys: int = 40) -> None:
    """Write the terms of genes as GEARS shares them: members of a programme have a term alike."""
    with (folder / "gene2go_all.pkl").open("wb") as file:
        pickle.dump(_terms(seed, n_genes, n_decoys), file, protocol=PICKLE_PROTOCOL)


def gears_lists(folder: Path, *, seed: int, n_genes: int = 1500, n_decoys: int = 40) -> None:
    """Write GEARS' list of genes that it can perturb, and its graph of genes with terms alike."""
    terms = _terms(seed, n_genes, n_decoys)
    genes = sorted({*SCREENED.split(), *ACTIVATED.split()} & set(terms))
    with (folder / "essential_all_data_pert_genes.pkl").open("wb") as file:
        pickle.dump(genes, file, protocol=PICKLE_PROTOCOL)
    rows = []
    for source in genes:
        for target in genes:
            shared = len(terms[source] & terms[target]) / len(terms[source] | terms[target])
            if shared > 0.1:
                rows.append((source, target, shared))
    table = pd.DataFrame(rows, columns=["source", "target", "importance"])
    table.to_csv(folder / "go_essential_all.csv", index=False)


def vocabulary(folder: Path, *, seed: int, name: str, n_genes: int = 1500) -> None:
    """Write a vocabulary as scGPT does: ids by alphabet, the last token first in the file."""
    del seed  # the genes of the world are the same for every seed
    ids = {gene: number for number, gene in enumerate(sorted(_universe(n_genes)))}
    text = json.dumps(dict(reversed(ids.items())), indent=2)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def gene_ontology(folder: Path, *, seed: int, n_genes: int = 1500, n_decoys: int = 40) -> None:
    """Write a Gene Association File with comments, a negated line and all three aspects."""
    lines = ["!gaf-version: 2.2", "!generated-by: a simulation"]
    for number, (gene, terms) in enumerate(_terms(seed, n_genes, n_decoys).items()):
        for i, term in enumerate(sorted(terms)):
            qualifier = "NOT|involved_in" if (number + i) % 50 == 0 else "involved_in"
            aspect = "PFC"[int(term[-1]) % 3]
            fields = ["UniProtKB", f"Q{number:05d}", gene, qualifier, term, "PMID:1", "IEA", ""]
            fields += [aspect, gene, "", "protein", "taxon:9606", "20230101", "GOC", "", ""]
            lines.append("\t".join(fields))
    text = "".join(f"{line}\n" for line in lines)
    with (
        (folder / "goa_human.gaf.gz").open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream,
    ):
        stream.write(text.encode())


def trrust(folder: Path, *, seed: int, n_genes: int = 1500) -> None:
    """Write TRRUST: the true edges of all regulators with their direction."""
    edges = world.regulation(world.REGULATORS, _universe(n_genes), seed=seed)
    direction = np.where(edges["weight"] > 0, "Activation", "Repression")
    rows = zip(edges["regulator"], edges["target"], direction, strict=True)
    lines = [[*row, "1"] for row in rows]
    write_lines(folder / "trrust_rawdata.human.tsv", lines)


def _terms(seed: int, n_genes: int, n_decoys: int) -> dict[str, set[str]]:
    genes = _universe(n_genes)
    sets = [world.members(name) for name in world.PROGRAMMES]
    sets += list(_decoys(genes, n_decoys, seed).values())
    # Most perturbed genes are annotated, as in the real graph; a few are not.
    annotated = [gene for i, gene in enumerate(ACTIVATED.split()) if i % UNANNOTATED]
    sets += [annotated[i::N_PROCESSES] for i in range(N_PROCESSES)]
    terms: dict[str, set[str]] = {}
    for number, members in enumerate(sets):
        for gene in members:
            terms.setdefault(str(gene), set()).add(f"GO:{number + 1:07d}")
    return terms
