"""How ids, values and labels become vectors."""

from __future__ import annotations

import pytest
import torch

from scgpt.errors import DataError
from scgpt.model.config import ScGPTConfig
from scgpt.model.embedding import (
    BATCH_NORM_EPS,
    CategoryValueEncoder,
    ContinuousValueEncoder,
    DomainBatchNorm,
    PlainBatchNorm,
    ScalingValueEncoder,
    build_value_encoder,
)
from scgpt.model.scgpt import ScGPT


def config(**options: object) -> ScGPTConfig:
    sizes = {"n_tokens": 20, "pad_id": 19, "d_model": 8, "n_heads": 2, "n_layers": 1, "d_ff": 8}
    return ScGPTConfig(**(sizes | options))


def test_continuous_values_are_clipped_from_above_only() -> None:
    torch.manual_seed(0)
    encoder = ContinuousValueEncoder(8, dropout=0.0)
    assert torch.equal(encoder(torch.tensor([[512.0]])), encoder(torch.tensor([[9999.0]])))
    assert not torch.allclose(encoder(torch.tensor([[511.0]])), encoder(torch.tensor([[512.0]])))
    numbers = encoder(torch.tensor([[-2.0, -1.0, 0.0]]))[0]
    assert len(torch.unique(numbers, dim=0)) == 3


def test_continuous_values_follow_the_formula() -> None:
    torch.manual_seed(0)
    encoder = ContinuousValueEncoder(8, dropout=0.0)
    inner = torch.relu(3.0 * encoder.linear_1.weight[:, 0] + encoder.linear_1.bias)
    outer = encoder.linear_2.weight @ inner + encoder.linear_2.bias
    expected = (outer - outer.mean()) / (outer.var(correction=0) + 1e-5).sqrt()
    assert torch.allclose(encoder(torch.tensor([[3.0]]))[0, 0], expected, atol=1e-5)


def test_category_values_have_rows_for_bins_padding_and_mask() -> None:
    encoder = build_value_encoder(
        config(value_encoding="category", n_bins=5, pad_value=5, mask_value=6)
    )
    assert isinstance(encoder, CategoryValueEncoder)
    assert encoder.table.weight.shape == (7, 8)
    values = torch.tensor([[0.0, 4.0, 5.0, 6.0]])
    assert len(torch.unique(encoder(values)[0], dim=0)) == 4
    encoder(values)[..., 0].sum().backward()
    gradients = encoder.table.weight.grad.abs().sum(dim=1)
    assert gradients[5] == 0
    assert (gradients[[0, 4, 6]] > 0).all()


def test_scaling_multiplies_the_gene_vector() -> None:
    genes = torch.randn(1, 2, 8)
    scaled = ScalingValueEncoder().combine(genes, torch.tensor([[2.0, -1.0]]))
    assert torch.equal(scaled, torch.stack([2 * genes[:, 0], -genes[:, 1]], dim=1))


def test_plain_batch_norm_counts_every_position_of_every_cell() -> None:
    norm = PlainBatchNorm(8).train()
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    flat = x.reshape(15, 8)
    expected = (flat - flat.mean(0)) / (flat.var(0, correction=0) + BATCH_NORM_EPS).sqrt()
    assert torch.allclose(norm(x).reshape(15, 8), expected, atol=1e-5)
    assert torch.allclose(norm.running_mean, 0.1 * flat.mean(0), atol=1e-6)


def test_dsbn_goes_by_the_first_cell_of_the_mini_batch() -> None:
    norm = DomainBatchNorm(8, n_batch_labels=3).train()
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    mixed = norm(x, torch.tensor([1, 0, 0, 2]))
    flat = x.reshape(20, 8)
    expected = (flat - flat.mean(0)) / (flat.var(0, correction=0) + BATCH_NORM_EPS).sqrt()
    assert torch.allclose(mixed.reshape(20, 8), expected, atol=1e-5)
    changed = [bool(one.running_mean.abs().sum() > 0) for one in norm.by_batch]
    assert changed == [False, True, False]
    assert not list(norm.parameters())


def test_dsbn_normalises_with_running_statistics_in_evaluation() -> None:
    norm = DomainBatchNorm(8, n_batch_labels=2).eval()
    norm.by_batch[1].running_mean.fill_(3.0)
    norm.by_batch[1].running_var.fill_(4.0)
    x = torch.full((2, 3, 8), 5.0)
    expected = 2.0 / (4.0 + BATCH_NORM_EPS) ** 0.5
    assert torch.allclose(norm(x, torch.tensor([1, 0])), torch.full_like(x, expected))
    assert not torch.allclose(norm(x, torch.tensor([0, 1])), torch.full_like(x, expected))


@pytest.mark.parametrize("label", [2, -1])
def test_dsbn_refuses_batches_it_has_no_statistics_for(label: int) -> None:
    norm = DomainBatchNorm(8, n_batch_labels=2).eval()
    with pytest.raises(DataError, match=f"batch {label} has no statistics.*batches 0 to 1"):
        norm(torch.zeros(1, 2, 8), torch.tensor([label]))


def test_gene_vectors_are_normalised_rows_of_the_table() -> None:
    model = ScGPT(config()).eval()
    rows = model.gene_encoder.table.weight[[3, 7]]
    expected = torch.nn.functional.layer_norm(rows, (8,))
    genes, _ = model.embed(torch.tensor([[3, 7]]), torch.zeros(1, 2))
    assert torch.allclose(genes[0], expected, atol=1e-6)


def test_the_gene_table_starts_uniform_and_its_padding_row_gets_no_gradient() -> None:
    model = ScGPT(config(n_tokens=2000, pad_id=5))
    table = model.gene_encoder.table.weight
    assert 0.09 < float(table.detach().abs().max()) <= 0.1
    assert float(table.detach().mean().abs()) < 2e-3
    assert bool((table[5] != 0).all())
    model(torch.tensor([[5, 6]]), torch.ones(1, 2))["gep"].sum().backward()
    assert float(table.grad[5].abs().sum()) == 0
    assert float(table.grad[6].abs().sum()) > 0


def test_attention_starts_xavier_uniform_without_biases() -> None:
    attention = ScGPT(config(d_model=64, n_heads=4)).transformer.layers[0].attention
    bound = (6 / (64 + 3 * 64)) ** 0.5
    largest = float(attention.qkv.weight.detach().abs().max())
    assert 0.98 * bound < largest <= bound
    assert not attention.qkv.bias.any()
    assert not attention.out.bias.any()


def test_unperturbed_genes_add_nothing_in_the_recipe() -> None:
    model = ScGPT(config(n_perturbation_flags=3, perturbation_pad_id=0, gep="affine")).eval()
    ids, values = torch.tensor([[1, 2]]), torch.ones(1, 2)
    plain = model.gene_encoder(ids) + model.value_encoder(values)
    _, unperturbed = model.embed(ids, values, perturbation_flags_BL=torch.tensor([[0, 0]]))
    _, perturbed = model.embed(ids, values, perturbation_flags_BL=torch.tensor([[0, 1]]))
    assert torch.equal(unperturbed, plain)
    assert torch.equal(perturbed[:, 0], plain[:, 0])
    added = perturbed[:, 1] - plain[:, 1]
    assert torch.allclose(added, model.perturbation_encoder.weight[1], atol=1e-6)


@pytest.mark.parametrize("style", ["continuous", "category", "scaling"])
def test_every_value_encoding_tells_values_apart(style: str) -> None:
    model = ScGPT(config(value_encoding=style, pad_value=51, mask_value=52)).eval()
    ids = torch.tensor([[1, 2, 3]])
    one = model(ids, torch.tensor([[0.0, 1.0, 2.0]]))["gep"]
    two = model(ids, torch.tensor([[0.0, 2.0, 1.0]]))["gep"]
    assert not torch.allclose(one, two)
