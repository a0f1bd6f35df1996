"""Knowledge bases become tidy tables; the twins know what the simulated data follow."""

from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pandas as pd
import pytest

from scgpt.errors import DataError
from scgpt.readers import knowledge as read
from scgpt.twins import knowledge as twin
from scgpt.twins import world


def test_gene_sets_with_and_without_weights(tmp_path):
    text = "A set\tabout it\tG1\tG2,1.0\tG1\n\nTiny\t\tG3\nB\t\tG2\t\tG4\n"
    (tmp_path / "x.gmt").write_text(text)
    table = read.read_gmt(tmp_path, file="x.gmt", min_genes=2)
    assert table.to_numpy().tolist() == [["A set", "G1"], ["A set", "G2"], ["B", "G2"], ["B", "G4"]]
    assert table.attrs["warnings"] == ["1 sets of fewer genes left out"]


def test_line_that_is_no_gene_set_is_named(tmp_path):
    (tmp_path / "x.gmt").write_text("A\td\tG1\nno tabs here\n")
    with pytest.raises(DataError, match=r"x\.gmt, line 2: expected name, description and genes"):
        read.read_gmt(tmp_path, file="x.gmt")


def test_both_forms_of_reactome_hold_the_programmes(tmp_path):
    twin.reactome_enrichr(tmp_path, seed=0, file="e.gmt")
    twin.reactome_gmt(tmp_path, seed=0)
    enrichr = read.read_gmt(tmp_path, file="e.gmt").groupby("set")["gene"].agg(set)
    own = read.read_gmt(tmp_path, file="ReactomePathways.gmt").groupby("set")["gene"].agg(set)
    for name, (identifier, _) in world.PROGRAMMES.items():
        assert enrichr[f"{name} {identifier}"] == own[name] == set(world.members(name))
    assert len(enrichr) == len(own) == len(world.PROGRAMMES) + 60


def test_highest_scores_of_chip_atlas_are_the_edges(tmp_path):
    twin.chip_atlas(tmp_path, seed=0, regulators=["BHLHE40", "DDIT3"])
    table = read.read_chip_atlas(tmp_path, regulators=["BHLHE40", "DDIT3"])
    assert set(table["regulator"]) == {"BHLHE40", "DDIT3"}
    assert (table["weight"] > 0).all()
    for name, part in table.groupby("regulator"):
        known = set(world.regulation([name], part["target"].tolist(), seed=0)["target"])
        first = set(part.nlargest(len(known), "weight")["target"])
        assert len(known) > 30
        assert len(first & known) / len(known) > 0.9


def test_terms_of_genes_from_pickle_and_from_gaf_agree(tmp_path):
    twin.gene2go(tmp_path, seed=0)
    twin.gene_ontology(tmp_path, seed=0)
    pickled = read.read_gene2go(tmp_path)
    table = read.read_gaf(tmp_path)
    pairs = {tuple(row) for row in pickled.to_numpy()}
    found = {tuple(row) for row in table.to_numpy()}
    assert found < pairs  # without the negated ones
    text = gzip.decompress((tmp_path / "goa_human.gaf.gz").read_bytes())
    assert len(pairs) - len(found) == text.count(b"NOT|") > 0
    only = read.read_gaf(tmp_path, aspects=["P"])
    assert 0 < len(only) < len(table)


@pytest.mark.parametrize("content", [["a list"], {"gene": "GO:1"}, {1: {"GO:1"}}])
def test_pickle_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "gene2go_all.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="expected a dictionary of gene -> terms"):
        read.read_gene2go(tmp_path)


def test_lists_and_graph_of_gears(tmp_path):
    twin.gears_lists(tmp_path, seed=0)
    genes = read.read_gene_list(tmp_path, file="essential_all_data_pert_genes.pkl", name="x")
    graph = read.read_edges_csv(
        tmp_path, file="go_essential_all.csv", columns=["source", "target", "importance"]
    )
    assert set(graph["regulator"]) == set(genes["gene"])
    itself = graph[graph["regulator"] == graph["target"]]
    assert len(itself) == len(genes)
    assert (itself["weight"] == 1).all()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_gene_list_may_be_an_array(tmp_path, protocol):
    path = tmp_path / "x.pkl"
    genes = ["KLF1", "A"]
    for form in (genes, np.array(genes), np.array(genes, dtype=object), list(np.array(genes))):
        path.write_bytes(pickle.dumps(form, protocol=protocol))
        table = read.read_gene_list(tmp_path, file="x.pkl", name="n")
        assert table["gene"].tolist() == genes
    path.write_bytes(pickle.dumps({"A"}))
    assert read.read_gene_list(tmp_path, file="x.pkl", name="n")["gene"].tolist() == ["A"]
    path.write_bytes(pickle.dumps("ABC"))
    with pytest.raises(DataError, match="expected a list of genes, found str"):
        read.read_gene_list(tmp_path, file="x.pkl", name="n")


def test_directions_of_trrust(tmp_path):
    lines = "A\tB\tActivation\t1\nA\tC\tRepression\t2\nA\tB\tRepression\t3\nA\tD\tUnknown\t4\n"
    (tmp_path / "trrust_rawdata.human.tsv").write_text(lines)
    table = read.read_trrust(tmp_path).set_index("target")["weight"]
    assert table.to_dict() == {"B": 0.0, "C": -1.0, "D": 0.0}
    (tmp_path / "trrust_rawdata.human.tsv").write_text("A\tB\tup\t1\n")
    with pytest.raises(DataError, match="expected regulator, target, direction"):
        read.read_trrust(tmp_path)


def test_vocabulary_is_a_set_in_the_order_of_its_ids(tmp_path):
    twin.vocabulary(tmp_path, seed=0, name="v")
    ids = json.loads((tmp_path / "v.json").read_text())
    table = read.read_vocabulary(tmp_path, name="v")
    assert table["gene"].tolist() == sorted(ids, key=ids.get) == sorted(ids)
    assert list(ids) != sorted(ids)
    assert set(table["set"]) == {"v"}
    (tmp_path / "v.json").write_text('{"<pad>": 0, "A": 1, "B": 2}')
    assert read.read_vocabulary(tmp_path, name="v")["gene"].tolist() == ["A", "B"]
    (tmp_path / "v.json").write_text('{"A": 1, "B": 2}')
    with pytest.raises(DataError, match="without holes"):
        read.read_vocabulary(tmp_path, name="v")


@pytest.mark.parametrize(
    ("name", "n", "ends"),
    [
        ("default_gene_vocab", 48292, ("A12M1", "ZZZ3")),
        ("default_census_vocab", 60694, ("A1BG", "RP5-973N23.5")),
    ],
)
def test_real_vocabulary(shared_dir, name, n, ends):
    genes = read.read_vocabulary(shared_dir / "data/vocab", name=name)["gene"]
    assert len(genes) == n
    assert (genes.iloc[0], genes.iloc[-1]) == ends


def test_real_reactome(shared_dir):
    table = read.read_gmt(shared_dir / "data/genesets", file="ReactomePathways.gmt")
    assert table["set"].nunique() == 2751
    sizes = table.groupby("set").size()
    assert sizes["3-Methylcrotonyl-CoA carboxylase deficiency"] == 2


def test_real_enrichr_library(shared_dir):
    file = "enrichr.GO_Biological_Process_2021.gmt"
    table = read.read_gmt(shared_dir / "data/genesets", file=file)
    assert table["set"].str.contains(r"\(GO:\d+\)$").all()
    assert not table["gene"].str.contains(",").any()


def test_real_chip_atlas(shared_dir, tmp_path):
    source = shared_dir / "data/genesets/chipatlas_BHLHE40.10.tsv"
    (tmp_path / "BHLHE40.10.tsv").write_bytes(source.read_bytes())
    table = read.read_chip_atlas(tmp_path, regulators=["BHLHE40"])
    assert len(table) == 15805
    assert table.iloc[0].tolist() == ["BHLHE40", "CLUAP1", pytest.approx(1414.708333)]
    assert np.isfinite(table["weight"]).all()


def test_real_part_of_the_graph_of_gears(shared_dir):
    table = read.read_edges_csv(
        shared_dir / "data/genesets",
        file="gears_go_graph_subset.csv",
        columns=["source", "target", "importance"],
    )
    assert table["weight"].between(0, 1).all()
    assert isinstance(table, pd.DataFrame)
    assert len(table) > 1000
