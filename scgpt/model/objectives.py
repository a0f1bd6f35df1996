"""The training objectives of scGPT, as pure functions.

Shapes: B cells, L tokens including <cls>, D width, C classes.

References
----------
Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Learning gene expression generation"
and "Fine-tuning objectives". Where text and official code differ, the code is followed and the
difference is stated.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CCE_TEMPERATURE = 0.5
ECS_WEIGHT = 10.0
CCE_WEIGHT = 10.0


def masked_mse(prediction_BL: Tensor, target_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """GEP and GEPC: mean squared error over the positions where `mask_BL` is True.

    NaN if no position is. Positions outside the mask may hold anything finite.
    """
    mask_BL = mask_BL.to(prediction_BL.dtype)
    return ((prediction_BL - target_BL) ** 2 * mask_BL).sum() / mask_BL.sum()


def zero_nll(nonzero_probability_BL: Tensor, target_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Explicit zero model: Bernoulli negative log-likelihood of "the target is above zero".

    Probabilities are kept a machine epsilon away from 0 and 1, so that a confident mistake costs
    about 16 and not infinity.
    """
    epsilon = torch.finfo(nonzero_probability_BL.dtype).eps
    probability_BL = nonzero_probability_BL.clamp(epsilon, 1 - epsilon)
    logit_BL = probability_BL.log() - (-probability_BL).log1p()
    is_nonzero_BL = (target_BL > 0).to(logit_BL.dtype)
    nll_BL = F.binary_cross_entropy_with_logits(logit_BL, is_nonzero_BL, reduction="none")
    mask_BL = mask_BL.to(logit_BL.dtype)
    return (nll_BL * mask_BL).sum() / mask_BL.sum()


def cosine_matrix(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Return the cosine of every pair, shape (B, B)."""
    return F.normalize(first_BD, dim=1) @ F.normalize(second_BD, dim=1).T


def ecs(cell_embedding_BD: Tensor, threshold: float) -> Tensor:
    """Elastic cell similarity: push cosines above `threshold` up and the others down.

    Mean over all B x B pairs of 1 - (ReLU(cosine) - threshold)^2, the diagonal taken as cosine 0
    (it adds a constant). The paper writes the sum without ReLU and without the 1. Recipes weigh it
    by `ECS_WEIGHT`.
    """
    cosine_BB = cosine_matrix(cell_embedding_BD, cell_embedding_BD)
    cosine_BB = F.relu(cosine_BB - torch.diag_embed(cosine_BB.diagonal()))
    return (1 - (cosine_BB - threshold) ** 2).mean()


def cce(first_BD: Tensor, second_BD: Tensor, *, temperature: float = CCE_TEMPERATURE) -> Tensor:
    """Contrastive cell embedding: each cell recognises its own second, differently dropped, pass.

    Cross-entropy of cosine / `temperature` against the diagonal. Across several processes the
    caller gathers the embeddings first. Recipes weigh it by `CCE_WEIGHT`.
    """
    similarity_BB = cosine_matrix(first_BD, second_BD) / temperature
    return F.cross_entropy(similarity_BB, torch.arange(len(first_BD), device=first_BD.device))


def classification(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """CLS and DAR: mean cross-entropy of integer labels.

    For DAR the reversal is part of the head, hence this loss is minimised like any other.
    """
    return F.cross_entropy(logits_BC, labels_B)
