"""Multi-omic readers: features side by side, cells matched by name, twins with known links."""

from __future__ import annotations

import gzip

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import hstack

from scgpt.data.preprocess import lognormalise
from scgpt.errors import DataError
from scgpt.readers.multiomic import (
    read_10x_h5,
    read_asap_pbmc,
    read_multiome_pair,
    read_open_problems,
)
from scgpt.twins import multiomic

RNA, ATAC = "10x-Multiome-Pbmc10k-RNA.h5ad", "10x-Multiome-Pbmc10k-ATAC.h5ad"
MATRIX = "pbmc_granulocyte_sorted_10k_filtered_feature_bc_matrix.h5"


@pytest.fixture(scope="module")
def multiome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multiome")
    multiomic.multiome_pbmc(folder, seed=0, n_cells=400, n_genes=200, n_peaks=150)
    return folder


@pytest.fixture(scope="module")
def bmmc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bmmc")
    multiomic.bmmc(folder, seed=0, n_cells=300, n_genes=200, file="x.h5ad.gz")
    return folder


@pytest.fixture(scope="module")
def asap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asap")
    multiomic.asap_pbmc(folder, seed=0, n_cells=200, n_genes=100, n_peaks=80)
    return folder


def part(adata, kind):
    return adata[:, adata.var["feature_type"] == kind]


def profiles(adata, kind):
    """Return mean log values per cell type, types x features."""
    one = part(adata, kind)
    values = lognormalise(one.X) if kind == "gene" else one.X.log1p()
    table = pd.DataFrame(values.toarray(), columns=one.var_names)
    return table.groupby(adata.obs["cell_type"].to_numpy(), observed=True).mean()


def test_pair_is_matched_by_cell_and_peaks_follow_their_gene(multiome):
    adata = read_multiome_pair(multiome, genes=RNA, peaks=ATAC)
    assert adata.var["feature_type"].value_counts().to_dict() == {"gene": 200, "peak": 150}
    genes, peaks = profiles(adata, "gene"), profiles(adata, "peak")
    links = pd.read_csv(multiome / "truth/links.tsv", sep="\t")
    own = [genes[g].corr(peaks[p]) for p, g, _ in links.to_numpy()]
    turned = zip(links["peak"], links["gene"][::-1], strict=True)
    other = [genes[g].corr(peaks[p]) for p, g in turned]
    assert np.nanmean(own) > np.nanmean(other) + 0.25


def test_other_order_and_suffixes_of_the_cells_do_not_matter(multiome, tmp_path):
    rna = anndata.read_h5ad(multiome / RNA)
    atac = anndata.read_h5ad(multiome / ATAC)
    assert rna.obs_names.tolist() != atac.obs_names.tolist()
    expected = read_multiome_pair(multiome, genes=RNA, peaks=ATAC)
    rna.obs_names = rna.obs_names + "_RNA"
    atac.obs_names = atac.obs_names + "_ATAC"
    rna.write_h5ad(tmp_path / RNA)
    atac[::-1].copy().write_h5ad(tmp_path / ATAC)
    found = read_multiome_pair(tmp_path, genes=RNA, peaks=ATAC)
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    assert (found.X != expected.X).nnz == 0


def test_pair_of_other_cells_is_refused(multiome, tmp_path):
    rna = anndata.read_h5ad(multiome / RNA)
    rna.obs_names = [f"other{i}" for i in range(rna.n_obs)]
    rna.write_h5ad(tmp_path / RNA)
    (tmp_path / ATAC).write_bytes((multiome / ATAC).read_bytes())
    with pytest.raises(DataError, match="have no cell in common"):
        read_multiome_pair(tmp_path, genes=RNA, peaks=ATAC)


def test_cell_ranger_matrix_holds_the_same_counts(multiome):
    adata = read_10x_h5(multiome, file=MATRIX)
    pair = read_multiome_pair(multiome, genes=RNA, peaks=ATAC)
    totals = {name: a.X.sum() for name, a in (("h5", adata), ("pair", pair))}
    assert totals["h5"] == totals["pair"]
    assert adata.var["gene_id"].iloc[0].startswith("ENSG9")
    first = adata[:, pair.var_names[:200]].X.sum(axis=0)
    np.testing.assert_array_equal(first, part(pair, "gene").X.sum(axis=0))
    with pytest.raises(DataError, match="not a feature-barcode matrix of Cell Ranger"):
        read_10x_h5(multiome, file=RNA)


def test_proteins_get_their_prefix_and_follow_their_gene(bmmc):
    adata = read_open_problems(bmmc, file="x.h5ad.gz")
    proteins = part(adata, "protein").var_names
    assert all(name.startswith("p_") for name in proteins)
    assert adata.uns["value_kind"] == "counts"
    assert sorted(adata.obs["donor"].unique()) == ["10886", "11466", "12710", "15078"]
    genes, surface = profiles(adata, "gene"), profiles(adata, "protein")
    links = pd.read_csv(bmmc / "truth/links.tsv", sep="\t").set_index("protein")["gene"]
    followed = [n for n in proteins if n.removeprefix("p_").removesuffix("-1") in links]
    found = [
        surface[name].corr(genes[links[name.removeprefix("p_").removesuffix("-1")]])
        for name in followed
    ]
    assert len(found) > 10
    assert np.mean(found) > 0.6


def test_subset_of_the_tutorial(bmmc):
    adata = read_open_problems(bmmc, file="x.h5ad.gz", donors=[10886, 12710], n_types=5)
    assert set(adata.obs["donor"]) == {"10886", "12710"}
    assert adata.obs["cell_type"].nunique() == 5
    with pytest.raises(DataError, match=r"no cell is left of the donors \[1\]"):
        read_open_problems(bmmc, file="x.h5ad.gz", donors=[1])


def test_nothing_stays_of_the_unpacked_file(bmmc):
    read_open_problems(bmmc, file="x.h5ad.gz")
    assert sorted(path.name for path in bmmc.iterdir()) == ["truth", "x.h5ad.gz"]


def test_mosaic_says_what_was_measured(asap):
    adata = read_asap_pbmc(asap)
    counts = {
        kind: np.asarray(part(adata, kind).X.sum(axis=1)).ravel()
        for kind in ("gene", "peak", "protein")
    }
    has_genes = (adata.obs["measured"] == "gene+protein").to_numpy()
    assert set(adata.obs.loc[has_genes, "batch"]) == {"c1", "c2"}
    assert (counts["gene"][has_genes] > 0).all()
    assert (counts["gene"][~has_genes] == 0).all()
    assert (counts["peak"][has_genes] == 0).all()
    assert (counts["peak"][~has_genes] > 0).mean() > 0.95
    assert (counts["protein"] > 0).all()


def test_mosaic_with_a_matrix_of_other_features_is_refused(asap, tmp_path):
    for path in asap.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "genes.txt").write_text("A\nB\n")
    with pytest.raises(DataError, match=r"GxC1\.npz: has 100 features, but 2 are named"):
        read_asap_pbmc(tmp_path)


def test_real_bone_marrow_starter_kit(shared_dir, tmp_path):
    folder = shared_dir / "data/bmmc_cite_starter"
    rna, adt = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("rna", "adt"))
    names = [*rna.var_names, *adt.var_names]
    var = pd.DataFrame(
        {
            "feature_types": [*rna.var["feature_types"], *adt.var["feature_types"]],
            "gene_id": [*rna.var["gene_ids"], *adt.var_names],
        },
        index=names,
    )
    layers = {"counts": hstack([rna.layers["counts"], adt.layers["counts"]], format="csr")}
    values = hstack([rna.X, adt.X], format="csr")
    joined = anndata.AnnData(values, obs=rna.obs, var=var, layers=layers)
    joined.write_h5ad(tmp_path / "x.h5ad")
    with gzip.open(tmp_path / "x.h5ad.gz", "wb", compresslevel=1) as stream:
        stream.write((tmp_path / "x.h5ad").read_bytes())
    adata = read_open_problems(tmp_path, file="x.h5ad.gz")
    assert adata.shape == (600, 1134)
    assert (adata.var["feature_type"] == "protein").sum() == 134
    assert adata.obs["cell_type"].nunique() == 41
    assert sorted(adata.obs["batch"].unique()) == ["s1d1", "s1d2"]
    assert adata.X.data.min() >= 1


def test_real_multiome_starter_kit(shared_dir, tmp_path):
    folder = shared_dir / "data/bmmc_multiome_starter"
    for name in ("rna_union", "atac"):
        adata = anndata.read_h5ad(folder / f"{name}.h5ad")
        adata.X = adata.layers["counts"]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    adata = read_multiome_pair(tmp_path, genes="rna_union.h5ad", peaks="atac.h5ad")
    assert adata.var["feature_type"].value_counts().to_dict() == {"gene": 1134, "peak": 600}
    assert adata.n_obs == 500
    assert adata.obs["cell_type"].nunique() == 21
