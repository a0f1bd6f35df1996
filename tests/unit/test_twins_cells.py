"""Simulated cells carry what was put in: types, batches, programmes, regulators."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgpt.data.preprocess import lognormalise
from scgpt.twins import cell_types, world
from scgpt.twins.cells import Batch, Design, simulate

PROGRAMME = "TCR signaling"


@pytest.fixture(scope="module")
def cells():
    design = Design(
        types=cell_types.PBMC,
        batches={"a": Batch(share=2, labels={"donor": "d1"}), "b": Batch(depth=0.5)},
        programmes={PROGRAMME: ["CD4 T cells", "CD8 T cells"]},
        regulators=("SPI1",),
    )
    return simulate(design, n_cells=900, n_genes=400, seed=0, name="test")


@pytest.fixture(scope="module")
def values(cells):
    return pd.DataFrame(lognormalise(cells.counts).toarray(), columns=cells.genes)


def test_sizes_depth_and_labels_are_those_of_the_design(cells):
    obs = cells.obs
    assert cells.counts.shape == (900, 400)
    assert obs.index.is_unique
    assert obs["batch"].value_counts(normalize=True)["a"] == pytest.approx(2 / 3, abs=0.02)
    totals = np.asarray(cells.counts.sum(axis=1)).ravel()
    ratio = totals[obs["batch"] == "b"].mean() / totals[obs["batch"] == "a"].mean()
    assert ratio == pytest.approx(0.5, abs=0.12)
    assert obs.loc[obs["batch"] == "a", "donor"].unique().tolist() == ["d1"]
    assert obs.groupby(["batch", "cell_type"], observed=False).size().min() >= 2


def test_markers_tell_the_types(cells, values):
    means = values.groupby(cells.obs["cell_type"].to_numpy(), observed=True).mean()
    for name, (_, weight, text) in cell_types.PBMC.items():
        if weight >= 3:
            score = means[text.split()].mean(axis=1)
            assert score.idxmax() == name, name


def test_programme_runs_in_its_types_and_varies_between_cells(cells, values):
    genes = world.members(PROGRAMME)
    on = cells.obs["cell_type"].isin(["CD4 T cells", "CD8 T cells"]).to_numpy()
    score = values[genes].mean(axis=1)
    assert score[on].mean() > score[~on].mean() + 0.3
    one = values[(cells.obs["cell_type"] == "CD4 T cells").to_numpy()]
    inside = one[genes].corr().to_numpy()[np.triu_indices(len(genes), 1)]
    rest = cells.genes[-20:]  # neither markers nor members
    outside = one[rest].corr().to_numpy()[np.triu_indices(len(rest), 1)]
    assert np.nanmean(inside) > np.nanmean(outside) + 0.1


def test_targets_follow_their_regulator(cells, values):
    edges = cells.truth["edges"]
    one = values[(cells.obs["cell_type"] == "CD14+ Monocytes").to_numpy()]
    expressed = [gene for gene in edges["target"] if one[gene].mean() > 0.5]
    weights = edges.set_index("target")["weight"]
    found = [one["SPI1"].corr(one[gene]) * np.sign(weights[gene]) for gene in expressed]
    assert len(found) >= 5
    assert np.mean(found) > 0.08


def test_another_name_or_seed_gives_other_cells():
    design = Design(types=cell_types.COARSE, batches={"a": Batch()})
    runs = [
        simulate(design, n_cells=60, n_genes=100, seed=seed, name=name).counts
        for seed, name in ((0, "x"), (0, "x"), (1, "x"), (0, "y"))
    ]
    same = [(runs[0] != other).nnz == 0 for other in runs[1:]]
    assert same == [True, False, False]


def test_edges_are_the_same_in_every_data_set():
    many = [f"G{i}" for i in range(500)]
    whole = world.regulation(["SPI1"], many, seed=0)
    part = world.regulation(["STAT1", "SPI1"], ["OTHER", *many[::-1]][:400], seed=0)
    first = whole[whole["target"].isin(many[-399:])].set_index("target").sort_index()
    second = part[(part["regulator"] == "SPI1") & (part["target"] != "OTHER")]
    pd.testing.assert_frame_equal(first, second.set_index("target").sort_index())
    assert 10 < len(whole) < 50
    assert not (world.regulation(["A"], ["A"], seed=0, density=1.0)["target"] == "A").any()


def test_identifiers_of_twins_are_none_of_ensembl():
    names = world.ensembl_ids(["INS", "GCG", "INS"])
    assert names[0] == names[2] != names[1]
    assert all(name.startswith("ENSG9") and len(name) == 15 for name in names)


def test_all_genes_of_the_designs_are_in_the_census_vocabulary(shared_dir):
    import json

    path = shared_dir / "data/vocab/default_census_vocab.json"
    known = set(json.loads(path.read_text()))
    tables = [value for name, value in vars(cell_types).items() if name.isupper()]
    genes = {gene for types in tables for *_, text in types.values() for gene in text.split()}
    assert (genes | set(world.world_genes())) - known == {"RGS5"}
