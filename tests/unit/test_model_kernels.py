"""The merged attention kernel against the plain formula, in values and in gradients."""

from __future__ import annotations

import pytest
import torch

from scgpt.model.attention import attend_known_and_self, known_and_self_weights
from scgpt.model.attention_kernels import can_merge, merged_attention

Tensors = tuple[torch.Tensor, ...]


def draw(n_known: int, n_unknown: int, *, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(n_known)
    lengths = (n_unknown, n_unknown, n_unknown, n_known, n_known)
    return tuple(
        (2 * torch.randn(3, 4, length, 8, generator=generator)).to(dtype).requires_grad_()
        for length in lengths
    )


def padding(n_known: int) -> torch.Tensor:
    lengths = torch.tensor([n_known, max(1, n_known // 2), 1])
    return (torch.arange(n_known) < lengths[:, None])[:, None, None, :]


def plain(tensors: Tensors, allowed: torch.Tensor | None) -> torch.Tensor:
    q, own_k, own_v, k, v = tensors
    weights = known_and_self_weights((q, own_k, own_v), k, allowed)
    return weights[..., :-1] @ v + weights[..., -1:] * own_v


def merged(tensors: Tensors, allowed: torch.Tensor | None) -> torch.Tensor:
    return merged_attention(tensors[:3], *tensors[3:], allowed)


@pytest.fixture(autouse=True)
def _kernel_present():
    if not can_merge(torch.zeros(1), torch.zeros(1)):
        pytest.skip("this PyTorch has no fused attention for the CPU; the plain formula is used")


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("n_known", "n_unknown"), [(1, 1), (7, 5), (64, 33), (130, 1)])
def test_values_and_gradients_are_those_of_the_plain_formula(
    n_known: int, n_unknown: int, masked: bool
) -> None:
    allowed = padding(n_known) if masked else None
    tensors = draw(n_known, n_unknown)
    weight = torch.randn(3, 4, n_unknown, 8, generator=torch.Generator().manual_seed(9))
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in tensors)
    results = []
    for function, given in ((plain, exact), (merged, tensors)):
        output = function(given, allowed)
        results.append((output, *torch.autograd.grad(output, given, weight.to(output.dtype))))
    for expected, ours in zip(*results, strict=True):
        scale = max(1.0, float(expected.detach().abs().max()))
        assert float((expected - ours).detach().abs().max()) < 5e-6 * scale


def test_padded_keys_get_no_gradient() -> None:
    tensors, allowed = draw(7, 5), padding(7)
    output = merged(tensors, allowed)
    for gradient in torch.autograd.grad(output.square().sum(), tensors[3:]):
        hidden = ~allowed[:, 0, 0, :, None, None].expand(3, 7, 4, 8)
        assert not gradient.transpose(1, 2)[hidden].any()


def test_a_dominant_own_key_is_kept() -> None:
    """Extreme scores must not overflow: the own key takes everything, or nothing."""
    q, _, own_v, k, v = draw(6, 2)
    for sign, expected in ((1.0, own_v), (-1.0, None)):
        strong = (sign * 1e4 * q.detach()).requires_grad_()
        output = merged((q, strong, own_v, k, v), None)
        assert bool(output.isfinite().all())
        if expected is not None:
            assert torch.allclose(output, expected, atol=1e-5)
        else:
            alone = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            assert torch.allclose(output, alone, atol=1e-5)
        gradients = torch.autograd.grad(output.sum(), (q, strong, own_v, k, v))
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_half_precision_is_close() -> None:
    tensors = draw(64, 33, dtype=torch.bfloat16)
    output = merged(tensors, padding(64))
    assert output.dtype == torch.bfloat16
    exact = plain(tuple(tensor.float() for tensor in tensors), padding(64))
    assert float((output.float() - exact).detach().abs().max()) < 0.05
    gradients = torch.autograd.grad(output.float().square().sum(), tensors)
    expected = torch.autograd.grad(exact.square().sum(), tensors)
    for ours, theirs in zip(gradients, expected, strict=True):
        cosine = torch.cosine_similarity(ours.float().flatten(), theirs.float().flatten(), dim=0)
        assert float(cosine) > 0.999


def test_empty_groups_take_the_plain_way() -> None:
    q, own_k, own_v, k, v = draw(4, 0)
    assert not can_merge(q, k)
    assert attend_known_and_self((q, own_k, own_v), k, v, padding(4)).shape == (3, 4, 0, 8)
    q, own_k, own_v, k, v = draw(0, 3)
    assert not can_merge(q, k)
    assert torch.allclose(attend_known_and_self((q, own_k, own_v), k, v, None), own_v)


def test_other_precisions_and_dropout_take_the_plain_way() -> None:
    assert not can_merge(*[torch.zeros(1, dtype=torch.float64)] * 2)
    tensors = [tensor.detach().double() for tensor in draw(7, 5)]
    output = attend_known_and_self(tuple(tensors[:3]), *tensors[3:], padding(7))
    assert torch.allclose(output, plain(tuple(tensors), padding(7)))
    torch.manual_seed(0)
    dropped = attend_known_and_self(tuple(tensors[:3]), *tensors[3:], None, dropout=0.5)
    assert not torch.allclose(dropped, plain(tuple(tensors), None))
