"""From the first publication of a set instead of the file its re-users prepared.

The cells are not those of the paper where its choice is not published; these sets show how much
depends on that choice, and serve where the prepared files are gone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from scgpt.data.preprocess import looks_logged
from scgpt.errors import DataError
from scgpt.readers.c1 import as_csr, column_of, data_set
from scgpt.readers.matrix import read_mtx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

ROWS_AT_ONCE = 2000
_NUMBERED = re.compile(r"^M\d+_")


def read_expression_atlas(
    files: Path,
    *,
    experiment: str,
    symbols: str,
    columns: Mapping[str, str],
    reference: Mapping[str, Sequence[str]],
    exclude: Mapping[str, Sequence[str]] | None = None,
) -> AnnData:
    """Read an experiment of EBI's Single Cell Expression Atlas.

    Parameters
    ----------
    files
        Folder of the downloaded files: the members of the archive of quantified counts, and the
        experiment design as `EXPERIMENT.design.tsv`.
    experiment
        Accession.
    symbols
        Table without header of Ensembl identifier and symbol, tab-separated: the atlas names genes
        by identifier alone.
    columns
        Column of C1 -> column of the design.
    reference
        Column of the design -> values of the reference; all other cells are the query.
    exclude
        Column of C1 -> values whose cells are left out.

    Returns
    -------
    Counts. Estimated counts are rounded. Genes without a symbol and cells without a label are left
    out.

    Raises
    ------
    DataError
        If a column is missing or the files do not fit together.
    """
    base = files / f"{experiment}.aggregated_filtered_counts"
    values = read_mtx(base.with_name(base.name + ".mtx"))
    genes = pd.read_csv(base.with_name(base.name + ".mtx_rows"), sep="\t", header=None)
    cells = pd.read_csv(base.with_name(base.name + ".mtx_cols"), sep="\t", header=None)[0]
    if values.shape != (len(cells), len(genes)):
        msg = f"{files}: a matrix of {values.shape}, but {len(cells)} cells, {len(genes)} genes"
        raise DataError(msg)
    where = f"{experiment}.design.tsv"
    design = pd.read_csv(files / where, sep="\t", dtype="string")
    design = design.set_index(column_of(design, ["Assay", design.columns[0]], where=where))
    known = cells.isin(design.index).to_numpy()
    if not known.any():
        msg = f"{files}: no cell of the matrix is in {where} (e.g. {cells.iloc[0]})"
        raise DataError(msg)
    design = design.loc[cells[known]]
    obs = pd.DataFrame(
        {name: column_of(design, column, where=where) for name, column in columns.items()}
    )
    is_reference = np.ones(len(design), dtype=bool)
    for column, wanted in reference.items():
        is_reference &= column_of(design, column, where=where).isin(list(wanted)).to_numpy(bool)
    obs["subset"] = np.where(is_reference, "reference", "query")
    kept = obs["cell_type"].notna().to_numpy()
    n_unlabelled = int((~known).sum() + (~kept).sum())
    notes = [f"{n_unlabelled} cells without a label left out"] * bool(n_unlabelled)
    for name, unwanted in (exclude or {}).items():
        out = obs[name].isin(list(unwanted)).to_numpy(bool)
        notes.append(f"{int(out.sum())} cells left out: {name} is {', '.join(unwanted)}")
        kept &= ~out
    names = pd.read_csv(files / symbols, sep="\t", header=None, index_col=0)[1]
    identifiers = genes[genes.columns[-1]].astype(str)
    named = identifiers.isin(names.index).to_numpy()
    notes.append(f"{int((~named).sum())} genes without a symbol left out")
    matrix = values[known][kept][:, named]
    if (matrix.data != np.floor(matrix.data)).any():
        notes.append("the counts are estimates: rounded")
        matrix.data = np.round(matrix.data)
    return data_set(
        matrix,
        obs[kept],
        names.loc[identifiers[named]].astype(str).tolist(),
        gene_ids=identifiers[named],
        value_kind="counts",
        warnings=notes,
    )


def read_myeloid_tables(
    files: Path, *, reference: Sequence[str], query: Sequence[str], prefix: str = "GSE154763_"
) -> AnnData:
    """Read the tumour-infiltrating myeloid cells of GSE154763, a pair of tables per cancer.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    reference, query
        Cancer types as the file names have them.
    prefix
        What all file names begin with.

    Returns
    -------
    Log-normalised values of the genes that all tables have; `batch` is the cancer type, `donor`
    the patient, `cell_type` the cluster without its number.

    Raises
    ------
    DataError
        If the tables do not fit together.

    References
    ----------
    Cheng et al., Cell 2021, doi:10.1016/j.cell.2021.01.010.
    """
    parts, tables, genes = [], [], None
    for cancer in (*reference, *query):
        values, names, cells = _read_dense(files / f"{prefix}{cancer}_normalized_expression.csv.gz")
        path = files / f"{prefix}{cancer}_metadata.csv.gz"
        table = pd.read_csv(path, dtype="string").set_index("index")
        if not set(cells) <= set(table.index):
            msg = f"{path}: lacks cells of the table of expression (e.g. {cells[0]})"
            raise DataError(msg)
        table = table.loc[cells]
        cluster = column_of(table, "MajorCluster", where=str(path)).astype(str)
        obs = pd.DataFrame(
            {
                "batch": cancer,
                "cell_type": [_NUMBERED.sub("", name) for name in cluster],
                "subset": "reference" if cancer in reference else "query",
            },
            index=cells,
        )
        donor = column_of(table, "patient", where=str(path), optional=True)
        if donor is not None:
            obs["donor"] = donor.to_numpy()
        parts.append((values, pd.Index(names)))
        tables.append(obs)
        genes = pd.Index(names) if genes is None else genes[genes.isin(names)]
    matrix = vstack([v[:, names.get_indexer(genes)] for v, names in parts], format="csr")
    notes = [f"{len(genes)} genes are in all {len(parts)} tables"]
    whole = bool((matrix.data == np.floor(matrix.data)).all())
    if not whole and not looks_logged(matrix):
        notes.append("the values are normalised but not logarithms: log(1 + x) taken")
        matrix.data = np.log1p(matrix.data)
    return data_set(matrix, pd.concat(tables), genes.tolist(), value_kind="lognorm", warnings=notes)


def _read_dense(path: Path) -> tuple[csr_matrix, list[str], list[str]]:
    """Read a table of cells x genes piece by piece, so that it is never held dense as a whole."""
    parts, cells, names = [], [], []
    try:
        for piece in pd.read_csv(path, index_col=0, chunksize=ROWS_AT_ONCE):
            names = [str(name) for name in piece.columns]
            cells += [str(cell) for cell in piece.index]
            parts.append(as_csr(piece.to_numpy(dtype=np.float32)))
    except (ValueError, OSError, EOFError) as error:
        msg = f"{path}: not a table of numbers ({error}); delete it and fetch it again"
        raise DataError(msg) from error
    return vstack(parts, format="csr"), names, cells
