"""Twins of the integration and reference-mapping sets, in the files of their authors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.data.preprocess import lognormalise
from scgpt.twins import cell_types, world
from scgpt.twins.cells import Batch, Cells, Design, simulate
from scgpt.twins.formats import write_h5ad, write_lines, write_mtx
from scgpt.twins.legacy_pickle import write_frames

if TYPE_CHECKING:
    from pathlib import Path

N_REPEATED = 4  # barcodes that both runs of PBMC 10k share
# The labels of the COVID-19 set are joined from several studies, which name some types twice.
SYNONYMS = {"NK": "NK cells", "CD8 T": "CD8+ T cells", "Tregs": "Treg"}


def pbmc10k(folder: Path, *, seed: int, n_cells: int = 600, n_genes: int = 500) -> None:
    """Write a twin of PBMC 10k: two 10x runs, gene table, and labels in an old pickle.

    As in the real files, the matrices hold cells without a label and genes outside the table, a
    few barcodes occur in both runs, and the label file lists those of the 4k run with another end.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the world.
    n_cells, n_genes
        Sizes, unlabelled cells and unlisted genes included.
    """
    design = Design(
        types=cell_types.PBMC,
        batches={"pbmc8k": Batch(share=2), "pbmc4k": Batch(share=1, depth=1.15)},
        programmes={"MHC class II antigen presentation": ["B cells", "Dendritic Cells"]},
        batch_effect=0.15,
    )
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="pbmc10k")
    identifiers = world.ensembl_ids(cells.genes)
    rows = {run: np.flatnonzero(cells.obs["batch"] == run) for run in design.batches}
    names = {run: cells.obs.index[at].to_list() for run, at in rows.items()}
    names["pbmc4k"][:N_REPEATED] = names["pbmc8k"][:N_REPEATED]
    for run, at in rows.items():
        write_mtx(folder / f"{run}_matrix.mtx", cells.counts[at].T)
        write_lines(folder / f"{run}_barcodes.tsv", names[run])
        pairs = list(zip(identifiers, cells.genes, strict=True))
        write_lines(folder / f"{run}_genes.tsv", pairs)
    listed = pd.DataFrame({"ENSG": identifiers, "GS": cells.genes, "CD_logFC": 0.0})
    listed[: int(0.9 * n_genes)].to_csv(folder / "gene_info.csv")
    _write_labels(folder / "pbmc_metadata.pickle", cells, rows, names)
    world.write_truth(folder, cells.truth)


def _write_labels(
    path: Path, cells: Cells, rows: dict[str, np.ndarray], names: dict[str, list[str]]
) -> None:
    types = sorted(cells.obs["cell_type"].cat.categories)
    parts = []
    for number, (run, at) in enumerate(rows.items()):
        part = pd.DataFrame({"barcode": names[run], "batchpbmc4k": number})
        part["code"] = [types.index(label) for label in cells.obs["cell_type"].iloc[at]]
        parts.append(part)
    parts[1].loc[: N_REPEATED - 1, "barcode"] += "1"
    table = pd.concat([part.iloc[: int(0.95 * len(part))] for part in parts], ignore_index=True)
    numbers = np.arange(1, len(table) + 1)
    design = pd.DataFrame({"(Intercept)": 1, "batchpbmc4k": table["batchpbmc4k"], "WPC1": 0.5})
    write_frames(
        path,
        {
            "design": design.set_index(numbers),
            "qc_pc": np.zeros((len(table), 7)),
            "barcodes": pd.DataFrame({"Unnamed: 0": numbers}, index=table["barcode"].to_numpy()),
            "clusters": table["code"].to_numpy(),
            "list_clusters": np.array(types, dtype=object),
        },
    )


def immune_human(folder: Path, *, seed: int, n_cells: int = 700, n_genes: int = 600) -> None:
    """Write a twin of Immune human: ten donors, 16 types, programmes and regulators at work."""
    donors = [f"Oetjen_{name}" for name in "APU"] + [f"Sun_sample{i}" for i in range(1, 5)]
    studies = {"10X": "10X", "Freytag": "Freytag", "Villani": "Villani"}
    studies |= {name: name.partition("_")[0] for name in donors}
    lymphoid = ["CD4+ T cells", "CD8+ T cells", "NKT cells"]
    design = Design(
        types=cell_types.IMMUNE,
        batches={
            name: Batch(
                share=0.6 + 0.2 * (number % 4),
                depth=1.0 - 0.08 * (number % 3),
                labels={"study": study, "tissue": "Bone_Marrow" if study == "Oetjen" else "PBMCs"},
                lacks=("Erythroid progenitors", "CD10+ B cells") if study != "Oetjen" else (),
            )
            for number, (name, study) in enumerate(studies.items())
        },
        programmes={
            "MHC class II antigen presentation": [
                "CD20+ B cells",
                "CD14+ Monocytes",
                "Monocyte-derived dendritic cells",
                "Plasmacytoid dendritic cells",
            ],
            "TCR signaling": lymphoid,
            "Interferon alpha/beta signaling": ["CD16+ Monocytes", "Plasmacytoid dendritic cells"],
            "Cell Cycle, Mitotic": ["HSPCs", "Erythroid progenitors", "Monocyte progenitors"],
        },
        regulators=("SPI1", "STAT1", "DDIT3"),
    )
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="immune_human")
    obs = cells.obs.rename(columns={"cell_type": "final_annotation"})
    obs["chemistry"] = "v2_10X"
    write_h5ad(
        folder / "Immune_ALL_human.h5ad",
        lognormalise(cells.counts),
        obs,
        pd.DataFrame(index=cells.genes),
        layers={"counts": cells.counts},
    )
    world.write_truth(folder, cells.truth)


def perirhinal_cortex(folder: Path, *, seed: int, n_cells: int = 500, n_genes: int = 500) -> None:
    """Write a twin of the perirhinal cortex: nuclei of two samples, symbols in a column."""
    design = Design(
        types=cell_types.CORTEX,
        batches={
            "10X362_3": Batch(share=1, labels={"donor_id": "H19.30.001"}),
            "10X362_4": Batch(share=1.1, depth=0.8, labels={"donor_id": "H19.30.002"}),
        },
        batch_effect=0.2,
    )
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="perirhinal")
    var = pd.DataFrame({"Gene": cells.genes}, index=world.ensembl_ids(cells.genes))
    obs = cells.obs.rename(columns={"batch": "sample_id"})
    write_h5ad(folder / "PerirhinalCortex.h5ad", cells.counts, obs, var)
    world.write_truth(folder, cells.truth)


def covid19(
    folder: Path, *, seed: int, n_cells: int = 700, n_genes: int = 500, n_batches: int = 8
) -> None:
    """Write a twin of the COVID-19 sub-sample: many batches, some types under two names.

    Written are the whole and its division into reference and query for reference mapping.
    """
    names = [f"{origin}_{i}" for i in range(n_batches // 2) for origin in ("Lung", "PBMC")]
    design = Design(
        types=cell_types.LUNG_IMMUNE,
        batches={
            name: Batch(
                share=1 + 0.3 * (number % 3),
                depth=1 - 0.1 * (number % 4),
                labels={"condition": "COVID-19" if number % 3 else "Healthy"},
                lacks=("Epithelial", "Ciliated") if name.startswith("PBMC") else (),
            )
            for number, name in enumerate(names)
        },
        programmes={"Interferon alpha/beta signaling": ["Macrophages", "Monocytes", "CD8 T"]},
        batch_effect=0.4,
    )
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="covid19")
    obs = cells.obs.rename(columns={"batch": "str_batch"})
    later = cells.obs["batch"].isin(names[n_batches // 2 :])
    label = obs.pop("cell_type").astype(str)
    obs["celltype"] = label.where(~later, label.replace(SYNONYMS))
    var = pd.DataFrame({"gene_name": cells.genes}, index=cells.genes)
    write_h5ad(folder / "covid_subsampled.h5ad", cells.counts, obs, var)
    held_out = obs["str_batch"].isin(names[-2:]).to_numpy()
    for name, rows in (("train", ~held_out), ("test", held_out)):
        path = folder / f"batch_covid_subsampled_{name}.h5ad"
        write_h5ad(path, cells.counts[rows], obs[rows], var)
    world.write_truth(folder, cells.truth)


def lung_kim(folder: Path, *, seed: int, n_cells: int = 600, n_genes: int = 500) -> None:
    """Write a twin of Lung-Kim as the Curated Cancer Cell Atlas has it: matrix, genes, cells.

    Written are also the h5ad files of the division into reference and query.
    """
    samples = [f"P{number:04d}" for number in (6, 8, 9, 18, 19, 20)]
    design = Design(
        types=cell_types.LUNG_TUMOUR,
        batches={
            name: Batch(share=1 + 0.5 * (i % 2), depth=1 - 0.1 * (i % 3))
            for i, name in enumerate(samples)
        },
        programmes={"Cell Cycle, Mitotic": ["Malignant"]},
        batch_effect=0.3,
    )
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="lung_kim")
    table = cells.obs.rename(columns={"batch": "sample"}).rename_axis("cell_name")
    rng = np.random.default_rng([seed, 31])
    unlabelled = rng.random(len(table)) < 0.05
    table["cell_type"] = table["cell_type"].astype(object).where(~unlabelled, None)
    write_mtx(folder / "Exp_data_UMIcounts.mtx", cells.counts.T)
    write_lines(folder / "Genes.txt", cells.genes)
    table[["sample", "cell_type"]].to_csv(folder / "Cells.csv")
    var = pd.DataFrame({"gene_name": cells.genes}, index=cells.genes)
    held_out = table["sample"].isin(samples[-2:]).to_numpy()
    for name, rows in (("train", ~held_out & ~unlabelled), ("test", held_out & ~unlabelled)):
        path = folder / f"sample_proc_lung_{name}.h5ad"
        write_h5ad(path, cells.counts[rows], table[rows], var)
    world.write_truth(folder, cells.truth)
