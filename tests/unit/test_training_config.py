from __future__ import annotations

import math

import pytest
import torch

from scgpt.errors import ConfigError, DataError
from scgpt.training.config import TrainingConfig
from scgpt.training.determinism import derive_seed, isolated_torch, numpy_generator, reseed
from scgpt.training.optim import Precision, apply_gradients, build_optimizer, learning_rate

CPU = Precision("cpu", None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("accumulate", 0),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("lr_decay", 1.5),
        ("gradient_clip", -1.0),
        ("schedule", "linear"),
        ("amp", "fp8"),
        ("selection_mode", "largest"),
        ("checkpoint_steps", 0),
    ],
)
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=option):
        TrainingConfig(**{option: value})


def test_step_schedule_equals_pytorchs_step_lr():
    config = TrainingConfig(learning_rate=1e-3, lr_decay=0.9)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
    for epoch in range(5):
        expected = optimizer.param_groups[0]["lr"]
        for step in range(3):
            found = learning_rate(config, epoch=epoch, step=epoch * 3 + step, total_steps=15)
            assert found == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_warmup_is_linear_and_reaches_the_rate():
    config = TrainingConfig(learning_rate=1.0, schedule="constant", warmup_steps=4)
    rates = [learning_rate(config, epoch=0, step=s, total_steps=10) for s in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_falls_from_the_rate_to_zero_after_warmup():
    config = TrainingConfig(learning_rate=2.0, schedule="cosine", warmup_steps=10)
    rates = [learning_rate(config, epoch=0, step=s, total_steps=110) for s in range(110)]
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert 0 < rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_adam_epsilon_depends_on_precision():
    model = torch.nn.Linear(2, 1)
    config = TrainingConfig()
    assert build_optimizer(model, config, CPU).defaults["eps"] == 1e-8
    mixed = Precision("cuda", torch.float16)
    assert build_optimizer(model, config, mixed).defaults["eps"] == 1e-4
    own = TrainingConfig(adam_eps=1e-6)
    assert build_optimizer(model, own, mixed).defaults["eps"] == 1e-6


def test_mixed_precision_depends_on_the_device(caplog):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for amp, device, dtype in (
        ("off", cpu, None),
        ("bf16", cpu, torch.bfloat16),
        ("off", gpu, None),
        ("bf16", gpu, torch.bfloat16),
        ("fp16", gpu, torch.float16),
    ):
        chosen = Precision.choose(TrainingConfig(amp=amp), device)
        assert chosen == Precision(device.type, dtype)
        assert chosen.scaler().is_enabled() == (amp == "fp16" and torch.cuda.is_available())
    with pytest.raises(
        ConfigError, match=r"amp='fp16' is impossible on the device 'cpu'; use 'bf1"
    ):
        Precision.choose(TrainingConfig(amp="fp16"), cpu)
    with caplog.at_level("INFO"):
        portable = TrainingConfig(amp="fp16", amp_required=False)
        assert Precision.choose(portable, cpu) == CPU
    assert "no effect on cpu" in caplog.text
    assert Precision.choose(portable, gpu).dtype == torch.float16


def test_a_fully_frozen_network_is_refused():
    model = torch.nn.Linear(2, 1).requires_grad_(requires_grad=False)
    with pytest.raises(ConfigError, match="frozen"):
        build_optimizer(model, TrainingConfig(), CPU)


def test_gradients_are_clipped_to_the_norm_and_cleared():
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 10.0)
    optimizer = torch.optim.SGD([parameter], lr=9.0)
    apply_gradients(optimizer, CPU.scaler(), rate=1.0, clip=1.0, where="here")
    assert torch.linalg.vector_norm(parameter.detach()).item() == pytest.approx(1.0, rel=1e-4)
    assert parameter.grad is None


def test_an_infinite_gradient_is_an_error_in_single_precision():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, math.inf])
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    with pytest.raises(DataError, match="epoch 1, step 3"):
        apply_gradients(optimizer, CPU.scaler(), rate=1.0, clip=None, where="epoch 1, step 3")
    assert torch.equal(parameter.detach(), torch.zeros(2))


def test_an_overflow_under_loss_scaling_skips_the_step_and_lowers_the_scale():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((parameter * math.inf).sum()).backward()
    apply_gradients(optimizer, scaler, rate=1.0, clip=1.0, where="here")
    assert torch.equal(parameter.detach(), torch.ones(2))
    assert scaler.get_scale() == 4.0
    scaler.scale(parameter.sum()).backward()
    apply_gradients(optimizer, scaler, rate=1.0, clip=None, where="here")
    assert torch.allclose(parameter.detach(), torch.zeros(2))


def test_clipping_sees_the_gradient_without_the_loss_scale():
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(parameter.sum()).backward()
    apply_gradients(optimizer, scaler, rate=1.0, clip=1.0, where="here")
    assert torch.allclose(parameter.detach(), torch.full((4,), -0.5), atol=1e-4)


def test_derived_seeds_are_stable_and_separate():
    assert derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
    seeds = {
        derive_seed(0, "order", 1),
        derive_seed(1, "order", 0),
        derive_seed(0, "order", 11),
        derive_seed(0, "order", 1, 1),
        derive_seed(0, "order", "1"),
        derive_seed(0, "mask", 1),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert numpy_generator(3, "a").integers(1 << 30) == numpy_generator(3, "a").integers(1 << 30)


def test_isolation_gives_generators_and_threads_back():
    threads = torch.get_num_threads()
    before = torch.get_rng_state()
    with isolated_torch("cpu", threads=1):
        reseed(0, "x")
        first = torch.rand(3)
        reseed(0, "x")
        assert torch.equal(first, torch.rand(3))
        assert torch.get_num_threads() == 1
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
