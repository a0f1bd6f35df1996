"""Prediction of a perturbed profile from a control profile.

Shapes: B cells, G genes of the data set, S genes fed to the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from scgpt.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from scgpt.model.scgpt import ScGPT


@torch.no_grad()
def predict_perturbation(
    model: ScGPT,
    gene_ids_G: Tensor,
    control_BG: Tensor,
    flags_BG: Tensor,
    *,
    genes: Literal["all", "batch-wise"] = "all",
) -> Tensor:
    """Predict all genes of perturbed cells, shape (B, G).

    The network is used as it is: put it in evaluation mode first.

    Parameters
    ----------
    model
        A network with perturbation flags.
    gene_ids_G
        Token id of each gene; genes outside the vocabulary have the padding id and are fed all the
        same, unmasked, as the official code does.
    control_BG, flags_BG
        Control expression, and 1 where a gene is perturbed.
    genes
        `all` feeds every gene in one sequence; `batch-wise` only those that some control cell of
        this batch expresses, the others being predicted as 0. The latter depends on which cells
        share a batch, and forgets a perturbed gene that no control cell expresses.

    Raises
    ------
    ConfigError
        If the network has no perturbation flags or `genes` is unknown.
    """
    if model.perturbation_encoder is None:
        msg = "this network knows no perturbation flags; set n_perturbation_flags in ScGPTConfig"
        raise ConfigError(msg)
    if genes not in ("all", "batch-wise"):
        msg = f"genes is {genes!r}; expected 'all' or 'batch-wise'"
        raise ConfigError(msg)
    fed_S = torch.arange(len(gene_ids_G), device=control_BG.device)
    if genes == "batch-wise":
        fed_S = fed_S[(control_BG != 0).any(dim=0)]
    predicted_BG = torch.zeros_like(control_BG)
    if len(fed_S):
        predicted_BG[:, fed_S] = model(
            gene_ids_G[fed_S].expand(len(control_BG), -1),
            control_BG[:, fed_S],
            perturbation_flags_BL=flags_BG[:, fed_S].long(),
            heads=("gep",),
        )["gep"].to(predicted_BG.dtype)
    return predicted_BG
