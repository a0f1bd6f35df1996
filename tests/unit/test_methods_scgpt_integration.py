from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import scgpt
from scgpt.errors import CheckpointError, DataError
from scgpt.methods.base import MethodContext, parse_params
from scgpt.methods.scgpt.integration import ScGPTIntegration, ScGPTZeroShot
from scgpt.methods.task_data import batches_of
from scgpt.metrics import integration
from scgpt.metrics.integration_arrays import integration_arrays
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream import save_official
from scgpt.training.determinism import isolated_torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from toy_integration import task_data

SIZES = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_ff": 16}
QUICK = {**SIZES, "epochs": 1, "batch_size": 16}
SPECIALS = ["<pad>", "<cls>", "<eoc>"]
LEARNING = {
    **{"n_hvg": 40, "d_model": 32, "dropout": 0.0, "batch_size": 16},
    **{"epochs": 50, "learning_rate": 4e-3, "lr_decay": 0.97},
}


@pytest.fixture(autouse=True)
def one_thread():
    with isolated_torch("cpu", threads=1):
        yield


@pytest.fixture(scope="module")
def toy():
    return task_data(n_cells=120)


def fitted(data, params=QUICK, *, found=ScGPTIntegration, **context):
    method = found(parse_params(found, params), MethodContext(**{"seed": 0, **context}))
    method.fit(data)
    return method


def vectors(method, data):
    prediction = method.predict(data)
    return pd.DataFrame(prediction.obsm["X_emb"], index=prediction.obs_names)


def avg_bio(embedding, truth):
    cells = truth.obs.loc[embedding.index].astype(str)
    arrays = integration_arrays(
        embedding.to_numpy(), cells["batch"].to_numpy(), cells["cell_type"].to_numpy()
    )
    needed = {name: arrays[name] for name in ("cell_types", "leiden", "type_widths")}
    return integration.avg_bio(**needed).value


def terms(method):
    return {row["objective"] for row in method.history}


def pretrained(folder, genes, **options):
    """Write a network with random weights in the official layout, as after pretraining."""
    tokens = [*genes, *SPECIALS]
    config = ScGPTConfig(
        n_tokens=len(tokens), pad_id=len(genes), gepc="inner product", **SIZES, **options
    )
    model = ScGPT(config, seed=9)
    save_official(folder, model, {token: i for i, token in enumerate(tokens)}, {})
    return model


def test_fine_tuning_tells_types_apart_better_than_random_weights():
    data, truth = task_data(n_cells=240)
    learned = vectors(fitted(data, LEARNING), data)
    random = vectors(fitted(data, {}, found=ScGPTZeroShot), data)
    assert avg_bio(learned, truth) > avg_bio(random, truth) + 0.2


def test_vectors_have_unit_length_and_follow_the_seed(toy):
    data, _ = toy
    first, again, other = (vectors(fitted(data, seed=seed), data) for seed in (0, 0, 1))
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert first.equals(again)
    assert not np.allclose(first, other)


def test_the_embedding_is_the_cls_token_of_the_unmasked_cell(toy):
    data, _ = toy
    method = fitted(data)
    found = vectors(method, data)
    for batch in ("b0", "b1"):
        cells = np.flatnonzero(data.obs["batch"] == batch)
        source = method._batches(data, cells, mask_ratio=0.0, training=False)
        inputs = source.batch(np.arange(len(cells)))
        assert not (inputs.values_BL == -1).any()
        assert (inputs.gene_ids_BL[:, 0] == method.started.vocab.cls_id).all()
        with torch.no_grad():
            hidden_BLD = method.started.model.encode(
                inputs.gene_ids_BL, inputs.values_BL, batch_labels_B=inputs.batch_labels_B
            )
        expected = torch.nn.functional.normalize(hidden_BLD[:, 0]).numpy()
        assert np.allclose(found.loc[data.obs_names[cells]], expected, atol=1e-5)


def test_every_batch_is_normalised_with_statistics_of_its_own_cells(toy):
    data, _ = toy
    method = fitted(data, {**QUICK, "epochs": 6, "learning_rate": 1e-6})
    model = method.started.model
    for code in range(2):
        cells = np.flatnonzero(data.obs["batch"] == f"b{code}")
        inputs = method._batches(data, cells, mask_ratio=0.4, training=False)
        batch = inputs.batch(np.arange(len(cells)))
        with torch.no_grad():
            x_BLD = model.value_encoder.combine(
                model.gene_encoder(batch.gene_ids_BL), batch.values_BL
            )
        norm = model.input_norm.by_batch[code]
        spread_D = x_BLD.flatten(0, 1).std(dim=0)
        difference_D = (norm.running_mean - x_BLD.mean(dim=(0, 1))).abs() / spread_D
        assert difference_D.max() < 0.2
    first, second = (norm.running_mean for norm in model.input_norm.by_batch)
    assert not torch.allclose(first, second)


def test_a_cells_vector_does_not_depend_on_the_other_cells(toy):
    data, _ = toy
    some = data[[3, 50, 7]].copy()
    for found, params in ((ScGPTIntegration, QUICK), (ScGPTZeroShot, SIZES)):
        method = fitted(data, params, found=found)
        expected = vectors(method, data).loc[some.obs_names]
        assert np.allclose(vectors(method, some).loc[some.obs_names], expected, atol=1e-5)
    assert method.history == []


def test_all_published_objectives_are_on_and_weight_0_switches_one_off(toy):
    data, _ = toy
    everything = {"loss", "gep", "gep_zero", "gepc", "gepc_zero", "ecs", "dar"}
    method = fitted(data)
    assert terms(method) == everything
    assert method.params.objectives == {"gep": 1.0, "gepc": 1.0, "ecs": 10.0, "dar": 1.0}
    off = {**QUICK, "objectives": {"gep": 1.0, "gepc": 0.0, "ecs": 0.0, "dar": 0.0}}
    method = fitted(data, {**off, "explicit_zero": False})
    assert terms(method) == {"loss", "gep"}
    assert method.started.model.gepc is None
    assert method.started.model.dar is None


@pytest.mark.parametrize("found", [ScGPTIntegration, ScGPTZeroShot])
@pytest.mark.parametrize("sizes", [[60], [60, 3]])
def test_one_batch_and_a_batch_of_three_cells_work(found, sizes):
    data, _ = task_data(sizes=sizes)
    prediction = fitted(data, QUICK if found is ScGPTIntegration else SIZES, found=found)
    assert np.isfinite(vectors(prediction, data).to_numpy()).all()


def test_every_cell_needs_a_batch(toy):
    data, _ = toy
    lacking = data.copy()
    lacking.obs["batch"] = lacking.obs["batch"].astype(object)
    lacking.obs.loc[lacking.obs_names[:2], "batch"] = None
    with pytest.raises(DataError, match="2 of 120 cells have no batch"):
        batches_of(lacking, np.arange(120))
    del lacking.obs["batch"]
    with pytest.raises(DataError, match=r"obs\['batch'\] is missing"):
        fitted(lacking)
    assert list(batches_of(data, np.array([5]))) == [data.obs["batch"].iloc[5]]


def test_a_batch_that_was_not_in_fit_is_refused(toy):
    data, _ = toy
    method = fitted(data)
    for name in ("a", "b01", "z"):
        changed = data.copy()
        changed.obs["batch"] = changed.obs["batch"].cat.rename_categories({"b0": name})
        with pytest.raises(DataError, match=rf"batch '{name}' .* b0, b1"):
            method.predict(changed)


def test_a_pretrained_network_is_loaded_and_accounted_for(toy, tmp_path):
    data, _ = toy
    genes = [f"G{i:03d}" for i in range(120)]
    source = pretrained(tmp_path, genes)
    params = {**QUICK, "init": "checkpoint", "freeze_encoders": True}
    method = fitted(data, params, checkpoint=tmp_path)
    rows = {row.name: row for row in method.receipt.rows}
    assert rows["gepc.gene_query.weight"].status == "loaded"
    assert rows["gepc.expression.weight"].status == "reshaped"
    assert rows["gep.expression.0.weight"].status == "reshaped"
    loaded = {name for name, row in rows.items() if row.status == "loaded"}
    assert loaded == source.state_dict().keys() - {
        "gepc.expression.weight",
        "gep.expression.0.weight",
    }
    fresh = {name.split(".")[0] for name, row in rows.items() if row.status == "missing"}
    assert fresh == {"batch_encoder", "input_norm", "gep", "gepc", "dar"}
    before, after = source.gene_encoder.state_dict(), method.started.model.gene_encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("found", [ScGPTIntegration, ScGPTZeroShot])
def test_genes_that_a_checkpoint_does_not_know_are_counted_in_the_note(toy, tmp_path, found):
    data, _ = toy
    pretrained(tmp_path, [f"G{i:03d}" for i in range(100)])
    params = {**(QUICK if found is ScGPTIntegration else {}), "init": "checkpoint"}
    method = fitted(data, params, found=found, checkpoint=tmp_path)
    assert len(method.notes) == 1
    # 100 of the 120 genes are highly variable; the network as it is reads all.
    expected = "15 of 100" if found is ScGPTIntegration else "20 of 120"
    assert f"{expected} genes are not in the vocabulary" in method.notes[0]
    assert "G100" in method.notes[0]
    assert fitted(data, QUICK).notes == []


def test_a_batch_without_training_cells_is_named_in_the_note(toy):
    data = toy[0].copy()
    of_one = (data.obs["batch"] == data.obs["batch"].cat.categories[0]).to_numpy()
    data.obs.loc[of_one, "split"] = "valid"
    assert "no training cell is of batch" in fitted(data, QUICK).notes[0]


def test_a_network_pretrained_without_attention_weights_is_refused(toy, tmp_path):
    data, _ = toy
    pretrained(tmp_path, [f"G{i:03d}" for i in range(120)])
    state = torch.load(tmp_path / "best_model.pt", weights_only=True)
    del state["transformer_encoder.layers.0.self_attn.Wqkv.weight"]
    torch.save(state, tmp_path / "best_model.pt")
    with pytest.raises(CheckpointError, match=r"Wqkv|qkv"):
        fitted(data, {**QUICK, "init": "checkpoint"}, checkpoint=tmp_path)


def zero_shot(folder, data, *, seed=5, **params):
    params = {"init": "checkpoint", **params}
    return fitted(data, params, found=ScGPTZeroShot, checkpoint=folder, seed=seed)


def embedded(data, model, **options):
    kind = data.uns["scgpt"]["value_kind"]
    found = scgpt.embed(data, model, values=kind, seed=5, copy=True, **options)
    return pd.DataFrame(found.obsm["X_scgpt"], index=data.obs_names)


@pytest.mark.parametrize("value_kind", ["counts", "lognorm"])
@pytest.mark.parametrize("known", [120, 100])
def test_zero_shot_is_what_a_user_gets_from_embed(tmp_path, value_kind, known):
    data, _ = task_data(n_cells=80, value_kind=value_kind)
    pretrained(tmp_path, [f"G{i:03d}" for i in range(known)])
    lengths = np.diff(data[:, [f"G{i:03d}" for i in range(known)]].X.indptr) + 1
    limit = int(np.median(lengths))  # some cells are longer
    assert lengths.min() < limit < lengths.max()
    expected = embedded(data, tmp_path, max_length=limit)
    rng = np.random.default_rng(3)
    for cells, genes in (
        (np.arange(80), np.arange(120)),
        (rng.permutation(80), rng.permutation(120)),
        (rng.permutation(80)[:30], rng.permutation(120)),
    ):
        some = data[cells][:, genes].copy()
        some.obs_names = [f"renamed {name}" for name in some.obs_names]
        found = vectors(zero_shot(tmp_path, some, max_length=limit, batch_size=7), some)
        assert np.abs(found.to_numpy() - expected.iloc[cells].to_numpy()).max() < 1e-6
    # Which genes are kept matters by far more than that.
    other = vectors(zero_shot(tmp_path, data, max_length=limit, seed=6), data)
    assert np.abs(other - expected).to_numpy().max() > 1e-3


def test_zero_shot_reads_cells_as_embed_does_by_default(toy, tmp_path):
    data, _ = toy
    pretrained(tmp_path, [f"G{i:03d}" for i in range(120)])
    found, expected = vectors(zero_shot(tmp_path, data), data), embedded(data, tmp_path)
    assert np.abs(found - expected).to_numpy().max() < 1e-6


def test_random_weights_are_read_by_the_same_encoder(toy):
    data, _ = toy
    method = fitted(data, {**SIZES, "max_length": 50}, found=ScGPTZeroShot, seed=5)
    found = vectors(method, data)
    assert np.abs(found - embedded(data, method.loaded, max_length=50)).to_numpy().max() < 1e-6
    assert method.receipt is None


def test_zero_shot_says_what_it_could_not_read(toy, tmp_path):
    data = toy[0].copy()
    pretrained(tmp_path, [f"G{i:03d}" for i in range(40)])
    data.X.data[: data.X.indptr[2]] = 0
    method = zero_shot(tmp_path, data)
    found = vectors(method, data)
    assert "80 of 120 genes are not in the vocabulary" in method.notes[0]
    assert method.notes[1].startswith("2 of 120 cells express no gene")
    assert np.array_equal(found.iloc[0], found.iloc[1])
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    data.var_names = [f"X{i}" for i in range(120)]
    with pytest.raises(DataError, match="0 of 120 genes are in the model's vocabulary"):
        zero_shot(tmp_path, data)


def test_zero_shot_uses_the_loaded_weights_as_they_are(toy, tmp_path):
    data, _ = toy
    source = pretrained(tmp_path, [f"G{i:03d}" for i in range(120)])
    method = zero_shot(tmp_path, data)
    state = method.loaded.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in source.state_dict().items())
    assert method.receipt.count("missing") == 0
