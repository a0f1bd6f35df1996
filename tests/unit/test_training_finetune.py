from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.nn import functional as F

from scgpt.errors import ConfigError
from scgpt.model import objectives as formulas
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.tokens.tokens import tokenize
from scgpt.training.batches import BatchOptions, CellBatches
from scgpt.training.config import TrainingConfig
from scgpt.training.determinism import isolated_torch
from scgpt.training.finetune import (
    ANNOTATION,
    INTEGRATION,
    MULTIOMIC,
    OBJECTIVES,
    FinetuneLoss,
    FinetuneRecipe,
    freeze_encoders,
)
from scgpt.training.inference import run_cell_heads
from scgpt.training.loop import train

N_GENES, N_CELLS, N_TYPES, N_BATCHES = 20, 24, 3, 2
ALL = {"gep": 0.5, "gepc": 2.0, "ecs": 10.0, "cce": 3.0, "cls": 1.5, "dar": 0.25}


@pytest.fixture(autouse=True)
def one_thread():
    with isolated_torch("cpu", threads=1):
        yield


def model_for(recipe, *, dropout=0.0, seed=0):
    options = recipe.model_options(n_classes=N_TYPES, n_batch_labels=N_BATCHES)
    config = ScGPTConfig(
        n_tokens=N_GENES + 2,
        pad_id=N_GENES,
        d_model=16,
        n_heads=2,
        n_layers=2,
        d_ff=16,
        dropout=dropout,
        **options,
    )
    return ScGPT(config, seed=seed)


def batches_for(recipe, **more):
    rng = np.random.default_rng(0)
    types = np.arange(N_CELLS) % N_TYPES
    means = rng.gamma(1.0, 4.0, (N_TYPES, N_GENES))
    values = rng.poisson(means[types]).clip(0, 50).astype(np.float32)
    cells = tokenize(csr_matrix(values), np.arange(N_GENES), cls_id=N_GENES + 1)
    batch_labels = np.arange(N_CELLS) // 2 % N_BATCHES
    return CellBatches(
        cells,
        pad_id=N_GENES,
        options=BatchOptions(batch_size=8, mask_ratio=recipe.mask_ratio, **more),
        labels=types,
        batch_labels=batch_labels,
        groups=batch_labels if recipe.input_norm == "dsbn" else None,
    )


def test_presets_follow_the_published_recipes():
    assert ANNOTATION.active == {"cls": 1.0}
    assert ANNOTATION.mask_ratio == 0
    assert INTEGRATION.active == {"gep": 1.0, "gepc": 1.0, "ecs": 10.0, "dar": 1.0}
    assert (INTEGRATION.mask_ratio, INTEGRATION.ecs_threshold) == (0.4, 0.8)
    assert INTEGRATION.explicit_zero
    assert INTEGRATION.input_norm == "dsbn"
    assert MULTIOMIC.active == {"gep": 1.0, "gepc": 1.0, "dar": 1.0}
    assert not MULTIOMIC.explicit_zero


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": {"clss": 1.0}}, "unknown objective 'clss'.*gep, gepc, ecs, cce, cls, dar"),
        ({"objectives": {"cls": -1.0}}, "weights >= 0"),
        ({"objectives": {"cls": 0.0}}, "one above 0"),
        ({"objectives": {"cls": float("nan")}}, "weights >= 0"),
        ({"objectives": {"gep": 1.0}}, "'gep' needs 0 < mask_ratio"),
    ],
)
def test_impossible_recipes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneRecipe(**options)


def test_a_recipe_says_what_the_network_needs():
    with pytest.raises(ConfigError, match="batch of every cell"):
        INTEGRATION.model_options(n_classes=3)
    with pytest.raises(ConfigError, match="two classes"):
        ANNOTATION.model_options(n_classes=1)
    assert ANNOTATION.model_options(n_classes=3)["gepc"] is None
    assert ANNOTATION.heads == ("cls",)
    assert INTEGRATION.heads == ("gep", "gepc", "dar", "cell_embedding")
    assert INTEGRATION.model_options(n_classes=9, n_batch_labels=2)["n_classes"] == 0


def test_the_fingerprint_sees_every_option():
    recipes = [
        ANNOTATION,
        FinetuneRecipe(objectives={"cls": 2.0}),
        FinetuneRecipe(freeze_encoders=True),
        INTEGRATION,
        MULTIOMIC,
    ]
    assert len({recipe.fingerprint for recipe in recipes}) == len(recipes)


def test_the_loss_is_the_weighted_sum_of_hand_computed_terms():
    recipe = FinetuneRecipe(objectives=ALL, mask_ratio=0.4, explicit_zero=True, ecs_threshold=0.6)
    model = model_for(recipe).eval()
    batch = next(batches_for(recipe).epoch(0))
    loss, values = FinetuneLoss(recipe)(model, batch)
    out = model(
        batch.gene_ids_BL,
        batch.values_BL,
        batch.padding_BL,
        batch_labels_B=batch.batch_labels_B,
        heads=("gep", "gepc", "cls", "dar", "cell_embedding"),
    )
    mask, target = batch.mask_BL, batch.targets_BL
    expected = {
        "gep": F.mse_loss(out["gep"][mask], target[mask]),
        "gep_zero": F.binary_cross_entropy(out["gep_zero_prob"][mask], (target[mask] > 0).float()),
        "gepc": F.mse_loss(out["gepc"][mask], target[mask]),
        "gepc_zero": F.binary_cross_entropy(
            out["gepc_zero_prob"][mask], (target[mask] > 0).float()
        ),
        "ecs": formulas.ecs(out["cell_embedding"], 0.6),
        "cce": formulas.cce(out["cell_embedding"], out["cell_embedding"]),
        "cls": F.cross_entropy(out["cls"], batch.labels_B),
        "dar": F.cross_entropy(out["dar"], batch.batch_labels_B),
    }
    assert list(values) == list(expected)
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value.item(), rel=1e-4), name
    weighted = sum(ALL[name.removesuffix("_zero")] * value for name, value in expected.items())
    assert loss.item() == pytest.approx(weighted.item(), rel=1e-5)


@pytest.mark.parametrize("buckets", [False, True])
def test_predicting_masked_positions_alone_changes_no_loss_and_no_gradient(buckets):
    recipe = FinetuneRecipe(objectives=ALL, mask_ratio=0.4, explicit_zero=True)
    model = model_for(recipe).eval()
    batch = next(batches_for(recipe, buckets=buckets).epoch(0))
    assert batch.is_masked_BM.shape[1] < batch.gene_ids_BL.shape[1] / 2
    everywhere = dataclasses.replace(batch, positions_BM=None, is_masked_BM=None)
    found = []
    for one in (batch, everywhere):
        loss, values = FinetuneLoss(recipe)(model, one)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append([loss, *values.values(), *gradients])
    for some, full in zip(*found, strict=True):
        assert torch.allclose(some, full, rtol=1e-4, atol=1e-6)


def test_an_objective_of_weight_zero_costs_nothing():
    recipe = FinetuneRecipe(objectives={"cls": 1.0, "gepc": 0.0, "ecs": 0.0})
    model = model_for(recipe)
    assert model.gepc is None
    loss, values = FinetuneLoss(recipe)(model, next(batches_for(recipe).epoch(0)))
    assert list(values) == ["cls"]
    assert loss.item() == values["cls"].item()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_the_transformer(objective):
    masked = 0.4 if objective in ("gep", "gepc") else 0.0
    recipe = FinetuneRecipe(objectives={objective: 1.0}, mask_ratio=masked)
    model = model_for(recipe, dropout=0.1)
    loss, _ = FinetuneLoss(recipe)(model, next(batches_for(recipe).epoch(0)))
    loss.backward()
    gradient = model.transformer.layers[0].attention.qkv.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_dar_pushes_the_network_away_from_its_own_discriminator():
    recipe = FinetuneRecipe(objectives={"dar": 1.0})
    model = model_for(recipe).eval()
    batch = next(batches_for(recipe).epoch(0))
    FinetuneLoss(recipe)(model, batch)[0].backward()
    before = FinetuneLoss(recipe)(model, batch)[1]["dar"].item()
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    assert FinetuneLoss(recipe)(model, batch)[1]["dar"].item() > before


def test_missing_labels_and_masks_are_named():
    recipe = FinetuneRecipe(objectives={"cls": 1.0, "dar": 1.0})
    model = model_for(recipe)
    source = batches_for(recipe)
    source.labels = None
    with pytest.raises(ConfigError, match="'cls' needs the class"):
        FinetuneLoss(recipe)(model, next(source.epoch(0)))
    masked = FinetuneRecipe(objectives={"gep": 1.0}, mask_ratio=0.4)
    unmasked = next(batches_for(recipe).epoch(0))
    with pytest.raises(ConfigError, match="'gep' needs masked values"):
        FinetuneLoss(masked)(model_for(masked), unmasked)


def test_integration_objectives_improve_together():
    recipe = INTEGRATION
    model = model_for(recipe)
    source = batches_for(recipe, redraw_masks=False)
    result = train(
        model,
        loss_fn=FinetuneLoss(recipe),
        train_batches=source,
        valid_batches=source,
        config=TrainingConfig(epochs=12, learning_rate=3e-3, selection="gep"),
        seed=0,
        fingerprint=recipe.fingerprint,
    )
    for name in ("gep", "gepc", "gep_zero", "gepc_zero"):
        curve = [
            r["value"] for r in result.history if r["phase"] == "valid" and r["objective"] == name
        ]
        assert curve[-1] < 0.9 * curve[0], name
    best = [r["value"] for r in result.history if (r["phase"], r["objective"]) == ("valid", "gep")]
    assert result.best_value == min(best)


def test_bf16_trains_on_a_cpu_and_stays_close_to_single_precision():
    recipe = FinetuneRecipe(objectives=ALL, mask_ratio=0.4, explicit_zero=True)

    def learn(amp):
        # The same Adam for both: its epsilon would follow the precision.
        config = TrainingConfig(
            epochs=6, learning_rate=3e-3, amp=amp, adam_eps=1e-4, gradient_clip=None
        )
        model = model_for(recipe)
        source = batches_for(recipe, redraw_masks=False)
        result = train(
            model,
            loss_fn=FinetuneLoss(recipe),
            train_batches=source,
            valid_batches=source,
            config=config,
            seed=0,
        )
        rows = [row for row in result.history if row["phase"] == "valid"]
        return np.array([row["value"] for row in rows if row["objective"] == "loss"]), model

    exact, single = learn("off")
    curve, model = learn("bf16")
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert curve[-1] < 0.9 * curve[0]
    assert not np.array_equal(curve, exact)
    np.testing.assert_allclose(curve, exact, rtol=0.02)
    fine, rough = (
        run_cell_heads(model, batches_for(recipe), heads=("cls",), config=TrainingConfig(amp=amp))
        for amp in ("off", "bf16")
    )
    assert not np.array_equal(rough["cls"], fine["cls"])
    np.testing.assert_allclose(rough["cls"], fine["cls"], atol=0.02)
    moved = [
        (p.detach() - start).flatten()
        for net in (single, model)
        for p, start in zip(net.parameters(), model_for(recipe).parameters(), strict=True)
    ]
    half = len(moved) // 2
    cosine = F.cosine_similarity(torch.cat(moved[:half]), torch.cat(moved[half:]), dim=0)
    assert cosine > 0.95


def test_freezing_keeps_encoders_and_trains_the_rest():
    recipe = FinetuneRecipe(objectives={"cls": 1.0}, freeze_encoders=True)
    model = model_for(recipe)
    frozen = freeze_encoders(model)
    assert {name.split(".")[0] for name in frozen} == {
        "gene_encoder",
        "value_encoder",
        "batch_encoder",
    }
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(
        model,
        loss_fn=FinetuneLoss(recipe),
        train_batches=batches_for(recipe),
        valid_batches=None,
        config=TrainingConfig(epochs=1, learning_rate=1e-2),
        seed=0,
    )
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert not changed & set(frozen)
    assert {"transformer.layers.0.attention.qkv.weight", "cls.out.weight"} <= changed


def test_inference_returns_cells_in_their_order_whatever_the_batches():
    recipe = FinetuneRecipe(objectives={"cls": 1.0})
    model = model_for(recipe, dropout=0.5)
    plain = batches_for(recipe, shuffle=False)
    shuffled = batches_for(recipe, shuffle=True, buckets=True)
    heads = ("cls", "cell_embedding")
    first = run_cell_heads(model, plain, heads=heads)
    second = run_cell_heads(model, shuffled, heads=heads)
    for name, width in zip(heads, (N_TYPES, 16), strict=True):
        assert first[name].shape == (N_CELLS, width)
        assert np.allclose(first[name], second[name], atol=1e-5)
        assert len(np.unique(first[name][:, 0])) == N_CELLS
