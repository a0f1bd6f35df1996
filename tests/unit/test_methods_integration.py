"""Methods and controls of integration: obligations of every one, and what each must achieve."""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.metrics import silhouette_score

from scgpt.data import contracts
from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import MethodContext, load_method, parse_params
from scgpt.methods.controls.integration import even_points, normals_by_name
from scgpt.metrics import integration
from scgpt.metrics.integration_arrays import integration_arrays
from scgpt.metrics.registry import compute, metrics_of

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from toy_integration import KEYS, task_data

METHODS = {
    "pca": ("scgpt.methods.baselines.embeddings:PCAEmbedding", {}),
    "unintegrated": ("scgpt.methods.baselines.embeddings:Unintegrated", {}),
    "harmony": ("scgpt.methods.packages.harmony:Harmony", {}),
    "scvi": (
        "scgpt.methods.packages.scvi_tools:SCVI",
        {"max_epochs": 3, "n_latent": 6, "n_hidden": 16},
    ),
    "random": ("scgpt.methods.controls.integration:RandomEmbedding", {"width": 5}),
    "label": ("scgpt.methods.controls.integration:LabelEmbedding", {}),
    "mixed": ("scgpt.methods.controls.integration:BatchMixedEmbedding", {}),
}
HARMONY, SCVI = METHODS["harmony"][0], METHODS["scvi"][0]


def predict(entry_point, data, *, truth=None, seed=0, threads=1, scratch=None, **params):
    found = load_method(entry_point)
    context = MethodContext(seed=seed, truth=truth, threads=threads, scratch=scratch)
    method = found(parse_params(found, params), context)
    method.fit(data)
    return method.predict(data), method


def run(name, data, truth, **options):
    entry_point, params = METHODS[name]
    return predict(entry_point, data, truth=truth, **params, **options)


def embedding(prediction, names):
    """Return the vectors of the named cells."""
    return pd.DataFrame(prediction.obsm["X_emb"], index=prediction.obs_names).loc[names].to_numpy()


def scores(prediction, truth):
    cells = truth.obs.loc[prediction.obs_names].astype(str)
    arrays = integration_arrays(
        prediction.obsm["X_emb"], cells["batch"].to_numpy(), cells["cell_type"].to_numpy()
    )
    found = metrics_of([integration.__name__], "integration")
    return {row["metric"]: row["value"] for entry in found for row in compute(entry, arrays)}


@pytest.mark.parametrize("name", METHODS)
def test_prediction_keeps_the_contract_and_the_input(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, truth = task_data(sizes=[180, 77])  # scVI: a last mini-batch of one cell
    copy, truth_copy = data.copy(), truth.copy()
    prediction, method = run(name, data, truth)
    contracts.stamp(prediction, contracts.INTEGRATION_PREDICTION, **KEYS, method=name, seed=0)
    contracts.check(prediction, contracts.INTEGRATION_PREDICTION)
    assert sorted(prediction.obs_names) == sorted(data.obs_names)
    assert prediction.obsm["X_emb"].dtype == np.float32
    for one, other in ((data, copy), (truth, truth_copy)):
        pd.testing.assert_frame_equal(one.obs, other.obs)
        pd.testing.assert_frame_equal(one.var, other.var)
        assert one.uns == other.uns
    assert (data.X != copy.X).nnz == 0
    assert (data.obsm["X_pca"] == copy.obsm["X_pca"]).all()
    assert not list(tmp_path.iterdir())
    assert method.notes == []


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_answer_and_global_state_untouched(name):
    data, truth = task_data(n_cells=80)
    run(name, data, truth)  # imports happen here, once
    answers = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = _state()
        answers.append(run(name, data, truth)[0].obsm["X_emb"])
        assert _state() == before
    assert (answers[0] == answers[1]).all()


def _state():
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.random.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        list(warnings.filters),
    )


@pytest.mark.parametrize("name", METHODS)
def test_order_of_cells_and_genes_does_not_matter(name):
    data, truth = task_data(n_cells=90, n_batches=3)
    rng = np.random.default_rng(5)
    shuffled = data[rng.permutation(data.n_obs), rng.permutation(data.n_vars)].copy()
    shuffled.obs["batch"] = shuffled.obs["batch"].cat.reorder_categories(["b2", "b0", "b1"])
    expected, _ = run(name, data, truth)
    found, _ = run(name, shuffled, truth[::-1].copy())
    difference = embedding(found, data.obs_names) - embedding(expected, data.obs_names)
    assert np.abs(difference).max() == 0


@pytest.mark.parametrize("name", ["scvi", "random", "label", "mixed"])
def test_another_seed_gives_another_answer(name):
    data, truth = task_data(n_cells=80)
    one, other = (run(name, data, truth, seed=seed)[0] for seed in (0, 1))
    assert (one.obsm["X_emb"] != other.obsm["X_emb"]).any()


@pytest.mark.parametrize("name", METHODS)
def test_one_batch_follows_a_stated_rule(name):
    data, truth = task_data(n_cells=80, n_batches=1)
    prediction, method = run(name, data, truth)
    assert prediction.n_obs == 80
    if name in ("harmony", "scvi", "mixed"):
        assert method.notes[0].startswith("all cells are of one batch (b0): ")
    if name == "harmony":
        assert (embedding(prediction, data.obs_names) == data.obsm["X_pca"]).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_three_cells_follows_a_stated_rule(name):
    data, truth = task_data(sizes=[90, 3])
    prediction, method = run(name, data, truth)
    assert np.isfinite(prediction.obsm["X_emb"]).all()
    if name in ("harmony", "scvi"):
        assert method.notes == [
            "the effect of batches of few cells is learned from these alone: b1 (3)"
        ]


@pytest.mark.parametrize("name", METHODS)
def test_a_cell_without_expression_gets_a_finite_vector(name):
    data, truth = task_data(n_cells=60)
    kept = sparse.diags(np.arange(60) != 3, dtype=np.float32)
    data.X = sparse.csr_matrix(kept @ data.X)
    data.layers["lognorm"] = sparse.csr_matrix(kept @ data.layers["lognorm"])
    prediction, _ = run(name, data, truth)
    assert np.isfinite(prediction.obsm["X_emb"]).all()


def test_pca_and_unintegrated_are_the_data_themselves():
    data, truth = task_data(n_cells=60)
    prediction, _ = run("pca", data, truth)
    assert (embedding(prediction, data.obs_names) == data.obsm["X_pca"]).all()
    prediction, _ = run("unintegrated", data, truth)
    genes = np.sort(data.var_names[data.var["highly_variable"]])
    expected = data[:, genes].layers["lognorm"].toarray()
    assert (embedding(prediction, data.obs_names) == expected).all()
    del data.obsm["X_pca"]
    with pytest.raises(DataError, match="X_pca"):
        run("pca", data, truth)


def batch_silhouette(prediction, truth):
    cells = truth.obs.loc[prediction.obs_names]
    return silhouette_score(prediction.obsm["X_emb"], cells["batch"])


def test_harmony_removes_the_batch_effect_and_keeps_types():
    data, truth = task_data(n_cells=400)
    before, _ = run("pca", data, truth)
    after, method = run("harmony", data, truth)
    assert batch_silhouette(before, truth) > 0.1
    assert batch_silhouette(after, truth) < 0.05
    assert scores(after, truth)["overall"] > scores(before, truth)["overall"] + 0.1
    assert [row["objective"] for row in method.history] == ["harmony"] * len(method.history) != []


def test_harmony_refuses_an_ambiguous_shape_and_unknown_cells():
    data, truth = task_data(n_cells=60)
    square = data[:20].copy()
    with pytest.raises(DataError, match="ambiguous"):
        run("harmony", square, truth)
    method = run("harmony", data[:50].copy(), truth)[1]
    with pytest.raises(DataError, match="10 of 60 cells were not there in fit"):
        method.predict(data)
    assert method.predict(data[:30].copy()).n_obs == 30


def test_harmony_refuses_a_transposed_answer(monkeypatch):
    module = sys.modules[load_method(HARMONY).__module__]
    original = module.run_harmony

    class Transposed:
        def __init__(self, result):
            self.Z_corr, self.objective_harmony = result.Z_corr.T, []

    monkeypatch.setattr(module, "run_harmony", lambda *a, **k: Transposed(original(*a, **k)))
    data, truth = task_data(n_cells=60)
    with pytest.raises(DataError, match=r"\(20, 60\), expected \(n_cells, n_pcs\) = \(60, 20\)"):
        run("harmony", data, truth)


def test_batches_must_be_there():
    data, truth = task_data(n_cells=60)
    data.obs["batch"] = data.obs["batch"].where(np.arange(60) > 0)
    for name in ("harmony", "scvi", "mixed"):
        with pytest.raises(DataError, match="1 of 60 cells have no batch"):
            run(name, data, truth)
    del data.obs["batch"]
    with pytest.raises(DataError, match=r"obs\['batch'\] is missing"):
        run("harmony", data, truth)


def test_scvi_learns_and_mixes_batches():
    data, truth = task_data(n_cells=300, effect=1.0)
    options = {"n_latent": 8, "n_hidden": 32, "learning_rate": 5e-3, "batch_size": 64}
    prediction, method = predict(SCVI, data, max_epochs=40, **options)
    found = scores(prediction, truth)
    before = scores(run("unintegrated", data, truth)[0], truth)
    assert found["overall"] > before["overall"] + 0.1
    assert batch_silhouette(prediction, truth) < 0.05
    curve = [row["value"] for row in method.history if row["objective"] == "elbo"]
    assert len(curve) == 40
    assert curve[-1] < 0.95 * curve[0]
    assert {row["phase"] for row in method.history} == {"train"}
    seconds = [row["seconds"] for row in method.history if row["objective"] == "elbo"]
    assert (np.diff(seconds) > 0).all()


def test_scvi_stops_early_on_validation_cells():
    data, _ = task_data(n_cells=120)
    options = {"early_stopping": True, "patience": 1, "learning_rate": 0.05, "n_hidden": 16}
    _, method = predict(SCVI, data, max_epochs=60, **options)
    valid = [r for r in method.history if r["phase"] == "valid" and r["objective"] == "elbo"]
    assert 0 < len(valid) < 60
    data.obs["split"] = pd.Categorical(["train"] * 120)
    with pytest.raises(DataError, match="'valid'"):
        predict(SCVI, data, early_stopping=True)


def test_scvi_says_what_it_does_with_log_normalised_data():
    data, _ = task_data(n_cells=80, value_kind="lognorm")
    prediction, method = predict(SCVI, data, max_epochs=2)
    assert "log-normalised" in method.notes[0]
    assert method.model.module.gene_likelihood == "normal"
    assert prediction.obsm["X_emb"].shape == (80, 30)
    counts, _ = task_data(n_cells=80)
    assert predict(SCVI, counts, max_epochs=1)[1].model.module.gene_likelihood == "nb"


def test_scvi_says_that_counts_are_not_whole_numbers():
    data, _ = task_data(n_cells=60)
    data.X = data.X * 0.5
    _, method = predict(SCVI, data, max_epochs=1)
    assert method.notes == ["some counts are no whole numbers: scVI takes them as they are"]


def test_scvi_takes_new_cells_of_known_batches():
    data, _ = task_data(n_cells=100)
    prediction, method = predict(SCVI, data, max_epochs=2)
    part = method.predict(data[:40].copy())
    assert np.abs(part.obsm["X_emb"] - embedding(prediction, part.obs_names)).max() < 1e-5


def test_scvi_is_silent(capfd):
    data, _ = task_data(n_cells=60)
    predict(SCVI, data, max_epochs=1)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        predict(SCVI, data, max_epochs=2)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_labels_reach_the_bounds():
    data, truth = task_data(n_cells=600)
    found = scores(run("label", data, truth)[0], truth)
    for name in ("nmi", "ari", "nmi_louvain", "ari_louvain", "graph_connectivity"):
        assert found[name] == 1.0
    assert found["asw_label"] > 1 - 3e-5
    few, truth_of_few = task_data(n_cells=40)
    assert run("label", few, truth_of_few)[1].notes[0].startswith("types too small for")
    with pytest.raises(ConfigError, match="positive_control"):
        run("label", data, None)
    with pytest.raises(DataError, match="not in the truth"):
        run("label", data, truth[1:].copy())


def test_mixed_batches_reach_the_bound_of_mixing_and_know_nothing():
    data, truth = task_data(sizes=[400, 250])
    found = scores(run("mixed", data, truth)[0], truth)
    assert found["asw_batch"] > 0.97
    assert found["ari"] < 0.05
    assert found["asw_label"] == pytest.approx(0.5, abs=0.02)
    assert found["asw_batch"] > scores(run("harmony", data, truth)[0], truth)["asw_batch"]


def test_mixed_batches_cover_the_same_points():
    data, truth = task_data(sizes=[60, 60])
    prediction, _ = run("mixed", data, truth)
    batches = truth.obs.loc[prediction.obs_names, "batch"]
    clouds = [prediction.obsm["X_emb"][batches == name] for name in ("b0", "b1")]
    clouds = [cloud[np.argsort(cloud[:, 0].round(2), kind="stable")] for cloud in clouds]
    distances = np.linalg.norm(clouds[0][:, None] - clouds[1][None], axis=2).min(axis=1)
    assert distances.max() < 0.01


def test_random_embedding_knows_nothing():
    data, truth = task_data(n_cells=500)
    found = scores(run("random", data, truth)[0], truth)
    assert found["ari"] < 0.05
    assert found["asw_label"] == pytest.approx(0.5, abs=0.02)


def test_normals_are_normal_and_depend_on_names_only():
    names = [f"cell{i}" for i in range(3000)]
    numbers = normals_by_name(0, names, 4)
    assert np.abs(numbers.mean(axis=0)).max() < 0.06
    assert np.abs(np.cov(numbers.T) - np.eye(4)).max() < 0.1
    assert (normals_by_name(0, names[::-1], 4)[::-1] == numbers).all()
    assert (normals_by_name(1, names, 4) != numbers).all()


def test_even_points_fill_the_cube_more_evenly_than_chance():
    points = even_points(512, 2)
    assert (even_points(100, 2) == points[:100]).all()
    counts = np.histogram2d(*points.T, bins=8, range=[[0, 1], [0, 1]])[0]
    assert counts.sum() == 512
    assert counts.var() < 2  # 8 by chance
