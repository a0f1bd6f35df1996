"""Genes of a data set and tokens of a model: every way in which they are named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt.errors import DataError
from scgpt.library.matching import SYMBOL_COLUMNS, match_genes
from scgpt.tokens.vocab import GeneVocab

SYMBOLS = ["ACTB", "CD3D", "GNLY", "LYZ", "MS4A1", "NKG7", "PPBP", "TP53"]
VOCAB = GeneVocab.from_genes(SYMBOLS)
IDS = [f"ENSG{number:011d}" for number in range(len(SYMBOLS))]


def table(names, **columns):
    return pd.DataFrame(columns, index=names)


def tokens(match):
    """Return the token of every gene of the data, '' where there is none."""
    return [VOCAB.tokens[match.gene_ids[place]] if place >= 0 else "" for place in match.place]


def test_symbols_in_any_order_among_unknown_names():
    match = match_genes(table(["TP53", "XYZ", "ACTB"]), VOCAB)
    assert tokens(match) == ["TP53", "", "ACTB"]
    assert match.gene_ids.tolist() == [VOCAB["ACTB"], VOCAB["TP53"]]
    assert (match.n_genes, match.n_matched, match.source) == (3, 2, "var_names")


@pytest.mark.parametrize("column", SYMBOL_COLUMNS)
def test_ensembl_ids_are_resolved_through_the_usual_columns(column):
    match = match_genes(table(IDS, **{column: pd.Categorical(SYMBOLS)}), VOCAB)
    assert tokens(match) == SYMBOLS
    assert match.source == f"var_names, 8 of them through var['{column}']"


def test_ensembl_ids_are_resolved_through_a_given_mapping_without_their_version():
    versioned = [f"{name}.{number}" for number, name in enumerate(IDS)]
    mapping = dict(zip(IDS, SYMBOLS, strict=True))
    assert tokens(match_genes(table(versioned), VOCAB, gene_symbols=mapping)) == SYMBOLS
    exact = dict(zip(versioned, SYMBOLS, strict=True))
    assert tokens(match_genes(table(versioned), VOCAB, gene_symbols=exact)) == SYMBOLS


def test_a_named_column_is_the_only_source():
    var = table(IDS, feature_name=SYMBOLS[::-1], mine=SYMBOLS)
    assert tokens(match_genes(var, VOCAB, gene_column="mine")) == SYMBOLS
    with pytest.raises(DataError, match="These are Ensembl ids"):
        match_genes(var, VOCAB, gene_column="index")
    with pytest.raises(DataError, match=r"no column 'yours' \(columns: feature_name, mine\)"):
        match_genes(var, VOCAB, gene_column="yours")


def test_missing_symbols_match_nothing():
    var = table(IDS, gene_name=[*SYMBOLS[:6], None, np.nan])
    assert tokens(match_genes(var, VOCAB)) == [*SYMBOLS[:6], "", ""]


def test_ensembl_ids_without_symbols_say_how_to_mend_it():
    with pytest.raises(DataError, match=r"0 of 8 genes.*Ensembl ids.*gene_column \(columns: chr\)"):
        match_genes(table(IDS, chr="1"), VOCAB)


def test_ensembl_ids_of_which_few_have_a_symbol_are_not_taken_for_a_mixture():
    var = table(IDS, gene_name=[*SYMBOLS[:3], *["novel"] * 5])
    with pytest.raises(DataError, match=r"3 of 8 genes.*These are Ensembl ids"):
        match_genes(var, VOCAB)
    assert match_genes(var, VOCAB, min_matched=0.3).n_symbols == 0


def test_mixed_identifiers_are_refused_and_counted():
    with pytest.raises(DataError, match="mixed: 3 gene symbols and 5 Ensembl ids without a symbol"):
        match_genes(table([*SYMBOLS[:3], *IDS[3:]]), VOCAB)


def test_a_mixture_that_a_column_resolves_is_fine():
    mixed = [*SYMBOLS[:3], *IDS[3:]]
    assert tokens(match_genes(table(mixed, gene_symbols=SYMBOLS), VOCAB)) == SYMBOLS


def test_few_known_genes_are_counted_and_ten_unknown_ones_named():
    names = ["ACTB", "CD3D", *(f"peak{i}" for i in range(12))]
    with pytest.raises(DataError) as caught:
        match_genes(table(names), VOCAB)
    message = str(caught.value)
    assert "2 of 14 genes are in the model's vocabulary of 11 tokens" in message
    assert "peak0" in message
    assert "peak9" in message
    assert "peak10" not in message
    assert tokens(match_genes(table(names), VOCAB, min_matched=0.1))[:3] == ["ACTB", "CD3D", ""]


def test_no_known_gene_is_refused_whatever_the_least_share():
    with pytest.raises(DataError, match="0 of 2 genes"):
        match_genes(table(["A", "B"]), VOCAB, min_matched=0)


def test_mouse_symbols_are_recognised():
    with pytest.raises(DataError, match="human orthologues"):
        match_genes(table([name.capitalize() for name in SYMBOLS]), VOCAB)


def test_duplicate_symbols_are_refused_by_name_or_added_up():
    var = table([*IDS[:4], "ENSG00000000099"], feature_name=[*SYMBOLS[:4], "LYZ"])
    with pytest.raises(DataError, match=r"LYZ \(ENSG00000000003, ENSG00000000099\).*'sum'"):
        match_genes(var, VOCAB)
    match = match_genes(var, VOCAB, duplicates="sum")
    assert match.n_matched == 5
    counts = sparse.csr_matrix(np.array([[1, 0, 2, 3, 4], [0, 5, 0, 0, 6]], dtype=np.float32))
    assert match.select(counts).toarray().tolist() == [[1, 0, 2, 7], [0, 5, 0, 6]]
    with pytest.raises(DataError, match="'both'"):
        match_genes(var, VOCAB, duplicates="both")


def test_unknown_names_may_occur_twice():
    assert tokens(match_genes(table(["ACTB", "CD3D", "x", "x"]), VOCAB)) == ["ACTB", "CD3D", "", ""]


def test_selection_drops_unknown_genes_and_stored_zeros_and_sorts_by_token():
    match = match_genes(table(["TP53", "XYZ", "ACTB", "LYZ"]), VOCAB)
    counts = sparse.csr_matrix(
        (np.array([1.0, 9, 2, 0, 3], np.float32), [0, 1, 2, 0, 3], [0, 3, 5]), shape=(2, 4)
    )
    chosen = match.select(counts)
    assert chosen.toarray().tolist() == [[2, 0, 1], [0, 3, 0]]
    assert chosen.nnz == 3
