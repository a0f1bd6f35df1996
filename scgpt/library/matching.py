"""Which gene of a data set is which token of a model: symbols, Ensembl ids, duplicates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from scgpt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scgpt.tokens.vocab import GeneVocab

Duplicates = Literal["error", "sum"]
SYMBOL_COLUMNS = (
    "feature_name",
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "hgnc_symbol",
    "symbol",
)
"""Columns of `var` in which symbols are looked for, the first that exists counts."""

ENSEMBL = re.compile(r"ENS[A-Z]{0,4}G\d{11}(\.\d+)?")
SHOWN = 10
NOTICEABLE = 0.1
"""Share of names, or of counts, from which unresolved Ensembl ids are no longer a side matter."""


@dataclass(frozen=True, kw_only=True)
class GeneMatch:
    """The genes of a data set that a model knows.

    Attributes
    ----------
    gene_ids
        Their token ids, ascending, shape (n_tokens,), int32.
    place
        For each gene of the data its place in `gene_ids`, -1 if the model does not know it, shape
        (n_genes,), int32. Genes whose counts are to be added up share a place.
    unresolved_ensembl
        For each gene of the data whether it is an Ensembl id without a known symbol, shape
        (n_genes,).
    n_symbols
        Number of genes whose own name is no Ensembl id.
    source
        Where the names came from, in words.
    """

    gene_ids: np.ndarray
    place: np.ndarray
    unresolved_ensembl: np.ndarray
    n_symbols: int
    source: str

    @property
    def n_genes(self) -> int:
        """Number of genes of the data."""
        return self.place.size

    @property
    def n_matched(self) -> int:
        """Number of genes of the data that the model knows."""
        return int((self.place >= 0).sum())

    @property
    def sums(self) -> bool:
        """Whether several genes of the data share a token."""
        return self.n_matched > self.gene_ids.size

    def select(self, block: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the known genes of a block of cells, without stored zeros.

        Columns are those of `gene_ids`; genes of one symbol are added up.
        """
        place = self.place[block.indices]
        kept = (place >= 0) & (block.data != 0)
        before = np.concatenate([[0], np.cumsum(kept)])
        indptr = before[block.indptr].astype(block.indptr.dtype)
        shape = (block.shape[0], self.gene_ids.size)
        chosen = sparse.csr_matrix((block.data[kept], place[kept], indptr), shape=shape)
        if self.sums:
            chosen.sum_duplicates()
        return chosen


def match_genes(
    var: pd.DataFrame,
    vocab: GeneVocab,
    *,
    gene_column: str | None = None,
    gene_symbols: Mapping[str, str] | None = None,
    duplicates: Duplicates = "error",
    min_matched: float = 0.5,
) -> GeneMatch:
    """Find the token of every gene.

    A name that the vocabulary does not know is looked up in `gene_symbols`, then, unless a column
    was named, in the first of `SYMBOL_COLUMNS` that `var` has. The version at the end of an
    Ensembl id does not matter.

    Parameters
    ----------
    var
        One row per gene.
    vocab
        Vocabulary of the model.
    gene_column
        Column of `var` with the names; ``"index"`` for the index alone.
    gene_symbols
        Name (usually an Ensembl id) -> symbol.
    duplicates
        What to do with several genes of one symbol: refuse, or add up their counts.
    min_matched
        Smallest share of genes that the vocabulary has to know.

    Raises
    ------
    DataError
        If a column is absent, too few genes are known, kinds of names are mixed, or a symbol
        occurs more than once.
    """
    names, source = _names(var, gene_column)
    ids = vocab.ids(names)
    if gene_symbols is not None:
        ids = _fill(ids, vocab, _through(names, gene_symbols))
    column = None if gene_column is not None else _symbol_column(var)
    if column is not None and (ids < 0).any():
        before = (ids >= 0).sum()
        ids = _fill(ids, vocab, _text(var[column]))
        through = (ids >= 0).sum() - before
        source += f", {through} of them through var['{column}']" if through else ""
    ensembl = np.fromiter((bool(ENSEMBL.fullmatch(name)) for name in names), dtype=bool)
    if (ids >= 0).sum() < max(1, min_matched * ids.size):
        raise DataError(_too_few(names, ids, ensembl, vocab, var, min_matched))
    _check_duplicates(names, ids, vocab, duplicates)
    gene_ids, inverse = np.unique(ids[ids >= 0], return_inverse=True)
    place = np.full(ids.size, -1, dtype=np.int32)
    place[ids >= 0] = inverse
    return GeneMatch(
        gene_ids=gene_ids,
        place=place,
        unresolved_ensembl=ensembl & (ids < 0),
        n_symbols=int((~ensembl).sum()),
        source=source,
    )


def mixed_identifiers(n_ensembl: int, n_symbols: int, lost: str) -> DataError:
    """Return the error for data that name some genes by symbol and others by Ensembl id."""
    msg = (
        f"identifiers are mixed: {n_symbols} gene symbols and {n_ensembl} Ensembl ids without a "
        f"symbol{lost}; name all genes by symbol, or give the symbols of the Ensembl ids with "
        "gene_symbols={'ENSG...': 'TP53', ...}"
    )
    return DataError(msg)


def _names(var: pd.DataFrame, column: str | None) -> tuple[np.ndarray, str]:
    if column is None or column == "index":
        return _text(var.index), "var_names"
    if column not in var:
        columns = ", ".join(map(str, var.columns)) or "none"
        msg = (
            f"var has no column {column!r} (columns: {columns}); name one of them as gene_column, "
            "or 'index' for var_names"
        )
        raise DataError(msg)
    return _text(var[column]), f"var['{column}']"


def _text(values: pd.Series | pd.Index) -> np.ndarray:
    """Return names as an array of str objects, empty where they are missing."""
    values = pd.Series(values).astype(object)
    return values.where(values.notna(), "").astype(str).to_numpy(dtype=object)


def _symbol_column(var: pd.DataFrame) -> str | None:
    return next((name for name in SYMBOL_COLUMNS if name in var), None)


def _through(names: np.ndarray, symbols: Mapping[str, str]) -> np.ndarray:
    found = (symbols.get(name, symbols.get(name.split(".")[0], "")) for name in names)
    return np.array([symbol if isinstance(symbol, str) else "" for symbol in found], dtype=object)


def _fill(ids: np.ndarray, vocab: GeneVocab, other_names: np.ndarray) -> np.ndarray:
    return np.where(ids >= 0, ids, vocab.ids(other_names)).astype(np.int32)


def _too_few(
    names: np.ndarray,
    ids: np.ndarray,
    ensembl: np.ndarray,
    vocab: GeneVocab,
    var: pd.DataFrame,
    min_matched: float,
) -> str:
    """Say how many genes were found, which were not, and what is likely to be the reason."""
    n_genes, n_symbols = ids.size, int((~ensembl).sum())
    n_ensembl = int((ensembl & (ids < 0)).sum())
    if min(n_ensembl, n_symbols) >= NOTICEABLE * n_genes:
        return str(mixed_identifiers(n_ensembl, n_symbols, ""))
    missing = ", ".join(map(str, names[ids < 0][:SHOWN]))
    found = (
        f"{int((ids >= 0).sum())} of {n_genes} genes are in the model's vocabulary of {len(vocab)} "
        f"tokens; not found, for example: {missing}"
    )
    if n_ensembl > n_symbols:
        columns = ", ".join(map(str, var.columns)) or "none"
        return (
            f"{found}. These are Ensembl ids, the model knows symbols: name the column of var with "
            f"symbols as gene_column (columns: {columns}), or give gene_symbols={{id: symbol}}"
        )
    upper = vocab.ids([name.upper() for name in names])
    if (upper >= 0).sum() >= max(1, min_matched * n_genes):
        return (
            f"{found}. In capital letters most would be found: if these are mouse genes, replace "
            "them by their human orthologues first"
        )
    return (
        f"{found}. Expected symbols such as {', '.join(vocab.tokens[:3])}: name the column of var "
        "that holds them as gene_column, or lower min_matched if so few are meant"
    )


def _check_duplicates(
    names: np.ndarray, ids: np.ndarray, vocab: GeneVocab, duplicates: Duplicates
) -> None:
    if duplicates not in ("error", "sum"):
        msg = f"duplicates is {duplicates!r}, expected 'error' or 'sum'"
        raise DataError(msg)
    known, times = np.unique(ids[ids >= 0], return_counts=True)
    twice = known[times > 1]
    if twice.size and duplicates == "error":
        msg = (
            f"{twice.size} gene symbols belong to more than one gene of the data: "
            f"{_examples(names, ids, twice, vocab)}; pass duplicates='sum' to add up their counts, "
            "or keep one of each"
        )
        raise DataError(msg)


def _examples(names: np.ndarray, ids: np.ndarray, twice: Sequence[int], vocab: GeneVocab) -> str:
    examples = []
    for token in twice[:SHOWN]:
        symbol, own = vocab.tokens[token], sorted(set(names[ids == token]))
        examples.append(symbol if own == [symbol] else f"{symbol} ({', '.join(own)})")
    return ", ".join(examples)
