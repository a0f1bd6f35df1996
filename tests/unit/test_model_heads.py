"""The heads against their formulas."""

from __future__ import annotations

import pytest
import torch

from scgpt.errors import ConfigError
from scgpt.model.heads import (
    AffineExpressionDecoder,
    BatchDiscriminator,
    CellExpressionDecoder,
    Classifier,
    ExpressionDecoder,
    QueryExpressionDecoder,
    reverse_gradient,
)

D_MODEL = 8


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_reversed_gradient_is_minus_the_factor() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 4.0])).sum().backward()
    assert torch.equal(x.grad, torch.tensor([-1.5, -2.0]))


def test_the_discriminator_learns_while_the_network_unlearns() -> None:
    discriminator = BatchDiscriminator(D_MODEL, 3)
    plain = Classifier(D_MODEL, 3, n_layers=3, activation=torch.nn.LeakyReLU)
    plain.load_state_dict(discriminator.state_dict())
    cells = [draw(4, D_MODEL).requires_grad_() for _ in range(2)]
    for head, x in zip((discriminator, plain), cells, strict=True):
        torch.nn.functional.cross_entropy(head(x), torch.tensor([0, 1, 2, 0])).backward()
    assert torch.allclose(cells[0].grad, -cells[1].grad)
    assert float(cells[0].grad.abs().max()) > 0
    assert torch.allclose(discriminator.out.weight.grad, plain.out.weight.grad)


def test_gepc_is_w_q_times_c() -> None:
    head = CellExpressionDecoder(D_MODEL, 2 * D_MODEL, explicit_zero=True, detach=False)
    cell, genes = draw(2, 2 * D_MODEL), draw(2, 5, D_MODEL, seed=2)
    query = torch.sigmoid(head.gene_query(genes))
    prediction, probability = head(cell, genes)
    expected = (head.expression(query) * cell.unsqueeze(1)).sum(-1)
    assert torch.allclose(prediction, expected, atol=1e-5)
    logit = (head.nonzero(query) * cell.unsqueeze(1)).sum(-1)
    assert torch.allclose(probability, torch.sigmoid(logit), atol=1e-6)


@pytest.mark.parametrize("detach", [True, False])
def test_detached_gepc_stops_the_gradient_into_genes(detach: bool) -> None:
    head = CellExpressionDecoder(D_MODEL, D_MODEL, explicit_zero=False, detach=detach)
    cell, genes = draw(2, D_MODEL).requires_grad_(), draw(2, 5, D_MODEL).requires_grad_()
    head(cell, genes)[0].sum().backward()
    assert (genes.grad is None) == detach
    assert float(cell.grad.abs().max()) > 0
    assert float(head.gene_query.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("concat", [True, False])
def test_query_decoders_use_gene_and_cell(concat: bool) -> None:
    head = QueryExpressionDecoder(D_MODEL, concat=concat)
    cell, genes = draw(2, D_MODEL), draw(2, 5, D_MODEL, seed=2)
    prediction, probability = head(cell, genes)
    assert prediction.shape == (2, 5)
    assert probability is None
    assert not torch.allclose(prediction, head(cell + 1, genes)[0])
    assert not torch.allclose(prediction, head(cell, genes + 1)[0])


def test_expression_decoder_predicts_values_and_probabilities() -> None:
    head = ExpressionDecoder(D_MODEL, D_MODEL, explicit_zero=True)
    hidden = draw(2, 3, D_MODEL)
    prediction, probability = head(hidden, None)
    assert prediction.shape == probability.shape == (2, 3)
    assert bool(((probability > 0) & (probability < 1)).all())
    assert len(head.expression) == 5
    assert head.expression[1].negative_slope == 0.01


def test_affine_decoder_is_coefficient_times_value_plus_offset() -> None:
    head = AffineExpressionDecoder(
        D_MODEL, explicit_zero=False, activation=None, adaptive_bias=False
    )
    hidden, values = draw(2, 3, D_MODEL), draw(2, 3, seed=3)
    coefficient = head.coefficient.expression(hidden).squeeze(-1)
    offset = head.offset.expression(hidden).squeeze(-1)
    assert torch.allclose(head(hidden, values)[0], coefficient * values + offset, atol=1e-6)


def test_adaptive_bias_scales_with_the_mean_of_non_zero_values() -> None:
    head = AffineExpressionDecoder(
        D_MODEL, explicit_zero=False, activation="ReLU", adaptive_bias=True
    )
    hidden = draw(2, 3, D_MODEL)
    values = torch.tensor([[0.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    coefficient = torch.relu(head.coefficient.expression(hidden).squeeze(-1))
    offset = torch.relu(head.offset.expression(hidden).squeeze(-1))
    expected = coefficient * values + offset * torch.tensor([[3.0], [0.0]])
    assert torch.allclose(head(hidden, values)[0], expected, atol=1e-6)


def test_affine_zero_model_is_that_of_the_coefficient() -> None:
    head = AffineExpressionDecoder(
        D_MODEL, explicit_zero=True, activation=None, adaptive_bias=False
    )
    hidden, values = draw(2, 3, D_MODEL), draw(2, 3)
    expected = torch.sigmoid(head.coefficient.nonzero(hidden)).squeeze(-1)
    assert torch.equal(head(hidden, values)[1], expected)


def test_unknown_activations_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'Relu6'.*known: ReLU"):
        AffineExpressionDecoder(
            D_MODEL, explicit_zero=False, activation="Relu6", adaptive_bias=False
        )


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_classifier_has_the_layers_asked_for(n_layers: int) -> None:
    head = Classifier(D_MODEL, 4, n_layers=n_layers, activation=torch.nn.ReLU)
    assert head(draw(2, D_MODEL)).shape == (2, 4)
    assert sum(isinstance(module, torch.nn.Linear) for module in head.modules()) == n_layers
