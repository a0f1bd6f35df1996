"""Sets that come as Matrix Market files with tables beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.io import mmread
from scipy.sparse import csr_matrix, vstack

from scgpt.errors import DataError
from scgpt.readers.c1 import as_csr, column_of, data_set
from scgpt.readers.restricted_pickle import load_frames

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

RUNS = ("pbmc8k", "pbmc4k")
REPEATED = "-11"  # how the label file writes a 4k barcode that the 8k run has, too


def read_mtx(path: Path) -> csr_matrix:
    """Read a Matrix Market file of features x cells as cells x features.

    Raises
    ------
    DataError
        If it is not one.
    """
    try:
        return as_csr(csr_matrix(mmread(path)).T)
    except (OSError, ValueError, TypeError) as error:
        msg = f"{path}: not a readable Matrix Market file ({error}); delete it and fetch it again"
        raise DataError(msg) from error


def read_pbmc10k(
    files: Path, *, shared_barcodes: Literal["as_published", "corrected"] = "as_published"
) -> AnnData:
    """Read the PBMC 10k set: two runs of 10x, with the labels and genes of scVI's authors.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    shared_barcodes
        What to do with the labelled cells of the 8k run whose barcode the 4k run has, too.
        `as_published`: as scVI's loader does, which takes counts and batch of the 4k run for them
        (48 cells). `corrected`: counts and batch of the run that the label file names.

    Returns
    -------
    Counts; `batch` 0 (8k) and 1 (4k), `cell_type` with nine labels.

    Raises
    ------
    DataError
        If the files do not belong together.

    References
    ----------
    Gayoso et al., Nat Biotechnol 2022, doi:10.1038/s41587-021-01206-w.
    """
    runs = [_read_10x(files, run) for run in RUNS]
    counts = vstack([values for values, _, _ in runs], format="csr")
    known = runs[0][1]
    genes = pd.read_csv(files / "gene_info.csv", usecols=["ENSG", "GS"])
    genes = genes[genes["ENSG"].isin(known)]
    labels, notes = _pbmc10k_labels(files / "pbmc_metadata.pickle"), []
    places = [pd.Index(barcodes).get_indexer(labels["barcode"]) for _, _, barcodes in runs]
    shared = (places[0] >= 0) & (places[1] >= 0)
    notes += [f"{shared.sum()} labelled barcodes occur in both runs ({shared_barcodes})"]
    batch = labels["run"].to_numpy()
    if shared_barcodes == "as_published":
        batch = np.where(shared, 1, batch)
    row = np.where(batch == 1, places[1], places[0])
    found = row >= 0
    if genes.empty or not found.any():
        msg = (
            f"{files}: the tables name no gene or no cell of the matrices; are they another set's?"
        )
        raise DataError(msg)
    notes += [f"{(~found).sum()} labelled barcodes are not in the matrices"] * (not found.all())
    obs = pd.DataFrame({"batch": batch, "cell_type": labels["cell_type"]})[found]
    obs.index = labels["barcode"][found] + "-" + np.array(RUNS)[batch[found]]
    row = row[found] + np.where(batch[found] == 1, runs[0][0].shape[0], 0)
    return data_set(
        counts[row][:, known.get_indexer(genes["ENSG"])],
        obs,
        genes["GS"].tolist(),
        gene_ids=genes["ENSG"],
        value_kind="counts",
        warnings=notes,
    )


def _read_10x(files: Path, run: str) -> tuple[csr_matrix, pd.Index, list[str]]:
    """Return counts, identifiers of genes and barcodes of a run."""
    values = read_mtx(files / f"{run}_matrix.mtx")
    genes = pd.read_csv(files / f"{run}_genes.tsv", sep="\t", header=None)
    barcodes = (files / f"{run}_barcodes.tsv").read_text(encoding="utf-8").split()
    if values.shape != (len(barcodes), len(genes)):
        msg = (
            f"{files}: {run} has a matrix of {values.shape[0]} cells and {values.shape[1]} genes, "
            f"but names {len(barcodes)} and {len(genes)}"
        )
        raise DataError(msg)
    return values, pd.Index(genes[0].astype(str)), barcodes


def _pbmc10k_labels(path: Path) -> pd.DataFrame:
    """Return `barcode`, `run` (0 or 1) and `cell_type` of the labelled cells."""
    parts = load_frames(path)
    try:
        names = np.asarray(parts["list_clusters"], dtype=str)
        labels = pd.DataFrame(
            {
                "barcode": parts["barcodes"].index.astype(str),
                "run": parts["design"]["batchpbmc4k"].to_numpy().astype(int),
                "cell_type": names[np.asarray(parts["clusters"], dtype=int)],
            }
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        msg = f"{path}: not the label file of scVI's authors ({error!r}); fetch it again"
        raise DataError(msg) from error
    # These are not in the files that 10x offers today; scVI's loader leaves them out as well.
    return labels[~labels["barcode"].str.endswith(REPEATED)].reset_index(drop=True)


def read_curated_atlas(files: Path) -> AnnData:
    """Read a data set of the Curated Cancer Cell Atlas (3CA): matrix, genes and cells.

    Parameters
    ----------
    files
        Folder with `Exp_data_UMIcounts.mtx`, `Genes.txt` and `Cells.csv`.

    Returns
    -------
    Counts; `batch` is the sample, `cell_type` the label of the atlas. Cells without a label are
    left out.

    Raises
    ------
    DataError
        If a column is missing or the files do not fit together.

    References
    ----------
    Gavish et al., Nature 2023, doi:10.1038/s41586-023-06130-4.
    """
    values = read_mtx(files / "Exp_data_UMIcounts.mtx")
    genes = (files / "Genes.txt").read_text(encoding="utf-8").splitlines()
    genes = [line.split("\t")[0].strip('" ') for line in genes if line.strip()]
    where = str(files / "Cells.csv")
    cells = pd.read_csv(where, dtype="string")
    names = column_of(cells, ["cell_name", cells.columns[0]], where=where)
    types = column_of(cells, "cell_type", where=where)
    sample = column_of(cells, ["sample", "patient"], where=where)
    obs = pd.DataFrame({"batch": sample.to_numpy(), "cell_type": types.to_numpy()}, index=names)
    labelled = (obs["cell_type"].notna() & (obs["cell_type"] != "")).to_numpy()
    if values.shape != (len(obs), len(genes)):
        msg = (
            f"{files}: the matrix has the shape {values.shape}, named are {len(obs)}, {len(genes)}"
        )
        raise DataError(msg)
    notes = [f"{(~labelled).sum()} cells without cell_type left out"] * (not labelled.all())
    return data_set(values[labelled], obs[labelled], genes, value_kind="counts", warnings=notes)
