"""Twins of the multi-omic sets: peaks and proteins that follow known genes."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import hstack

from scgpt.tokens.keys import name_keys
from scgpt.twins import cell_types, world
from scgpt.twins.cells import Batch, Cells, Design, simulate
from scgpt.twins.count_model import CountModel, Term, library_sizes, sparse_effects
from scgpt.twins.formats import write_10x_h5, write_h5ad, write_lines, write_sparse_npz

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scipy.sparse import csr_matrix

# Protein -> the gene it follows; the isotype controls follow none.
PROTEINS = {
    "CD3": "CD3E",
    "CD4": "CD4",
    "CD8": "CD8A",
    "CD20": "MS4A1",
    "CD19": "CD79A",
    "CD14": "CD14",
    "CD16": "FCGR3A",
    "CD56": "GNLY",
    "CD86": "LYZ",
    "CD1c": "CD1C",
    "CD34": "CD34",
    "CD71": "TFRC",
    "CD123": "IL3RA",
    "HLA-DR": "HLA-DRA",
    "CD127": "IL7R",
    "CD36": "S100A9",
}
N_ISOTYPES = 4
REST = 5.0  # reads outside of the reported features, relative to those inside
TILE = 100_000  # bases between two simulated genes


def multiome_pbmc(
    folder: Path, *, seed: int, n_cells: int = 500, n_genes: int = 400, n_peaks: int = 600
) -> None:
    """Write a twin of the 10x multiome: the annotated pair, and the matrix of Cell Ranger.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the world.
    n_cells, n_genes, n_peaks
        Sizes.
    """
    design = Design(
        types=cell_types.MULTIOME,
        batches={"multiome": Batch()},
        programmes={"MHC class II antigen presentation": ["cDC", "Naive B", "Memory B"]},
        regulators=("SPI1",),
        batch_effect=0.0,
    )
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="multiome")
    peaks, links = _peaks(cells, n_peaks, [seed, 41], form="{0}:{1}-{2}")
    obs = cells.obs.drop(columns="batch").assign(domain="scRNA-seq", protocol="10x-Multiome")
    var = pd.DataFrame({"gene_ids": world.ensembl_ids(cells.genes)}, index=cells.genes)
    write_h5ad(folder / "10x-Multiome-Pbmc10k-RNA.h5ad", cells.counts, obs, var)
    places = pd.DataFrame(
        [name.replace("-", ":").split(":") for name in links["peak"]],
        columns=["chrom", "chromStart", "chromEnd"],
        index=links["peak"].to_list(),
    )
    order = np.random.default_rng([seed, 42]).permutation(n_cells)  # not the order of the genes
    obs = obs.assign(domain="scATAC-seq")
    path = folder / "10x-Multiome-Pbmc10k-ATAC.h5ad"
    write_h5ad(path, peaks[order], obs.iloc[order], places)
    features = pd.DataFrame(
        {
            "id": [*var["gene_ids"], *places.index],
            "name": [*cells.genes, *places.index],
            "feature_type": ["Gene Expression"] * n_genes + ["Peaks"] * n_peaks,
            "genome": "GRCh38",
        }
    )
    path = folder / "pbmc_granulocyte_sorted_10k_filtered_feature_bc_matrix.h5"
    write_10x_h5(path, hstack([cells.counts, peaks], format="csr"), list(obs.index), features)
    world.write_truth(folder, {**cells.truth, "links": links.dropna()})


def bmmc(folder: Path, *, seed: int, n_cells: int = 700, n_genes: int = 400, file: str) -> None:
    """Write a twin of the bone marrow CITE-seq set: genes and proteins in one compressed h5ad.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the world.
    n_cells, n_genes
        Sizes.
    file
        Name of the file.
    """
    donors = {"s1d1": 15078, "s1d2": 10886, "s2d1": 11466, "s3d1": 12710}
    design = Design(
        types=cell_types.MARROW,
        batches={
            name: Batch(
                share=1 + 0.2 * (i % 2),
                depth=1 - 0.1 * (i % 3),
                labels={"DonorID": str(donor), "Site": f"site{name[1]}", "Samplename": name},
            )
            for i, (name, donor) in enumerate(donors.items())
        },
        programmes={"MHC class II antigen presentation": ["cDC2", "Naive CD20+ B IGKC+"]},
    )
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="bmmc")
    proteins, links = _proteins(cells, [seed, 43])
    counts = hstack([cells.counts, proteins], format="csr")
    values = counts.copy()
    values.data = np.log1p(values.data)
    obs = cells.obs.assign(DonorID=cells.obs["DonorID"].astype(int), is_train=True)
    obs.index = [f"{cell}-{batch}" for cell, batch in zip(obs.index, obs["batch"], strict=True)]
    # A protein called like a gene stands in the file with a number, as in the real one.
    names = [*cells.genes, *(n + "-1" * (n in cells.genes) for n in links["protein"])]
    var = pd.DataFrame(
        {
            "feature_types": ["GEX"] * n_genes + ["ADT"] * len(links),
            "gene_id": [*world.ensembl_ids(cells.genes), *links["protein"]],
        },
        index=names,
    )
    plain = folder / "plain.h5ad"
    write_h5ad(plain, values, obs, var, layers={"counts": counts})
    with (folder / file).open("wb") as target, gzip.GzipFile("", "wb", 1, target, 0) as stream:
        stream.write(plain.read_bytes())
    plain.unlink()
    world.write_truth(folder, {**cells.truth, "links": links.dropna()})


def asap_pbmc(
    folder: Path, *, seed: int, n_cells: int = 640, n_genes: int = 300, n_peaks: int = 400
) -> None:
    """Write a twin of the mosaic: two batches of genes and proteins, two of peaks and proteins."""
    batches = {f"c{i}": Batch(share=1 + 0.2 * (i % 2), depth=1 - 0.05 * i) for i in (1, 2, 3, 4)}
    design = Design(types=cell_types.COARSE, batches=batches, batch_effect=0.25)
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="asap")
    peaks, peak_links = _peaks(cells, n_peaks, [seed, 44], form="{0}_{1}_{2}")
    proteins, protein_links = _proteins(cells, [seed, 45])
    write_lines(folder / "genes.txt", cells.genes)
    write_lines(folder / "regions.txt", peak_links["peak"].to_list())
    write_lines(folder / "proteins.txt", protein_links["protein"].to_list())
    for number, batch in enumerate(batches, start=1):
        rows = np.flatnonzero(cells.obs["batch"] == batch)
        if number < 3:
            write_sparse_npz(folder / f"GxC{number}.npz", cells.counts[rows].T)
        else:
            write_sparse_npz(folder / f"RxC{number}.npz", peaks[rows].T)
        write_sparse_npz(folder / f"PxC{number}.npz", proteins[rows].T)
        table = pd.DataFrame({"coarse_cluster": cells.obs["cell_type"].astype(str).iloc[rows]})
        table["cluster"] = table["coarse_cluster"] + "_1"
        table.to_csv(folder / f"meta_c{number}.csv")
    links = {"peak_links": peak_links.dropna(), "protein_links": protein_links.dropna()}
    world.write_truth(folder, {**cells.truth, **links})


def _peaks(
    cells: Cells, n_peaks: int, words: Sequence[int], *, form: str
) -> tuple[csr_matrix, pd.DataFrame]:
    """Simulate peaks, half of which open with a gene nearby; return counts and links."""
    rng = np.random.default_rng(words)
    n_genes = len(cells.genes)
    linked = rng.random(n_peaks) < 0.5
    gene = rng.integers(0, n_genes, n_peaks)
    names = []
    for i in range(n_peaks):
        # A linked peak lies near its gene; chromosome and place of a gene follow from its name.
        key = int(name_keys([cells.genes[gene[i]]], seed=2)[0])
        start = TILE * (1 + key // 22 % 1000) + 50 * (i + 1) + (0 if linked[i] else TILE // 2)
        names.append(form.format(f"chr{1 + key % 22}", start, start + 500))
    weight = np.where(linked, rng.uniform(0.6, 1.0, n_peaks), 0.0)
    counts = _follow(cells, gene, weight, words, mean=0.4)
    symbols = [
        cells.genes[g] if is_linked else None for g, is_linked in zip(gene, linked, strict=True)
    ]
    return counts, pd.DataFrame({"peak": names, "gene": symbols, "weight": weight})


def _proteins(cells: Cells, words: Sequence[int]) -> tuple[csr_matrix, pd.DataFrame]:
    """Simulate surface proteins that follow their gene, and isotype controls."""
    place = {gene: i for i, gene in enumerate(cells.genes)}
    known = {name: gene for name, gene in PROTEINS.items() if gene in place}
    names = [*known, *(f"Isotype{i + 1}" for i in range(N_ISOTYPES))]
    gene = np.array([place[known[name]] if name in known else 0 for name in names])
    weight = np.array([1.0 if name in known else 0.0 for name in names])
    counts = _follow(cells, gene, weight, words, mean=40.0)
    links = pd.DataFrame({"protein": names, "gene": [known.get(n) for n in names]})
    return counts, links.assign(weight=weight)


def _follow(
    cells: Cells, gene: np.ndarray, weight: np.ndarray, words: Sequence[int], *, mean: float
) -> csr_matrix:
    """Sample features whose log share follows that of a gene in all but the batch effect."""
    rng = np.random.default_rng([*words, 1])
    n_features, n_cells = len(gene), len(cells.obs)
    terms = {
        name: Term(names=term.names, effects=_with_rest(term.effects[:, gene] * weight[None, :]))
        for name, term in cells.model.terms.items()
        if name != "batch"
    }
    batch = cells.model.terms["batch"].names
    shift = sparse_effects(rng, batch, n_features, share=1, scale=0.2)
    terms["batch"] = Term(names=batch, effects=_with_rest(shift.effects))
    baseline = rng.normal(0, 0.7, n_features)
    rest = np.log(REST * np.exp(baseline).sum())
    model = CountModel(
        baseline=np.append(baseline, rest),
        dispersion=np.full(n_features + 1, 0.2),
        terms=terms,
    )
    total = mean * n_features * (1 + REST)
    totals = library_sizes(rng, np.full(n_cells, total), log_scale=0.3)
    codes = cells.obs["batch"].cat.codes.to_numpy().astype(int)
    seed = [*words, 2]
    drawn = model.sample(cells.weights, library_sizes=totals, batches=codes, seed=seed)
    return drawn[:, :n_features]


def _with_rest(effects: np.ndarray) -> np.ndarray:
    # What is not reported takes up changes of the rest: with few features, one that rises would
    # otherwise press all others down.
    return np.hstack([effects, np.zeros((effects.shape[0], 1))])
