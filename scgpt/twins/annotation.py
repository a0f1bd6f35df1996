"""Twins of the annotation sets: h5ad pairs as the authors of scGPT and TOSICA share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.data.preprocess import lognormalise
from scgpt.twins import cell_types, world
from scgpt.twins.cells import Batch, Cells, Design, simulate
from scgpt.twins.formats import write_csv_gz, write_h5ad, write_lines, write_mtx
from scgpt.twins.studies import simulate_hpancreas

if TYPE_CHECKING:
    from pathlib import Path

AUTHORS_LABEL = "Factor Value[inferred cell type - authors labels]"
DISEASE = "Sample Characteristic[disease]"
INDIVIDUAL = "Sample Characteristic[individual]"
NORMAL, PATIENT = "normal", "multiple sclerosis"
MYELOID_REFERENCE = ("UCEC", "PAAD", "THCA", "LYM", "cDC2", "KIDNEY")
MYELOID_QUERY = ("MYE", "OV-FTC", "ESCA")


def multiple_sclerosis(folder: Path, *, seed: int, n_cells: int = 700, n_genes: int = 500) -> None:
    """Write a twin of the multiple sclerosis set: controls and patients.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the world.
    n_cells, n_genes
        Sizes of both files together.
    """
    cells = simulate(
        multiple_sclerosis_design(cell_types.BRAIN_NUCLEI),
        n_cells=n_cells,
        n_genes=n_genes,
        seed=seed,
        name="multiple_sclerosis",
    )
    obs = cells.obs.rename(columns={"cell_type": AUTHORS_LABEL}).drop(columns="batch")
    values = lognormalise(cells.counts)
    is_control = (obs[DISEASE] == NORMAL).to_numpy()
    # Symbols are a column here; the index holds Ensembl's identifiers.
    var = pd.DataFrame({"gene_name": cells.genes}, index=world.ensembl_ids(cells.genes))
    for name, rows in (("c_data.h5ad", is_control), ("filtered_ms_adata.h5ad", ~is_control)):
        write_h5ad(folder / name, values[rows], obs[rows], var)
    world.write_truth(folder, cells.truth)


def multiple_sclerosis_design(types: cell_types.Types) -> Design:
    """Return three controls and four patients; patients have fewer layer 2-3 neurons."""
    people = {f"C{i + 1}": NORMAL for i in range(3)} | {f"MS{i + 1}": PATIENT for i in range(4)}
    return Design(
        types=types,
        batches={
            name: Batch(
                share=1.0 + 0.2 * (number % 3),
                depth=1.0 - 0.1 * (number % 2),
                labels={INDIVIDUAL: name, DISEASE: disease, "Factor Value[disease]": disease},
            )
            for number, (name, disease) in enumerate(people.items())
        },
        programmes={"Interferon alpha/beta signaling": ["microglial cell", "phagocyte"]},
        batch_effect=0.25,
    )


def myeloid(folder: Path, *, seed: int, n_cells: int = 900, n_genes: int = 500) -> None:
    """Write a twin of the tumour-infiltrating myeloid set: cancer types, dense values."""
    cells = myeloid_cells(n_cells=n_cells, n_genes=n_genes, seed=seed)
    values = lognormalise(cells.counts).toarray()
    var = pd.DataFrame(index=pd.Index(cells.genes))
    is_reference = cells.obs["cancer_type"].isin(MYELOID_REFERENCE).to_numpy()
    for name, rows in (("reference_adata.h5ad", is_reference), ("query_adata.h5ad", ~is_reference)):
        write_h5ad(folder / name, values[rows], cells.obs[rows], var)
    world.write_truth(folder, cells.truth)


def myeloid_cells(*, n_cells: int, n_genes: int, seed: int) -> Cells:
    """Simulate the cells of nine cancer types, one batch each."""
    cancers = (*MYELOID_REFERENCE, *MYELOID_QUERY)
    design = Design(
        types=cell_types.MYELOID,
        batches={
            name: Batch(
                share=1.0 + 0.4 * (number % 2),
                labels={"cancer_type": name},
                # The sub-sample of one dendritic type, which the files list as a cancer type.
                lacks=[t for t in cell_types.MYELOID if t[:4] != "cDC2"] if name == "cDC2" else (),
            )
            for number, name in enumerate(cancers)
        },
        programmes={
            "MHC class II antigen presentation": [t for t in cell_types.MYELOID if "DC" in t],
            "Interferon alpha/beta signaling": ["Macro_ISG15", "cDC2_ISG15"],
        },
        batch_effect=0.35,
    )
    return simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name="myeloid")


def multiple_sclerosis_raw(
    folder: Path, *, seed: int, n_cells: int = 800, n_genes: int = 500
) -> None:
    """Write a twin of E-HCAD-35 as EBI's atlas has it: estimated counts, genes by identifier.

    It holds the three types that the paper leaves out, cells that the design does not label, and
    genes that the table of symbols does not know.
    """
    types = {**cell_types.BRAIN_NUCLEI, **cell_types.BRAIN_LEFT_OUT}
    name = "multiple_sclerosis_raw"
    design = multiple_sclerosis_design(types)
    cells = simulate(design, n_cells=n_cells, n_genes=n_genes, seed=seed, name=name)
    rng = np.random.default_rng([seed, 11])
    counts = cells.counts.copy()
    counts.data = np.maximum(counts.data + rng.choice([0.0, 0.3, -0.3], counts.nnz), 0.01)
    identifiers = world.ensembl_ids(cells.genes)
    base = "E-HCAD-35.aggregated_filtered_counts"
    write_mtx(folder / f"{base}.mtx", counts.T, field="real")
    write_lines(folder / f"{base}.mtx_rows", [(each, each) for each in identifiers])
    names = [f"SAMEA{number:07d}-{cell}" for number, cell in enumerate(cells.obs.index)]
    write_lines(folder / f"{base}.mtx_cols", [(each, each) for each in names])
    pairs = list(zip(identifiers, cells.genes, strict=True))
    write_lines(folder / "genes.tsv", pairs[: int(0.95 * n_genes)])
    table = cells.obs.drop(columns="batch").rename(columns={"cell_type": AUTHORS_LABEL})
    table.index = pd.Index(names, name="Assay")
    table[AUTHORS_LABEL] = table[AUTHORS_LABEL].astype(object)
    table.loc[rng.random(len(table)) < 0.03, AUTHORS_LABEL] = None
    table.to_csv(folder / "E-HCAD-35.design.tsv", sep="\t")
    world.write_truth(folder, cells.truth)


def myeloid_raw(folder: Path, *, seed: int, n_cells: int = 900, n_genes: int = 400) -> None:
    """Write a twin of GSE154763: one table of expression and one of cells for every cancer."""
    cells = myeloid_cells(n_cells=n_cells, n_genes=n_genes, seed=seed)
    values = lognormalise(cells.counts)
    numbers = {name: i + 1 for i, name in enumerate(cell_types.MYELOID)}
    for cancer in (name for name in (*MYELOID_REFERENCE, *MYELOID_QUERY) if name != "cDC2"):
        rows = np.flatnonzero(cells.obs["batch"] == cancer)
        cell = pd.Index([f"{cells.obs.index[row]}-{cancer}" for row in rows], name="index")
        table = pd.DataFrame(values[rows].toarray().round(4), index=cell, columns=cells.genes)
        write_csv_gz(folder / f"GSE154763_{cancer}_normalized_expression.csv.gz", table)
        labels = cells.obs["cell_type"].iloc[rows]
        table = pd.DataFrame(
            {
                "patient": [f"P{row % 3}" for row in rows],
                "cancer": cancer,
                "tissue": "T",
                "MajorCluster": [f"M{numbers[label]:02d}_{label}" for label in labels],
            },
            index=cell,
        )
        write_csv_gz(folder / f"GSE154763_{cancer}_metadata.csv.gz", table)
    world.write_truth(folder, cells.truth)


def hpancreas(
    folder: Path, *, seed: int, n_reference: int = 600, n_query: int = 300, n_genes: int = 500
) -> None:
    """Write a twin of the human pancreas set: two reference and three query studies."""
    data = simulate_hpancreas(n_reference=n_reference, n_query=n_query, n_genes=n_genes, seed=seed)
    values = lognormalise(data.X)
    obs = data.obs.rename(columns={"cell_type": "Celltype"})
    var = pd.DataFrame(index=data.var_names)
    is_reference = (obs["subset"] == "reference").to_numpy()
    obs = obs.drop(columns="subset")
    for name, rows in (("demo_train.h5ad", is_reference), ("demo_test.h5ad", ~is_reference)):
        write_h5ad(folder / name, values[rows], obs[rows], var)
    world.write_truth(folder, {"markers": data.uns["truth"]["markers"]})
