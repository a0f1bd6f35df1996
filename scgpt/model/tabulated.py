"""Exact shortcuts for inference: vectors of genes and of binned values computed once.

Shapes: B cells, L tokens including <cls>, V vocabulary, D width.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from scgpt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from scgpt.model.scgpt import ScGPT


class GeneVectors(nn.Module):
    """The normalised vector of every token, ready to be looked up."""

    def __init__(self, encoder: nn.Module, n_tokens: int) -> None:
        super().__init__()
        ids_V = torch.arange(n_tokens, device=encoder.table.weight.device)
        self.register_buffer("vectors_VD", encoder(ids_V), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of `ids`, shape (*ids.shape, D)."""
        return self.vectors_VD[ids]


class ValueVectors(nn.Module):
    """The vector of every whole value from `lowest` to `highest`, and NaN for every other number.

    A look-up does not wait for the device to say whether all values were there. Call `check` where
    the values come from; what slips past it becomes NaN, never the vector of another value.
    """

    def __init__(self, encoder: nn.Module, *, lowest: int, highest: int) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest
        device = next(encoder.parameters()).device
        numbers = torch.arange(lowest, highest + 1, device=device, dtype=torch.float32)
        vectors_ND = encoder(numbers.unsqueeze(0))[0]
        absent_1D = torch.full_like(vectors_ND[:1], float("nan"))
        self.register_buffer("vectors_ND", torch.cat([vectors_ND, absent_1D]), persistent=False)

    def check(self, values: np.ndarray) -> None:
        """Refuse values that the table lacks.

        Raises
        ------
        DataError
            If a value is no whole number of the table.
        """
        there = (values >= self.lowest) & (values <= self.highest) & (values == np.floor(values))
        if not there.all():
            msg = (
                f"value {float(values[~there][0])!r} is not among the binned values "
                f"{self.lowest} to {self.highest}; use the network without value table"
            )
            raise DataError(msg)

    def forward(self, values_BL: Tensor) -> Tensor:
        """Return value vectors of shape (B, L, D)."""
        rows_BL = (values_BL - self.lowest).long()
        there_BL = rows_BL + self.lowest == values_BL
        there_BL &= (values_BL >= self.lowest) & (values_BL <= self.highest)
        return self.vectors_ND[rows_BL.masked_fill(~there_BL, len(self.vectors_ND) - 1)]

    def combine(self, genes_BLD: Tensor, values_BL: Tensor) -> Tensor:
        """Return the sum of gene and value vectors."""
        return genes_BLD + self(values_BL)


@torch.no_grad()
def tabulated(model: ScGPT) -> ScGPT:
    """Return a network for inference that shares all weights with `model` but looks inputs up.

    The result follows later changes of `model`'s transformer and heads, not of its encoders: make
    it after training. Values have to be whole numbers from padding value to the highest bin (see
    `ValueVectors.check`).

    Raises
    ------
    ConfigError
        If `model` is in training mode, where encoders drop out at random.
    """
    if model.training:
        msg = "tables are for inference; call model.eval() first"
        raise ConfigError(msg)
    fast = copy.copy(model)
    fast._modules = dict(model._modules)
    config = model.config
    fast.gene_encoder = GeneVectors(model.gene_encoder, config.n_tokens)
    if config.value_encoding == "continuous":
        lowest = int(min(config.pad_value, config.mask_value, 0))
        fast.value_encoder = ValueVectors(
            model.value_encoder, lowest=lowest, highest=config.n_bins - 1
        )
    return fast
