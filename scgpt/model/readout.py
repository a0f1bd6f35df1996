"""From the transformer's output to what the heads read: which tokens, with which labels.

Shapes: B cells, L known tokens including <cls>, U unknown tokens, M tokens asked for, T = M + U,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """Vectors of batch and modality, as the decoders see them.

    Parameters
    ----------
    tokens_BLD
        One per known token, or one for all tokens of the cell (L = 1).
    cell_BD
        The cell's own.
    """

    tokens_BLD: Tensor
    cell_BD: Tensor

    def at(self, positions_BM: Tensor | None) -> Labels:
        """Return the labels of some tokens."""
        if self.tokens_BLD.shape[1] == 1:
            return self
        return Labels(at_positions(self.tokens_BLD, positions_BM), self.cell_BD)


def at_positions(x_BLD: Tensor, positions_BM: Tensor | None) -> Tensor:
    """Return the vectors at some positions of each cell, (B, M, D); all if there are none named."""
    if positions_BM is None:
        return x_BLD
    n_cells, n_tokens, width = x_BLD.shape
    starts_B1 = torch.arange(n_cells, device=x_BLD.device).unsqueeze(1) * n_tokens
    # Of gather, advanced indexing and this, this one has the fastest backward on a CPU.
    flat = x_BLD.reshape(-1, width).index_select(0, (starts_B1 + positions_BM).flatten())
    return flat.view(n_cells, positions_BM.shape[1], width)


def with_first(positions_BM: Tensor) -> Tensor:
    """Return position 0, where <cls> stands, and then the others, (B, 1 + M)."""
    first_B1 = positions_BM.new_zeros(len(positions_BM), 1)
    return torch.cat([first_B1, positions_BM], dim=1)


def side_by_side(known_BLD: Tensor, unknown_BUD: Tensor | None) -> Tensor:
    """Return known tokens, then unknown ones if there are any."""
    return known_BLD if unknown_BUD is None else torch.cat([known_BLD, unknown_BUD], dim=1)


def with_labels(x_BTD: Tensor, labels: Labels | None) -> Tensor:
    """Return each token's vector with its label's beside it."""
    if labels is None:
        return x_BTD
    return torch.cat([x_BTD, labels.tokens_BLD.expand(-1, x_BTD.shape[1], -1)], dim=-1)


def split_groups(
    name: str, predicted: tuple[Tensor, Tensor | None], unknown_BUD: Tensor | None
) -> dict[str, Tensor]:
    """Name predictions and probabilities, of known and of unknown tokens."""
    by_suffix = zip(("", "_zero_prob"), predicted, strict=True)
    named = {name + suffix: x_BT for suffix, x_BT in by_suffix if x_BT is not None}
    if unknown_BUD is None:
        return named
    n_unknown = unknown_BUD.shape[1]
    output = {}
    for key, x_BT in named.items():
        n_known = x_BT.shape[1] - n_unknown
        output[key], output[f"{key}_unknown"] = x_BT[:, :n_known], x_BT[:, n_known:]
    return output
