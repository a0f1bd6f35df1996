"""The heads on top of the transformer: expression, cell type, batch.

Shapes: B cells, L tokens including <cls>, M of them asked for, D width, S width with labels,
C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scgpt.errors import ConfigError
from scgpt.model.readout import at_positions

if TYPE_CHECKING:
    from scgpt.model.config import ScGPTConfig

N_LAYERS_DISCRIMINATOR = 3
QUERY_WIDTH = 64
ACTIVATIONS: dict[str, type[nn.Module]] = {
    activation.__name__.lower(): activation
    for activation in (
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU),
        *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity),
    )
}


def expression_mlp(n_inputs: int, d_model: int) -> nn.Sequential:
    """Return the three linear layers that predict one number per token."""
    return nn.Sequential(
        nn.Linear(n_inputs, d_model),
        nn.LeakyReLU(),
        nn.Linear(d_model, d_model),
        nn.LeakyReLU(),
        nn.Linear(d_model, 1),
    )


class ExpressionDecoder(nn.Module):
    """GEP: predict each token's value, and optionally its probability of being non-zero.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Gene expression prediction".
    """

    def __init__(self, n_inputs: int, d_model: int, *, explicit_zero: bool) -> None:
        super().__init__()
        self.expression = expression_mlp(n_inputs, d_model)
        self.nonzero = expression_mlp(n_inputs, d_model) if explicit_zero else None

    def forward(
        self,
        hidden_BMS: Tensor,
        values_BL: Tensor | None,
        positions_BM: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return predictions and probabilities of being non-zero, both (B, M)."""
        del values_BL, positions_BM
        prediction_BM = self.expression(hidden_BMS).squeeze(-1)
        if self.nonzero is None:
            return prediction_BM, None
        return prediction_BM, torch.sigmoid(self.nonzero(hidden_BMS)).squeeze(-1)


class AffineExpressionDecoder(nn.Module):
    """GEP of the perturbation model: coefficient times input value plus offset.

    The probability of being non-zero comes from the coefficient's decoder; the offset's one has
    the same tensors in official files and leaves them unused, and so does this class.

    Parameters
    ----------
    d_model
        Width.
    explicit_zero
        Whether to predict the probability of being non-zero.
    activation
        Name of a PyTorch activation put on both coefficient and offset, or None.
    adaptive_bias
        Whether the offset is multiplied by the mean of the cell's non-zero input values.
    """

    def __init__(
        self, d_model: int, *, explicit_zero: bool, activation: str | None, adaptive_bias: bool
    ) -> None:
        super().__init__()
        self.coefficient = ExpressionDecoder(d_model, d_model, explicit_zero=explicit_zero)
        self.offset = ExpressionDecoder(d_model, d_model, explicit_zero=explicit_zero)
        self.activation = build_activation(activation)
        self.adaptive_bias = adaptive_bias

    def forward(
        self,
        hidden_BMD: Tensor,
        values_BL: Tensor | None,
        positions_BM: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return predictions and probabilities of being non-zero, both (B, M)."""
        if values_BL is None:
            msg = "an affine GEP head scales the input values; none were given"
            raise ConfigError(msg)
        coefficient_BM, nonzero_BM = self.coefficient(hidden_BMD, None)
        offset_BM = self.activation(self.offset.expression(hidden_BMD).squeeze(-1))
        if self.adaptive_bias:
            # A cell without any non-zero value gets offset 0 here and NaN in the official code.
            n_nonzero_B1 = (values_BL != 0).sum(dim=1, keepdim=True).clamp(min=1)
            offset_BM = offset_BM * values_BL.sum(dim=1, keepdim=True) / n_nonzero_B1
        values_BM = at_positions(values_BL.unsqueeze(-1), positions_BM).squeeze(-1)
        return self.activation(coefficient_BM) * values_BM + offset_BM, nonzero_BM


def build_activation(name: str | None) -> nn.Module:
    """Return the activation called `name` (upper and lower case alike), or the identity."""
    if name is None:
        return nn.Identity()
    if name.lower() not in ACTIVATIONS:
        known = ", ".join(kind.__name__ for kind in ACTIVATIONS.values())
        msg = f"unknown decoder_activation {name!r}; known: {known}"
        raise ConfigError(msg)
    return ACTIVATIONS[name.lower()]()


class CellExpressionDecoder(nn.Module):
    """GEPC ("inner product"): predict each gene's value from the cell embedding alone.

    A query made from the gene's vector is compared with the cell embedding through a matrix W:
    prediction = (W q) . c, computed as q . (W' c), which is the same number and saves one matrix
    product per token.

    Parameters
    ----------
    gene_width
        Width of the gene vectors, labels included.
    cell_width
        Width of the cell embedding, labels included.
    explicit_zero
        Whether to predict the probability of being non-zero.
    detach
        Whether to stop the gradient into the gene vectors.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Gene expression prediction for cell
    modelling".
    """

    def __init__(
        self, gene_width: int, cell_width: int, *, explicit_zero: bool, detach: bool
    ) -> None:
        super().__init__()
        self.gene_query = nn.Linear(gene_width, gene_width)
        self.expression = nn.Linear(gene_width, cell_width, bias=False)
        self.nonzero = nn.Linear(gene_width, cell_width) if explicit_zero else None
        self.detach = detach

    def forward(self, cell_BS: Tensor, genes_BLS: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return predictions and probabilities of being non-zero, both (B, L)."""
        genes_BLS = genes_BLS.detach() if self.detach else genes_BLS
        query_BLS = torch.sigmoid(self.gene_query(genes_BLS))
        prediction_BL = _compare(query_BLS, cell_BS @ self.expression.weight)
        if self.nonzero is None:
            return prediction_BL, None
        logit_BL = _compare(query_BLS, cell_BS @ self.nonzero.weight)
        logit_BL = logit_BL + (cell_BS @ self.nonzero.bias).unsqueeze(1)
        return prediction_BL, torch.sigmoid(logit_BL)


def _compare(query_BLS: Tensor, cell_BS: Tensor) -> Tensor:
    return (query_BLS @ cell_BS.unsqueeze(-1)).squeeze(-1)


class QueryExpressionDecoder(nn.Module):
    """GEPC by a small network on the cell embedding and the gene's query.

    `concat query` puts the two side by side, `sum query` adds them. The official classes of these
    names cannot be run, so there are no weights to be compatible with; this is what they describe.
    """

    def __init__(self, d_model: int, *, concat: bool) -> None:
        super().__init__()
        self.concat = concat
        self.gene_query = nn.Linear(d_model, QUERY_WIDTH if concat else d_model)
        self.linear_1 = nn.Linear(d_model + QUERY_WIDTH if concat else d_model, QUERY_WIDTH)
        self.activation = nn.PReLU()
        self.linear_2 = nn.Linear(QUERY_WIDTH, 1)

    def forward(self, cell_BD: Tensor, genes_BLD: Tensor) -> tuple[Tensor, None]:
        """Return predictions of shape (B, L), and None for the missing zero model."""
        query_BLQ = torch.sigmoid(self.gene_query(genes_BLD))
        cell_BLD = cell_BD.unsqueeze(1).expand(-1, genes_BLD.shape[1], -1)
        both = torch.cat([cell_BLD, query_BLQ], dim=-1) if self.concat else cell_BLD + query_BLQ
        return self.linear_2(self.activation(self.linear_1(both))).squeeze(-1), None


class Classifier(nn.Module):
    """(Linear, activation, LayerNorm) blocks and a last Linear, on the cell embedding."""

    def __init__(
        self, d_model: int, n_classes: int, *, n_layers: int, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                module
                for _ in range(n_layers - 1)
                for module in (nn.Linear(d_model, d_model), activation(), nn.LayerNorm(d_model))
            )
        )
        self.out = nn.Linear(d_model, n_classes)

    def forward(self, cell_BD: Tensor) -> Tensor:
        """Return logits of shape (B, C)."""
        return self.out(self.blocks(cell_BD))


class BatchDiscriminator(Classifier):
    """DAR: guess the batch behind a gradient reversal, so that the network unlearns it.

    References
    ----------
    Ganin and Lempitsky 2015, Unsupervised Domain Adaptation by Backpropagation, arXiv:1409.7495.
    """

    def __init__(self, d_model: int, n_batch_labels: int) -> None:
        super().__init__(
            d_model, n_batch_labels, n_layers=N_LAYERS_DISCRIMINATOR, activation=nn.LeakyReLU
        )

    def forward(self, cell_BD: Tensor) -> Tensor:
        """Return logits of shape (B, P)."""
        return super().forward(reverse_gradient(cell_BD))


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * grad, None


def reverse_gradient(x: Tensor, factor: float = 1.0) -> Tensor:
    """Return `x` unchanged; its gradient is multiplied by minus `factor`."""
    return _ReverseGradient.apply(x, factor)


def build_gep(config: ScGPTConfig) -> nn.Module:
    """Return the GEP head that `config` names."""
    if config.gep == "affine":
        return AffineExpressionDecoder(
            config.d_model,
            explicit_zero=config.explicit_zero,
            activation=config.decoder_activation,
            adaptive_bias=config.decoder_adaptive_bias,
        )
    n_inputs = config.d_model * (2 if config.has_labels else 1)
    return ExpressionDecoder(n_inputs, config.d_model, explicit_zero=config.explicit_zero)


def build_gepc(config: ScGPTConfig) -> nn.Module | None:
    """Return the GEPC head that `config` names, or None."""
    if config.gepc is None:
        return None
    if config.gepc in ("concat query", "sum query"):
        return QueryExpressionDecoder(config.d_model, concat=config.gepc == "concat query")
    with_labels = config.d_model * (2 if config.has_labels else 1)
    return CellExpressionDecoder(
        with_labels if config.multiomic else config.d_model,
        with_labels,
        explicit_zero=config.explicit_zero,
        detach=config.gepc == "inner product, detach",
    )
