"""The objectives against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scgpt.model import objectives


def test_masked_mse_counts_only_the_mask() -> None:
    prediction = torch.tensor([[1.0, 2.0], [3.0, 1e6]])
    target = torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert float(objectives.masked_mse(prediction, target, mask)) == pytest.approx((1 + 4 + 0) / 3)


def test_masked_mse_of_nothing_is_nan() -> None:
    x = torch.ones(1, 2)
    assert math.isnan(float(objectives.masked_mse(x, x, torch.zeros(1, 2, dtype=torch.bool))))


def test_zero_nll_is_the_bernoulli_likelihood_of_a_value_above_zero() -> None:
    probability = torch.tensor([[0.9, 0.2, 0.5]])
    target = torch.tensor([[7.0, 0.0, -2.0]])
    mask = torch.tensor([[True, True, False]])
    expected = -(math.log(0.9) + math.log(0.8)) / 2
    assert float(objectives.zero_nll(probability, target, mask)) == pytest.approx(
        expected, rel=1e-6
    )


def test_zero_nll_of_a_confident_mistake_is_large_but_finite() -> None:
    value = objectives.zero_nll(torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.ones(1, 1))
    assert 15 < float(value) < 17


def test_zero_nll_agrees_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(5, 7, generator=generator)
    target = torch.randint(0, 3, (5, 7), generator=generator).float()
    expected = -torch.distributions.Bernoulli(probs=probability).log_prob((target > 0).float())
    value = objectives.zero_nll(probability, target, torch.ones(5, 7))
    assert float(value) == pytest.approx(float(expected.mean()), rel=1e-6)


def test_ecs_by_hand() -> None:
    # Cosines: (a, b) = 0, (a, c) = sqrt(1/2), (b, c) = sqrt(1/2); lengths do not matter.
    cells = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    threshold, cosine = 0.6, math.sqrt(0.5)
    diagonal = 3 * (1 - threshold**2)
    apart = 2 * (1 - threshold**2)
    near = 4 * (1 - (cosine - threshold) ** 2)
    expected = (diagonal + apart + near) / 9
    assert float(objectives.ecs(cells, threshold)) == pytest.approx(expected, rel=1e-6)


def test_ecs_treats_opposite_cells_as_unrelated() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    unrelated = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.equal(objectives.ecs(opposite, 0.3), objectives.ecs(unrelated, 0.3))


def test_ecs_does_not_pull_a_cell_towards_itself() -> None:
    cells = torch.tensor([[0.6, 0.8]], requires_grad=True)
    objectives.ecs(cells, 0.8).backward()
    assert float(cells.grad.abs().max()) == pytest.approx(0.0, abs=1e-6)


def test_cce_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # Similarities over 0.5: row 0 is (2, 2), row 1 is (0, 0): both rows are a coin toss.
    assert float(objectives.cce(first, second)) == pytest.approx(math.log(2))
    matched = math.log(1 + math.exp(-2))
    assert float(objectives.cce(first, first)) == pytest.approx(matched, rel=1e-6)


def test_classification_is_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    value = objectives.classification(logits, torch.tensor([1, 0]))
    assert float(value) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, rel=1e-6)


def test_losses_equal_the_official_functions(shared_dir) -> None:
    with np.load(shared_dir / "reference" / "data" / "data_main.npz") as stored:
        arrays = {
            name: torch.from_numpy(stored[name])
            for name in stored.files
            if name.startswith("loss.")
        }
    given = arrays["loss.in"], arrays["loss.target"], arrays["loss.mask"]
    assert float(objectives.masked_mse(*given)) == pytest.approx(
        float(arrays["loss.mse"]), rel=1e-6
    )
    probability = torch.sigmoid(arrays["loss.in"])
    nll = float(objectives.zero_nll(probability, *given[1:]))
    assert nll == pytest.approx(float(arrays["loss.bern"]), rel=1e-5)
