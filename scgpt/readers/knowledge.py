"""Knowledge bases as tidy tables: gene sets (`set`, `gene`) or edges (`regulator`, `target`, ...).

What a reader has to say about a table stands in its `attrs["warnings"]`.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt.errors import DataError
from scgpt.readers import restricted_pickle
from scgpt.readers.c1 import column_of
from scgpt.tokens.vocab import GeneVocab

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# Gene Association File 2.2, columns counted from 0.
GAF_SYMBOL, GAF_QUALIFIER, GAF_TERM, GAF_ASPECT, GAF_COLUMNS = 2, 3, 4, 8, 15
DIRECTIONS = {"Activation": 1.0, "Repression": -1.0, "Unknown": 0.0}


def read_gmt(files: Path, *, file: str, min_genes: int = 1) -> pd.DataFrame:
    """Read a GMT file: name, description and genes of a set per line, separated by tabs.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    file
        Name of the file.
    min_genes
        Smaller sets are left out.

    Returns
    -------
    Columns `set` and `gene`, each pair once. Weights behind a comma, as Enrichr writes them, are
    dropped.

    Raises
    ------
    DataError
        If a line has no gene.
    """
    path = files / file
    rows: list[tuple[str, str]] = []
    n_small = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        genes = dict.fromkeys(g.partition(",")[0].strip() for g in rest[1:])
        genes = [gene for gene in genes if gene]
        if not genes:
            msg = f"{path}, line {number}: expected name, description and genes between tabs"
            raise DataError(msg)
        if len(genes) < min_genes:
            n_small += 1
            continue
        rows += [(name.strip(), gene) for gene in genes]
    return _table(
        rows, ["set", "gene"], [f"{n_small} sets of fewer genes left out"] * bool(n_small)
    )


def read_chip_atlas(
    files: Path, *, regulators: Sequence[str], distance: int = 10, min_score: float = 0.0
) -> pd.DataFrame:
    """Read the potential targets of regulators by ChIP-Atlas.

    Parameters
    ----------
    files
        Folder with `REGULATOR.DISTANCE.tsv`.
    regulators
        Transcription factors.
    distance
        Kilobases around the start of transcription.
    min_score
        Targets with an average score of this or less are left out.

    Returns
    -------
    Columns `regulator`, `target`, `weight`: the average MACS2 score over all experiments.

    Raises
    ------
    DataError
        If a table has no column of averages.

    References
    ----------
    Oki et al., EMBO Rep 2018, doi:10.15252/embr.201846255.
    """
    parts, notes = [], []
    for regulator in regulators:
        path = files / f"{regulator}.{distance}.tsv"
        table = pd.read_csv(path, sep="\t")
        targets = column_of(table, ["Target_genes", "Target genes"], where=str(path))
        scores = column_of(table, f"{regulator}|Average", where=str(path))
        part = pd.DataFrame({"regulator": regulator, "target": targets, "weight": scores})
        part = part[part["weight"] > min_score]
        if part.empty:
            notes.append(f"the table of {regulator} has no target (some are empty upstream)")
        parts.append(part)
    return _table(pd.concat(parts), ["regulator", "target", "weight"], notes)


def read_gene2go(files: Path, *, file: str = "gene2go_all.pkl") -> pd.DataFrame:
    """Read the terms of genes that GEARS uses: a pickled dictionary of gene -> set of terms.

    The pickle is opened without running anything in it; a file that holds more than a dictionary
    of names is refused.

    Returns
    -------
    Columns `set` (identifier of the term) and `gene`.

    Raises
    ------
    DataError
        If the file is something else.
    """
    content = restricted_pickle.load(files / file)
    if not isinstance(content, dict) or not all(
        isinstance(gene, str) and isinstance(terms, set | frozenset | list | tuple)
        for gene, terms in content.items()
    ):
        msg = f"{files / file}: expected a dictionary of gene -> terms"
        raise DataError(msg)
    rows = [(str(term), gene) for gene, terms in sorted(content.items()) for term in sorted(terms)]
    return _table(rows, ["set", "gene"])


def read_gene_list(files: Path, *, file: str, name: str) -> pd.DataFrame:
    """Read a pickled list of genes as one gene set; opened as carefully as `read_gene2go`.

    Raises
    ------
    DataError
        If the file is something else.
    """
    content = restricted_pickle.load(files / file, restricted_pickle.ARRAYS)
    if not isinstance(content, list | tuple | set | np.ndarray) or not all(
        isinstance(g, str) for g in content
    ):
        msg = f"{files / file}: expected a list of genes, found {type(content).__name__}"
        raise DataError(msg)
    return _table([(name, gene) for gene in dict.fromkeys(content)], ["set", "gene"])


def read_vocabulary(files: Path, *, name: str) -> pd.DataFrame:
    """Read the tokens of a vocabulary (`NAME.json`, token -> id) as one gene set, in their order.

    Special tokens (`<pad>` and the like) are left out.

    Raises
    ------
    DataError
        If the file is not a one-to-one map onto 0 ... n-1.
    """
    tokens = GeneVocab.from_json(files / f"{name}.json").tokens
    return _table([(name, gene) for gene in tokens if not gene.startswith("<")], ["set", "gene"])


def read_gaf(
    files: Path, *, file: str = "goa_human.gaf.gz", aspects: Sequence[str] = ("P", "F", "C")
) -> pd.DataFrame:
    """Read a Gene Association File of the Gene Ontology.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    file
        Name of the file.
    aspects
        P process, F function, C component.

    Returns
    -------
    Columns `set` (identifier of the term) and `gene`, each pair once; negated annotations (`NOT`)
    are left out.

    Raises
    ------
    DataError
        If a line has too few columns.
    """
    path = files / file
    rows: dict[tuple[str, str], None] = {}
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if line.startswith("!"):
                continue
            fields = line.rstrip("\n").split("\t")
            if len(fields) < GAF_COLUMNS:
                msg = f"{path}, line {number}: {len(fields)} columns, expected {GAF_COLUMNS}"
                raise DataError(msg)
            if "NOT" not in fields[GAF_QUALIFIER].split("|") and fields[GAF_ASPECT] in aspects:
                rows[fields[GAF_TERM], fields[GAF_SYMBOL]] = None
    return _table(list(rows), ["set", "gene"])


def read_edges_csv(files: Path, *, file: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table of edges with a header.

    Parameters
    ----------
    files
        Folder of the downloaded files.
    file
        Name of the file.
    columns
        Its columns of regulator (or source), target and weight.

    Raises
    ------
    DataError
        If a column is missing.
    """
    table = pd.read_csv(files / file)
    names = ("regulator", "target", "weight")
    parts = {
        name: column_of(table, column, where=file)
        for name, column in zip(names, columns, strict=True)
    }
    return _table(pd.DataFrame(parts), list(names))


def read_trrust(files: Path, *, file: str = "trrust_rawdata.human.tsv") -> pd.DataFrame:
    """Read the curated regulations of TRRUST; the weight is 1, -1, or 0 where unknown.

    Raises
    ------
    DataError
        If it does not have the four columns of TRRUST.

    References
    ----------
    Han et al., Nucleic Acids Res 2018, doi:10.1093/nar/gkx1013.
    """
    table = pd.read_csv(files / file, sep="\t", header=None)
    if table.shape[1] < 3 or not set(table[2]) <= set(DIRECTIONS):
        msg = f"{files / file}: expected regulator, target, direction and references, no header"
        raise DataError(msg)
    # A pair that is reported in both directions counts as unknown.
    weights = table[2].map(DIRECTIONS).groupby([table[0], table[1]], sort=True).mean()
    table = weights.rename("weight").rename_axis(["regulator", "target"]).reset_index()
    return _table(table, ["regulator", "target", "weight"])


def _table(rows: object, columns: list[str], warnings: Iterable[str] = ()) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=columns).drop_duplicates(ignore_index=True)
    table.attrs["warnings"] = list(warnings)
    return table
