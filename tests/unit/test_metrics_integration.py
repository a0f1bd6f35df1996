"""Integration metrics: equal to scib, at their bounds on controls, defined rules on odd data."""

from __future__ import annotations

import math
import random
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, silhouette_samples

from scgpt.errors import DataError, MetricUndefined
from scgpt.metrics import integration
from scgpt.metrics.clustering import LEIDEN_RESOLUTIONS, leiden_sweep, louvain_sweep
from scgpt.metrics.integration_arrays import integration_arrays
from scgpt.metrics.neighbors import neighbor_graph
from scgpt.metrics.registry import compute, metrics_of
from scgpt.metrics.silhouette import silhouette_widths

METRICS = {entry.name: entry for entry in metrics_of([integration.__name__], "integration")}


@pytest.fixture(scope="module")
def pbmc():
    """Real cells (700), their labels, and three batches of which one is shifted."""
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = sc.datasets.pbmc68k_reduced()
    batches = rng.choice(["b0", "b1", "b2"], cells.n_obs, p=[0.5, 0.3, 0.2])
    embedding = cells.obsm["X_pca"].astype(np.float64)
    embedding[batches == "b2"] += 0.5
    return embedding, batches, cells.obs["bulk_labels"].astype(str).to_numpy()


@pytest.fixture(scope="module")
def arrays(pbmc):
    return integration_arrays(*pbmc)


@pytest.fixture(scope="module")
def scib_cells(pbmc):
    """The same arrays as scib wants them, the graph being scanpy's exact one."""
    embedding, batches, cell_types = pbmc
    obs = pd.DataFrame({"batch": batches, "cell_type": cell_types}).astype("category")
    obs.index = obs.index.astype(str)
    cells = sc.AnnData(obs=obs, obsm={"X_emb": embedding})
    sc.pp.neighbors(cells, use_rep="X_emb", transformer="sklearn")
    return cells


@pytest.fixture(scope="module")
def scib_metrics():
    return pytest.importorskip("scib").metrics


def values(arrays):
    """Return value and note of every ungrouped metric."""
    rows = [row for entry in METRICS.values() for row in compute(entry, arrays)]
    return {row["metric"]: (row["value"], row["note"]) for row in rows}


def test_all_metrics_of_the_paper_are_there():
    assert list(METRICS) == [
        *("nmi", "ari", "nmi_louvain", "ari_louvain", "asw_label", "asw_batch"),
        *("graph_connectivity", "avg_bio", "avg_bio_louvain", "avg_batch"),
        *("overall", "overall_louvain"),
    ]


def test_silhouettes_equal_scib(arrays, scib_cells, scib_metrics):
    found = values(arrays)
    expected = scib_metrics.silhouette(scib_cells, label_key="cell_type", embed="X_emb")
    assert found["asw_label"][0] == pytest.approx(expected, abs=1e-9)
    expected = scib_metrics.silhouette_batch(
        scib_cells, batch_key="batch", label_key="cell_type", embed="X_emb", verbose=False
    )
    assert found["asw_batch"][0] == pytest.approx(expected, abs=1e-9)


def test_batch_silhouette_equals_scib_where_types_take_no_part(pbmc, scib_metrics):
    embedding, batches, cell_types = pbmc
    batches = np.where(cell_types == "Dendritic", "b0", batches)  # one batch only
    rare = np.flatnonzero(cell_types == "CD34+")[:2]
    keep = (cell_types != "CD34+") | np.isin(np.arange(len(batches)), rare)
    batches[rare] = ["b0", "b1"]  # each cell in a batch of its own
    part = [array[keep] for array in (embedding, batches, cell_types)]
    obs = pd.DataFrame({"batch": part[1], "cell_type": part[2]}, dtype="category")
    cells = sc.AnnData(obs=obs.set_axis(obs.index.astype(str)), obsm={"X_emb": part[0]})
    expected = scib_metrics.silhouette_batch(
        cells, batch_key="batch", label_key="cell_type", embed="X_emb", verbose=False
    )
    value, note = values(integration_arrays(*part))["asw_batch"]
    assert value == pytest.approx(expected, abs=1e-9)
    assert "2 of 10 types take no part" in note
    assert "CD34+, Dendritic" in note


def test_connectivity_equals_scib(arrays, scib_cells, scib_metrics):
    expected = scib_metrics.graph_connectivity(scib_cells, label_key="cell_type")
    found = values(arrays)["graph_connectivity"][0]
    assert found == pytest.approx(expected, abs=1e-9)
    assert found < 1


def test_agreement_equals_scib_on_the_same_clustering(arrays, scib_cells, scib_metrics):
    cells = scib_cells.copy()
    for sweep, suffix in ((arrays["leiden"], ""), (arrays["louvain"], "_louvain")):
        scores = {}
        for resolution, labels in sweep.items():
            cells.obs["cluster"] = pd.Categorical(labels)
            scores[resolution] = scib_metrics.nmi(cells, "cluster", "cell_type")
        best = max(scores, key=scores.__getitem__)
        cells.obs["cluster"] = pd.Categorical(sweep[best])
        found = values(arrays)
        assert found[f"nmi{suffix}"][0] == pytest.approx(scores[best], abs=1e-12)
        expected = scib_metrics.ari(cells, "cluster", "cell_type")
        assert found[f"ari{suffix}"][0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_best_nmi_is_that_of_the_sweep_of_scib(arrays, scib_cells, scib_metrics):
    cells = scib_cells.copy()
    _, expected = scib_metrics.cluster_optimal_resolution(
        cells, label_key="cell_type", cluster_key="cluster", verbose=False
    )
    assert values(arrays)["nmi"][0] == pytest.approx(expected, abs=0.005)


def test_averages_are_those_of_the_paper(arrays):
    found = {name: value for name, (value, _) in values(arrays).items()}
    batch = (found["asw_batch"] + found["graph_connectivity"]) / 2
    assert found["avg_batch"] == pytest.approx(batch)
    for suffix in ("", "_louvain"):
        bio = (found[f"nmi{suffix}"] + found[f"ari{suffix}"] + found["asw_label"]) / 3
        assert found[f"avg_bio{suffix}"] == pytest.approx(bio)
        assert found[f"overall{suffix}"] == pytest.approx(0.6 * bio + 0.4 * batch)


def test_arrays_do_not_depend_on_global_state_and_leave_it(pbmc):
    embedding, batches, cell_types = (array[:200] for array in pbmc)
    results = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        results.append(integration_arrays(embedding, batches, cell_types))
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    for name in ("leiden", "louvain"):
        for one, other in zip(*(r[name].values() for r in results), strict=True):
            assert (one == other).all()


def test_graph_is_the_exact_one_of_scanpy(pbmc, scib_cells):
    difference = neighbor_graph(pbmc[0]) - scib_cells.obsp["connectivities"]
    assert abs(difference).max() < 1e-6
    with pytest.raises(DataError, match="at least 4 cells"):
        neighbor_graph(pbmc[0][:3])
    with pytest.raises(DataError, match="NaN"):
        neighbor_graph(np.full((20, 2), np.nan))
    assert neighbor_graph(pbmc[0][:6]).shape == (6, 6)  # fewer cells than neighbours


@pytest.mark.parametrize(("n_cells", "width"), [(300, 10), (8, 3), (500, 2)])
def test_the_graph_is_that_of_scanpy(n_cells, width):
    vectors = np.random.default_rng(n_cells).normal(size=(n_cells, width))
    cells = anndata.AnnData(obsm={"X_emb": vectors})
    n_neighbors = min(15, n_cells - 1)
    sc.pp.neighbors(cells, n_neighbors=n_neighbors, use_rep="X_emb", transformer="sklearn")
    difference = neighbor_graph(vectors) - cells.obsp["connectivities"]
    assert abs(difference).max() < 1e-6


def test_many_cells_in_one_place_still_have_a_graph():
    vectors = np.random.default_rng(0).normal(size=(60, 4))
    vectors[:30] = vectors[0]
    graph = neighbor_graph(vectors)
    assert np.isfinite(graph.data).all()
    assert graph.diagonal().max() == 0
    assert abs(graph - graph.T).max() == 0
    assert (graph.getnnz(axis=1) > 0).all()


def test_leiden_is_as_good_as_scanpy_and_independent_of_other_resolutions(arrays, scib_cells):
    sweep = arrays["leiden"]
    assert tuple(sweep) == LEIDEN_RESOLUTIONS == (0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 1.8, 2)
    assert len(arrays["louvain"]) == 20
    for resolution in (0.2, 1.0, 2.0):
        sc.tl.leiden(
            *(scib_cells, resolution),
            flavor="igraph",
            n_iterations=-1,
            directed=False,
            key_added="leiden",
        )
        expected = modularity(arrays["graph"], scib_cells.obs["leiden"].cat.codes, resolution)
        found = modularity(arrays["graph"], sweep[resolution], resolution)
        assert found == pytest.approx(expected, abs=0.005)
    alone = leiden_sweep(arrays["graph"], resolutions=[1.0])
    assert (alone[1.0] == sweep[1.0]).all()


def modularity(graph, labels, resolution):
    """Return modularity by its definition."""
    graph, labels = graph.toarray(), np.asarray(labels)
    degree = graph.sum(axis=0)
    same = labels[:, None] == labels
    expected = np.outer(degree, degree) / degree.sum()
    return ((graph - resolution * expected) * same).sum() / degree.sum()


@pytest.mark.parametrize("sweep", [leiden_sweep, louvain_sweep])
def test_clusterings_find_planted_groups(sweep):
    groups = np.repeat([0, 1, 2], 40)
    rng = np.random.default_rng(0)
    edges = rng.random((120, 120)) < np.where(groups[:, None] == groups, 0.4, 0.01)
    graph = sparse.csr_matrix(np.triu(edges, 1) + np.triu(edges, 1).T, dtype=np.float32)
    found = sweep(graph, resolutions=[1.0, 30.0], seed=3)
    assert adjusted_rand_score(groups, found[1.0]) == 1
    assert len(set(found[30.0])) > 20
    with pytest.raises(DataError, match="square"):
        sweep(graph[:10])


def test_louvain_counts_every_edge_the_same_as_scanpy_does_unless_told_otherwise(arrays):
    weighted = arrays["graph"]
    plain = (weighted > 0).astype(np.float32)
    found, same = (louvain_sweep(graph, resolutions=[0.5, 1.0, 2.0]) for graph in (weighted, plain))
    for resolution, labels in found.items():
        assert (labels == same[resolution]).all()
        best = leiden_sweep(plain, resolutions=[resolution])[resolution]
        reached, possible = (modularity(plain, some, resolution) for some in (labels, best))
        assert reached == pytest.approx(possible, abs=0.01)


@pytest.mark.parametrize("block_bytes", [1, 10_000, 2**24])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_silhouette_equals_scikit_learn(block_bytes, shift):
    rng = np.random.default_rng(0)
    labels = rng.choice([*"abcd"], 90, p=[0.5, 0.3, 0.1, 0.1])
    labels[7] = "z"
    embedding = rng.normal(size=(90, 6)) + (labels == "a")[:, None]
    embedding[20:25] = embedding[19]
    found = silhouette_widths(embedding + shift, labels, block_bytes=block_bytes)
    assert np.abs(found - silhouette_samples(embedding, labels)).max() < 1e-7
    assert found[7] == 0


def test_silhouette_of_equal_cells_is_zero_and_of_one_group_undefined():
    assert (silhouette_widths(np.full((10, 3), 0.1), np.arange(10) % 2) == 0).all()
    for labels in (np.zeros(10), np.arange(10)):
        with pytest.raises(MetricUndefined, match="2 groups"):
            silhouette_widths(np.zeros((10, 3)), labels)
    with pytest.raises(DataError, match="one label for each"):
        silhouette_widths(np.zeros((10, 3)), np.arange(9))


def toy(n_cells=120, n_types=3, n_batches=2, seed=0):
    rng = np.random.default_rng(seed)
    types = np.arange(n_cells) % n_types
    embedding = rng.normal(size=(n_cells, 8)) * 0.2
    embedding[:, :n_types] += 3 * np.eye(n_types)[types]
    batches = rng.integers(0, n_batches, n_cells)
    return embedding, batches.astype("U") + np.array("b"), types.astype("U") + np.array("t")


def test_separate_types_with_mixed_batches_reach_the_bounds():
    found = values(integration_arrays(*toy()))
    for name in ("nmi", "ari", "nmi_louvain", "ari_louvain", "graph_connectivity"):
        assert found[name] == (1.0, "")
    assert found["asw_label"][0] > 0.9
    assert found["asw_batch"][0] > 0.9
    assert found["overall"][1] == ""


def test_separate_batches_are_punished():
    embedding, batches, types = toy()
    embedding[:, 7] += 10 * (batches == "0b")
    found = values(integration_arrays(embedding, batches, types))
    assert found["asw_batch"][0] < 0.2
    assert found["graph_connectivity"][0] < 0.7


def test_one_batch_leaves_mixing_undefined_and_the_rest_defined():
    embedding, _, types = toy()
    found = values(integration_arrays(embedding, np.repeat("only", len(types)), types))
    undefined = {name for name, (value, _) in found.items() if value is None}
    assert undefined == {"asw_batch", "avg_batch", "overall", "overall_louvain"}
    assert all("all cells are of one batch (only)" in found[name][1] for name in undefined)


def test_one_type_leaves_biology_undefined_and_mixing_defined():
    embedding, batches, types = toy()
    found = values(integration_arrays(embedding, batches, np.repeat("only", len(types))))
    defined = {name for name, (value, _) in found.items() if value is not None}
    assert defined == {"asw_batch", "graph_connectivity", "avg_batch"}
    assert "all cells are of one cell type (only)" in found["nmi"][1]


def test_a_batch_of_three_cells_is_named():
    embedding, batches, types = toy()
    batches[:] = "big"
    batches[:3] = "tiny"  # one cell of each type
    found = values(integration_arrays(embedding, batches, types))
    note = found["asw_batch"][1]
    assert "the only ones of their type in their batch count as mixed: 3" in note
    assert "batches of fewer than 15 cells: tiny" in note
    assert found["overall"][1] == note
    assert found["asw_batch"][0] is not None


def test_a_type_of_one_batch_and_a_type_of_one_cell_are_named():
    embedding, batches, types = toy()
    types[types == "2t"] = np.where(batches[types == "2t"] == "0b", "mixed", "local")
    batches[types == "mixed"] = "1b"
    types = types.astype(object)
    types[5] = "single"
    arrays = integration_arrays(embedding, batches, types)
    found = values(arrays)
    assert "3 of 5 types take no part" in found["asw_batch"][1]
    assert "local, mixed, single" in found["asw_batch"][1]
    assert found["asw_label"][1].endswith("types of one cell: single")
    assert found["graph_connectivity"][1].endswith("types of one cell: single")
    assert compute(METRICS["asw_batch"], arrays)[0]["n"] == np.isin(types, ["0t", "1t"]).sum()


def test_no_type_in_two_batches_is_undefined():
    embedding, _, types = toy()
    found = values(integration_arrays(embedding, types, types))
    assert found["asw_batch"][0] is None
    assert "none of 3 cell types" in found["asw_batch"][1]
    assert found["graph_connectivity"][0] is not None


@pytest.mark.parametrize("embedding", [np.zeros((60, 4)), np.tile(np.eye(2), (30, 1))])
def test_degenerate_embeddings_have_finite_scores(embedding):
    _, batches, types = toy(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = values(integration_arrays(embedding, batches, types))
    assert all(math.isfinite(value) for value, _ in found.values())
    assert abs(found["ari"][0]) < 0.1


def test_an_open_end_of_the_sweep_is_noted():
    types = toy(20, n_types=8)[2]
    sweep = {0.2: np.zeros(20, dtype=int), 2.0: np.arange(20) % 5}
    score = integration.nmi(types, sweep)
    assert "best resolution, 2, is the highest one tried" in score.note
    assert score.value == integration.nmi(types, {2.0: sweep[2.0]}).value


def test_wrong_arrays_are_named():
    embedding, batches, types = toy()
    with pytest.raises(DataError, match="one batch for each of 120"):
        integration_arrays(embedding, batches[:5], types)
    types = types.astype(object)
    types[3] = None
    with pytest.raises(DataError, match="1 of 120 cells have no cell type"):
        integration_arrays(embedding, batches, types)
