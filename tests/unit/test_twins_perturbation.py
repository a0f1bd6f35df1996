"""Twins of the Perturb-seq sets: the file is GEARS' and the effects are the known ones."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from scgpt.data.perturbation_splits import simulation_split
from scgpt.errors import DataError
from scgpt.readers.perturbation import perturbed_genes, read_gears, read_scperturb
from scgpt.twins import perturbation

SIZES = {"n_genes": 300, "n_cells": 40, "n_control": 300}


@pytest.fixture(scope="module")
def silenced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adamson")
    perturbation.adamson(folder, seed=0, n_perturbed=12, **SIZES)
    return folder, read_gears(folder)


@pytest.fixture(scope="module")
def activated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("norman")
    perturbation.norman(folder, seed=0, n_perturbed=6, n_pairs=8, **SIZES)
    return folder, read_gears(folder, cell_type="K562")


def changes(adata):
    """Return the mean change of every condition, conditions x genes."""
    means = {
        name: np.asarray(adata.X[np.flatnonzero(adata.obs["condition"] == name)].mean(axis=0))
        for name in adata.obs["condition"].cat.categories
    }
    table = pd.DataFrame({k: v.ravel() for k, v in means.items()}, index=adata.var_names).T
    return table.sub(table.loc["control"]).drop(index="control")


def truth(folder):
    table = pd.read_csv(folder / "truth/effects.tsv", sep="\t", index_col="condition")
    table.index = [
        "+".join(sorted(set(name.split("+")) - {"ctrl"})) for name in table.index.astype(str)
    ]
    return table


def test_conditions_are_normalised_and_all_perturbed_genes_measured(silenced):
    _, adata = silenced
    genes = perturbed_genes(adata.obs["condition"])
    assert genes == sorted(perturbation.SCREENED.split()[:12])
    assert set(genes) <= set(adata.var_names)
    assert adata.uns["warnings"] == []
    assert adata.uns["value_kind"] == "lognorm"
    assert (adata.obs["condition"] == "control").sum() == 300
    assert adata.var["gene_id"].str.startswith("ENSG9").all()


def test_silenced_genes_fall_and_activated_rise(silenced, activated):
    down = changes(silenced[1])
    assert all(down.loc[gene, gene] < -0.8 for gene in down.index)
    up = changes(activated[1])
    singles = [name for name in up.index if "+" not in name]
    assert len(singles) == 6
    assert all(up.loc[gene, gene] > 0.5 for gene in singles)


def test_measured_changes_follow_the_known_effects(silenced):
    folder, adata = silenced
    found, known = changes(adata), truth(folder)
    correlations = [found.loc[name].corr(known.loc[name, found.columns]) for name in found.index]
    assert min(correlations) > 0.75
    # What a condition does is its own: the effects of another one explain less.
    others = [
        found.iloc[i].corr(known.loc[found.index[i - 1], found.columns]) for i in range(len(found))
    ]
    assert np.mean(others) < np.mean(correlations) - 0.2


def test_perturbations_share_a_response(silenced):
    known = truth(silenced[0])
    own = known.copy()
    for gene in own.index:
        own.loc[gene, gene] = 0.0
    singular = np.linalg.svd(own.to_numpy(), compute_uv=False)
    assert singular[0] ** 2 / (singular**2).sum() > 0.2


def test_targets_of_a_regulator_move_with_their_edge(silenced):
    folder, adata = silenced
    edges = pd.read_csv(folder / "truth/edges.tsv", sep="\t")
    found, known = changes(adata), truth(folder)
    strong = edges[edges["weight"].abs() > 0.8]
    assert len(strong) > 20
    # Silencing a regulator turns the sign of its edges; programmes and the shared part add to it.
    moved = [np.sign(known.loc[r, t]) == np.sign(found.loc[r, t]) for r, t, _ in strong.to_numpy()]
    assert np.mean(moved) > 0.85


def test_pairs_add_up_unless_they_buffer(activated):
    known = truth(activated[0])
    pairs = [name for name in known.index if "+" in name]
    assert len(pairs) == 8
    share = {
        name: (known.loc[name] @ (s := sum(known.loc[g] for g in name.split("+")))) / (s @ s)
        for name in pairs
    }
    assert sorted({round(float(value), 3) for value in share.values()}) == [0.6, 1.0]


def test_ranking_of_the_file_is_kept_by_symbol(silenced):
    _, adata = silenced
    table = adata.uns["changed_genes"]
    assert table.shape == (12, 20)
    assert set(table.index) == set(perturbed_genes(adata.obs["condition"]))
    assert all(gene in table.loc[gene].to_numpy()[:3] for gene in table.index)


def test_published_division_is_of_the_spellings_in_the_file(activated):
    folder, adata = activated
    table = adata.uns["division"].set_index("unit")
    written = set(anndata.read_h5ad(folder / "perturb_processed.h5ad").obs["condition"]) - {"ctrl"}
    assert set(table.index) == written
    found = simulation_split(sorted(written), seed=1)
    for subset in ("train", "valid", "test"):
        assert set(table.index[table["subset"] == subset]) == set(getattr(found, subset))
    held = table[table["subset"] == "test"]
    assert held["subgroup"].to_dict() == found.subgroup
    assert set(table["subgroup"][table["subset"] != "test"]) == {""}
    other = read_gears(folder, split_seed=2).uns["division"].set_index("unit")
    assert (other["subset"] != table["subset"]).any()


@pytest.mark.parametrize(
    ("n_genes", "sizes"), [(86, (57, 7, 22)), (1543, (1041, 116, 386)), (1092, (737, 82, 273))]
)
def test_published_sizes_of_divided_singles(n_genes, sizes):
    """Adamson and RPE1; K562 before 5 conditions were left out (published: 737, 78, 272)."""
    found = simulation_split([f"G{i:04d}+ctrl" for i in range(n_genes)], seed=1)
    assert (len(found.train), len(found.valid), len(found.test)) == sizes


def test_file_without_perturbations_is_whole(silenced, tmp_path):
    source = anndata.read_h5ad(silenced[0] / "perturb_processed.h5ad")
    source = source[source.obs["condition"] == "ctrl"].copy()
    source.uns.clear()
    source.write_h5ad(tmp_path / "perturb_processed.h5ad")
    assert read_gears(tmp_path).uns["division"].empty


def test_counts_of_scperturb_are_those_behind_the_file_of_gears(activated):
    import anndata

    folder, adata = activated
    counts = read_scperturb(folder, file="NormanWeissman2019_filtered.h5ad")
    assert counts.uns["value_kind"] == "counts"
    (warning,) = counts.uns["warnings"]
    n_unlabelled = adata.n_obs - counts.n_obs
    assert warning == f"{n_unlabelled} cells without a label left out"
    assert 0 < n_unlabelled < 20
    assert counts.obs["batch"].nunique() == 3
    same = adata[adata.obs_names.str[:10].isin(counts.obs_names.str[:10])]
    assert same.obs["condition"].tolist() == counts.obs["condition"].tolist()
    raw = anndata.read_h5ad(folder / "perturb_processed.h5ad").layers["counts"]
    kept = np.flatnonzero(adata.obs_names.str[:10].isin(counts.obs_names.str[:10]))
    assert (raw[kept] != counts.X).nnz == 0


def test_wrong_cell_line_is_mended(activated, tmp_path):
    assert activated[1].obs["cell_type"].unique().tolist() == ["K562"]
    assert read_gears(activated[0]).obs["cell_type"].unique().tolist() == ["A549"]


def test_same_seed_gives_the_same_file(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        seed = 1 if name == "c" else 0
        perturbation.replogle(tmp_path / name, seed=seed, n_genes=200, n_perturbed=5)
    files = [(tmp_path / name / "perturb_processed.h5ad").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="perturb_processed.h5ad: no such file"):
        read_gears(tmp_path)


def test_real_norman_slice_in_the_columns_of_gears(shared_dir):
    folder = shared_dir / "data/perturb_norman_mcfaline_devel"
    adata = read_gears(folder, file="norman19_devel_gears_schema.h5ad")
    assert adata.shape == (3375, 500)
    names = adata.obs["condition"].value_counts()
    assert names["control"] == 100
    assert sum("+" in name for name in names.index) == 15
    assert len(names) == 34
    assert adata.uns["value_kind"] == "lognorm"
    genes = perturbed_genes(adata.obs["condition"])
    (warning,) = adata.uns["warnings"]
    assert warning.startswith(f"{len(genes) - 1} of {len(genes)} perturbed genes are not measured")


def test_file_without_conditions_is_refused(shared_dir):
    with pytest.raises(DataError, match="no column 'condition'; it has"):
        read_gears(shared_dir / "data/census_placenta_ibm", file="cellxgene.h5ad")


def test_a_condition_with_two_spellings_has_no_ranking_of_the_file(activated, tmp_path):
    folder, adata = activated
    data = anndata.read_h5ad(folder / "perturb_processed.h5ad")
    single = next(n for n in data.obs["condition"].astype(str) if n.endswith("+ctrl"))
    gene = single.removesuffix("+ctrl")
    rows = np.flatnonzero(data.obs["condition"].astype(str) == single)
    rankings = data.uns["rank_genes_groups_cov_all"]
    name = str(data.obs["condition_name"].iloc[rows[0]])
    rankings[name.replace(single, f"ctrl+{gene}")] = rankings[name]
    for column in ("condition", "condition_name"):
        values = data.obs[column].astype(str).to_numpy()
        values[rows[::2]] = [v.replace(single, f"ctrl+{gene}") for v in values[rows[::2]]]
        data.obs[column] = pd.Categorical(values)
    data.write_h5ad(tmp_path / "perturb_processed.h5ad")
    again = read_gears(tmp_path, cell_type="K562")
    assert (again.obs["condition"] == gene).sum() == len(rows)
    before, after = set(adata.uns["changed_genes"].index), set(again.uns["changed_genes"].index)
    assert before - after == {gene}
