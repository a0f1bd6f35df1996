"""Twins: their shape, their truth, and that the task they pose is neither trivial nor hopeless."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scgpt.data import contracts, preprocess
from scgpt.errors import DataError
from scgpt.twins.count_model import CountModel, Term, apportion, one_hot
from scgpt.twins.gene_symbols import gene_symbols
from scgpt.twins.pancreas import LINEAGES, STUDIES
from scgpt.twins.studies import simulate_hpancreas


@pytest.fixture(scope="module")
def twin() -> anndata.AnnData:
    return simulate_hpancreas(n_reference=700, n_query=400, n_genes=600, seed=1)


def test_shape_of_the_paper(twin):
    contracts.check(twin, contracts.DATASET)
    obs = twin.obs
    sizes = obs.groupby(["subset", "batch"], observed=True).size()
    assert sizes.groupby("subset", observed=True).sum().to_dict() == {
        "reference": 700,
        "query": 400,
    }
    assert set(sizes["reference"].index) == {"Baron", "Muraro"}
    assert set(sizes["query"].index) == {"Xin", "Segerstolpe", "Lawlor"}
    types = obs.groupby("subset", observed=True)["cell_type"].unique()
    assert (len(types["reference"]), len(types["query"])) == (13, 11)
    assert set(types["query"]) - set(types["reference"]) == {"MHC class II"}
    per_type = obs.groupby(["batch", "cell_type"], observed=True).size()
    assert per_type.min() == 3
    assert per_type["Baron"].idxmax() == "beta"
    assert {"INS", "GCG", "SST", "PPY", "GHRL", "PRSS1", "KRT19", "COL1A1"} <= set(twin.var_names)


def test_paper_size_has_the_cells_of_the_paper():
    # The proportions of each study, without the minimum that small sizes need.
    for subset, total in (("reference", 10_600), ("query", 4_218)):
        weights = [n for of, _, types in STUDIES.values() if of == subset for n in types.values()]
        shares = apportion(weights, total, minimum=3)
        assert shares.sum() == total
        assert (abs(shares - np.array(weights) * total / sum(weights)) < 3).all()


def test_counts_are_counts(twin):
    preprocess.check_counts(twin.X, cell_names=twin.obs_names, gene_names=twin.var_names)
    assert twin.X.dtype == np.float32
    assert twin.X.format == "csr"
    density = twin.X.nnz / np.prod(twin.shape)
    assert 0.1 < density < 0.5
    # More variable than Poisson: a negative binomial with batches and types.
    mean, square = (np.asarray(m.mean(axis=0)).ravel() for m in (twin.X, twin.X.multiply(twin.X)))
    often = mean > 0.5
    assert np.median((square - mean**2)[often] / mean[often]) > 1.5


def test_same_seed_same_data_and_genes_do_not_hang_on_cells(twin, tmp_path):
    again = simulate_hpancreas(n_reference=700, n_query=400, n_genes=600, seed=1)
    assert (again.X != twin.X).nnz == 0
    assert again.obs.equals(twin.obs)
    other = simulate_hpancreas(n_reference=300, n_query=100, n_genes=600, seed=1)
    assert other.uns["truth"]["markers"].equals(twin.uns["truth"]["markers"])
    assert other.uns["truth"]["batch_effects"].equals(twin.uns["truth"]["batch_effects"])
    different = simulate_hpancreas(n_reference=300, n_query=100, n_genes=600, seed=2)
    assert (different.X != other.X).nnz
    twin.write_h5ad(tmp_path / "twin.h5ad")
    back = anndata.read_h5ad(tmp_path / "twin.h5ad")
    np.testing.assert_allclose(back.uns["truth"]["identity"], twin.uns["truth"]["identity"])


def test_truth_is_in_the_counts(twin):
    truth = twin.uns["truth"]
    totals = np.asarray(twin.X.sum(axis=1)).ravel()
    assert np.corrcoef(np.log(totals), np.log(truth["library_size"]))[0, 1] > 0.85
    assert truth["identity"].min() >= 0.5
    lognorm = preprocess.lognormalise(twin.X)
    markers_of = truth["markers"].groupby("cell_type")["gene"]
    for name in ("alpha", "beta"):
        row = (twin.obs["cell_type"] == name).to_numpy()
        markers = markers_of.get_group(name)
        columns = twin.var_names.get_indexer(markers)
        inside, outside = lognorm[row][:, columns].mean(), lognorm[~row][:, columns].mean()
        assert inside > outside + 0.5
    effects = truth["batch_effects"]
    assert list(effects.columns) == list(STUDIES)
    baron, muraro = ((twin.obs["batch"] == name).to_numpy() for name in ("Baron", "Muraro"))
    shift = np.log(lognorm[baron].mean(axis=0) + 0.01) - np.log(lognorm[muraro].mean(axis=0) + 0.01)
    expected = (effects["Baron"] - effects["Muraro"]).to_numpy()
    assert np.corrcoef(np.asarray(shift).ravel(), expected)[0, 1] > 0.4


def test_task_is_neither_trivial_nor_hopeless(twin):
    from sklearn.linear_model import LogisticRegression

    lognorm = preprocess.lognormalise(twin.X)
    reference = (twin.obs["subset"] == "reference").to_numpy()
    variable = preprocess.highly_variable_genes(
        anndata.AnnData(twin.X[reference]), n_top=400, flavor="seurat_v3"
    )
    scores = preprocess.pca(csr_matrix(lognorm[:, variable]), n_components=40, fit_rows=reference)
    labels = twin.obs["cell_type"].astype(str).to_numpy()
    model = LogisticRegression(max_iter=300).fit(scores[reference], labels[reference])
    correct = model.predict(scores[~reference]) == labels[~reference]
    assert 0.85 < correct.mean() < 0.985
    # Mistakes stay mostly within a lineage: similarity is hierarchical.
    lineage = {name: group for group, names in LINEAGES.items() for name in names}
    wrong = np.flatnonzero(~reference)[~correct]
    predicted = model.predict(scores[wrong])
    within = np.mean(
        [lineage[a] == lineage[b] for a, b in zip(labels[wrong], predicted, strict=True)]
    )
    assert within > 0.5


def test_terms_add_up_on_the_log_scale():
    rng = np.random.default_rng(0)
    knock_down = np.zeros((1, 50))
    knock_down[0, 7] = np.log(0.2)
    model = CountModel(
        baseline=rng.normal(size=50),
        dispersion=np.full(50, 0.1),
        terms={"target": Term(names=("G7",), effects=knock_down)},
    )
    shares = model.shares({"target": np.array([[0.0], [1.0]])})
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    ratio = shares[1] / shares[0]
    np.testing.assert_allclose(ratio[7] / ratio[0], 0.2)
    counts = model.sample(
        {"target": np.repeat([[0.0], [1.0]], 700, axis=0)},
        library_sizes=np.full(1400, 2000.0),
        batches=np.zeros(1400, dtype=int),
        seed=[3],
    ).toarray()
    mean, variance = counts[:700].mean(axis=0), counts[:700].var(axis=0)
    np.testing.assert_allclose(mean, 2000 * shares[0], rtol=0.1, atol=0.2)
    np.testing.assert_allclose(variance.sum(), (mean + 0.1 * mean**2).sum(), rtol=0.15)
    assert counts[700:, 7].mean() / mean[7] < 0.3
    with pytest.raises(DataError, match=r"no terms \['batch'\]"):
        model.shares({"batch": np.ones((1, 1))})


def test_ambient_and_dropout_do_what_they_say():
    baseline = np.zeros(20)
    only = np.full((2, 20), -30.0)
    only[0, :10] = only[1, 10:] = 0
    parts = {"type": Term(names=("a", "b"), effects=only)}
    weights = {"type": one_hot(np.repeat([0, 1], 600), 2)}
    options = {
        "library_sizes": np.full(1200, 400.0),
        "batches": np.repeat([0, 0], 600),
        "seed": [0],
    }
    soup = CountModel(baseline=baseline, dispersion=np.full(20, 0.05), terms=parts, ambient=0.2)
    counts = soup.sample(weights, **options).toarray()[:600]
    assert abs(counts.sum() / (600 * 400) - 1) < 0.02
    foreign = counts[:, 10:].sum() / counts.sum()
    assert abs(foreign - 0.1) < 0.01  # half of the ambient share comes from the other type
    lossy = CountModel(
        baseline=baseline, dispersion=np.full(20, 0.05), terms=parts, dropout_midpoint=40.0
    )
    lost = (lossy.sample(weights, **options).toarray()[:600, :10] == 0).mean()
    assert abs(lost - 0.5) < 0.03  # the mean is the midpoint


def test_apportion_and_symbols_refuse_too_little():
    assert apportion([8, 1, 1, 0], 20, minimum=3).tolist() == [14, 3, 3, 0]
    assert apportion([1, 1, 1], 4).sum() == 4
    with pytest.raises(DataError, match="5 cells are too few"):
        apportion([1, 1], 5, minimum=3)
    assert gene_symbols(3, first=["INS", "GCG"])[:2] == ["INS", "GCG"]
    assert len(set(gene_symbols(3000, first=["INS"]))) == 3000
    with pytest.raises(DataError, match="n_genes is 1, expected 2"):
        gene_symbols(1, first=["INS", "GCG"])
    with pytest.raises(DataError, match="n_genes is 100, expected 156"):
        simulate_hpancreas(n_reference=300, n_query=150, n_genes=100)
