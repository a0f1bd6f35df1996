"""The transformer: identical post-norm layers, shared by known and unknown tokens.

Shapes: B cells, L known tokens including <cls>, U unknown tokens, Q queries, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from scgpt.model.attention import Attention
from scgpt.model.readout import at_positions

if TYPE_CHECKING:
    from scgpt.model.config import ScGPTConfig


class TransformerLayer(nn.Module):
    """Attention and feed-forward block, each followed by residual sum and LayerNorm."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.attention = Attention(
            config.d_model, config.n_heads, dropout=config.attention_dropout_used
        )
        self.linear_1 = nn.Linear(config.d_model, config.d_ff)
        self.linear_2 = nn.Linear(config.d_ff, config.d_model)
        self.norm_1 = nn.LayerNorm(config.d_model)
        self.norm_2 = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        known_BLD: Tensor,
        padding_BL: Tensor | None = None,
        unknown_BUD: Tensor | None = None,
        *,
        queries_BQ: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return known tokens, all or those at `queries_BQ`, and, if given, unknown ones."""
        query_BQD = at_positions(known_BLD, queries_BQ)
        known_BQD, attended_BUD = self.attention(
            known_BLD, padding_BL, unknown_BUD, query_BQD=None if queries_BQ is None else query_BQD
        )
        known_BQD = self._finish(query_BQD, known_BQD)
        if unknown_BUD is None or attended_BUD is None:
            return known_BQD, None
        return known_BQD, self._finish(unknown_BUD, attended_BUD)

    def _finish(self, x_BLD: Tensor, attended_BLD: Tensor) -> Tensor:
        x_BLD = self.norm_1(x_BLD + self.dropout(attended_BLD))
        inner = self.dropout(F.relu(self.linear_1(x_BLD)))
        return self.norm_2(x_BLD + self.dropout(self.linear_2(inner)))


class Transformer(nn.Module):
    """A stack of layers, without a final norm.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Transformer".
    """

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.n_layers))

    def forward(
        self,
        known_BLD: Tensor,
        padding_BL: Tensor | None = None,
        unknown_BUD: Tensor | None = None,
        *,
        queries_BQ: Tensor | None = None,
        n_layers: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layers.

        Parameters
        ----------
        known_BLD, padding_BL, unknown_BUD
            See `Attention.forward`.
        queries_BQ
            Known tokens whose output is wanted; all without it. The last layer computes only those
            (exactly as the full computation would); earlier layers need all of them.
        n_layers
            Run only the first `n_layers` layers.
        """
        layers = self.layers[:n_layers]
        for index, layer in enumerate(layers, start=1):
            known_BLD, unknown_BUD = layer(
                known_BLD,
                padding_BL,
                unknown_BUD,
                queries_BQ=queries_BQ if index == len(layers) else None,
            )
        return known_BLD, unknown_BUD

    def start_layers_equal(self) -> None:
        """Copy the first layer's weights into all others.

        PyTorch's own `TransformerEncoder` stacks copies of one layer, so a network trained from
        scratch with the official code starts this way.
        """
        first = self.layers[0].state_dict()
        for layer in self.layers[1:]:
            layer.load_state_dict(first)
