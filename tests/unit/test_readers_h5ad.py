"""Public h5ad files: columns by declaration, parts joined, real files of the same schema."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from scgpt.errors import DataError
from scgpt.readers.h5ad import read_h5ad_files
from scgpt.readers.raw_routes import read_expression_atlas, read_myeloid_tables
from scgpt.twins import annotation

GENES = ["A", "B", "C", "D"]


def block(root, name):
    return yaml.safe_load((root / "config/datasets.yaml").read_text())["datasets"][name]


def write(path, n, genes=GENES, seed=0, **columns):
    counts = np.random.default_rng(seed).poisson(3.0, (n, len(genes))).astype(np.float32) + 1
    obs = pd.DataFrame(columns, index=[f"{path.stem}{i}" for i in range(n)])
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return counts


@pytest.fixture
def pair(tmp_path):
    write(tmp_path / "a.h5ad", 4, label=["x", "y", "x", None], sample=list("1122"))
    write(tmp_path / "b.h5ad", 3, genes=["D", "B", "A", "E"], seed=1, label=["x", "z", "y"])
    return tmp_path


def read_pair(folder, **options):
    options = {"columns": {"cell_type": ["celltype", "label"]}} | options
    return read_h5ad_files(folder, parts={"a.h5ad": "reference", "b.h5ad": "query"}, **options)


def test_parts_meet_in_their_common_genes(pair):
    adata = read_pair(pair)
    assert adata.var_names.tolist() == ["A", "B", "D"]
    assert adata.obs["subset"].tolist() == ["reference"] * 4 + ["query"] * 3
    assert adata.obs["batch"].tolist() == adata.obs["subset"].tolist()
    second = anndata.read_h5ad(pair / "b.h5ad")[:, ["A", "B", "D"]].X
    np.testing.assert_array_equal(adata.X[4:].toarray(), second)
    assert adata.uns["warnings"] == ["a.h5ad and b.h5ad have 4 and 4 genes, 3 in common"]


def test_cells_are_left_out_by_declaration(pair):
    adata = read_pair(pair, labelled=["cell_type"], exclude={"cell_type": ["z"]})
    assert adata.obs["cell_type"].tolist() == ["x", "y", "x", "x", "y"]
    assert adata.uns["warnings"][1:] == [
        "1 cells left out: cell_type is z",
        "1 cells without cell_type left out",
    ]


def test_optional_columns_may_be_absent(pair):
    adata = read_pair(pair, optional={"donor": "sample"})
    assert adata.obs["donor"].isna().tolist() == [False] * 4 + [True] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"cell_type": "type"}}, r"a\.h5ad: no column 'type'; it has label, sample"),
        ({"layer": "counts"}, r"a\.h5ad: no layer 'counts'; it has none"),
        ({"symbols": "gene_name"}, "var: no column 'gene_name'; it has none"),
    ],
)
def test_what_is_missing_is_named(pair, options, message):
    with pytest.raises(DataError, match=message):
        read_pair(pair, **options)


def test_parts_without_common_genes_are_refused(tmp_path):
    write(tmp_path / "a.h5ad", 2, label=["x", "y"])
    write(tmp_path / "b.h5ad", 2, genes=["W", "X", "Y", "Z"], label=["x", "y"])
    with pytest.raises(DataError, match=r"no gene in common \(A, W\)"):
        read_pair(tmp_path)


def test_multiple_sclerosis_divides_by_disease(root, tmp_path):
    annotation.multiple_sclerosis(tmp_path, seed=0, n_cells=300, n_genes=200)
    adata = read_h5ad_files(tmp_path, **block(root, "multiple_sclerosis")["params"])
    donors = adata.obs.groupby("subset", observed=True)["donor"].unique()
    assert all(name.startswith("C") for name in donors["reference"])
    assert all(name.startswith("MS") for name in donors["query"])
    assert adata.uns["value_kind"] == "lognorm"
    assert adata.var_names[0] != adata.var["gene_id"].iloc[0]
    assert adata.obs["cell_type"].nunique() == 18


def test_raw_route_of_multiple_sclerosis_meets_the_prepared_one(root, tmp_path):
    annotation.multiple_sclerosis_raw(tmp_path, seed=0, n_cells=400, n_genes=200)
    adata = read_expression_atlas(tmp_path, **block(root, "multiple_sclerosis_raw")["params"])
    assert adata.obs["cell_type"].nunique() == 18
    assert not {"B cell", "T cell", "oligodendrocyte B"} & set(adata.obs["cell_type"])
    assert set(adata.obs.loc[adata.obs["subset"] == "reference", "donor"]) == {"C1", "C2", "C3"}
    assert adata.n_vars == 190
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert "the counts are estimates: rounded" in adata.uns["warnings"]
    design = pd.read_csv(tmp_path / "E-HCAD-35.design.tsv", sep="\t", index_col=0)
    labels = design.loc[adata.obs_names, annotation.AUTHORS_LABEL]
    assert adata.obs["cell_type"].tolist() == labels.tolist()


def test_raw_route_of_myeloid_joins_the_tables(root, tmp_path):
    annotation.myeloid_raw(tmp_path, seed=0, n_cells=500, n_genes=200)
    params = block(root, "myeloid_raw")["params"]
    adata = read_myeloid_tables(tmp_path, **params)
    assert set(adata.obs["batch"]) == {*params["reference"], *params["query"]}
    query = adata.obs["subset"] == "query"
    assert set(adata.obs.loc[query, "batch"]) == set(params["query"])
    assert not adata.obs["cell_type"].str.match(r"M\d").any()
    table = pd.read_csv(tmp_path / "GSE154763_ESCA_normalized_expression.csv.gz", index_col=0)
    part = adata[table.index, table.columns].X.toarray()
    np.testing.assert_allclose(part, table.to_numpy(), atol=1e-4)


def test_myeloid_table_of_other_cells_is_refused(root, tmp_path):
    annotation.myeloid_raw(tmp_path, seed=0, n_cells=400, n_genes=150)
    path = tmp_path / "GSE154763_UCEC_metadata.csv.gz"
    pd.read_csv(path, index_col=0).iloc[1:].to_csv(path)
    with pytest.raises(DataError, match=r"UCEC_metadata\.csv\.gz: lacks cells"):
        read_myeloid_tables(tmp_path, **block(root, "myeloid_raw")["params"])


def test_real_file_in_the_schema_of_the_census(root, shared_dir):
    params = {**block(root, "census_pancreas")["params"], "parts": {"cellxgene.h5ad": ""}}
    adata = read_h5ad_files(shared_dir / "data/census_placenta_ibm", **params)
    assert adata.shape == (220, 18357)
    assert adata.uns["value_kind"] == "counts"
    assert adata.obs["cell_type"].nunique() == 22
    assert adata.obs["donor"].nunique() == 26
    assert adata.uns["warnings"] == []
