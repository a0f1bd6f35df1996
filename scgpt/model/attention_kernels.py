"""Attention to known tokens and to oneself, merged from two parts without storing any weights.

Shapes: B cells, L known tokens, U unknown tokens, H heads, E width per head.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FLASH = "_scaled_dot_product_flash_attention_for_cpu"
_NO_DROPOUT_NOT_CAUSAL = (0.0, False)
_PRECISIONS = (torch.float32, torch.bfloat16)


def can_merge(q_BHUE: Tensor, k_BHLE: Tensor) -> bool:
    """Return whether this PyTorch has the kernel that `merged_attention` needs, for these tensors.

    The kernel itself checks nothing: with empty tensors it ends the process.
    """
    return (
        q_BHUE.device.type == "cpu"
        and k_BHLE.numel() > 0
        and q_BHUE.numel() > 0
        and q_BHUE.dtype in _PRECISIONS
        and hasattr(torch.ops.aten, _FLASH)
        and hasattr(torch.ops.aten, f"{_FLASH}_backward")
    )


def merged_attention(
    unknown_qkv: tuple[Tensor, Tensor, Tensor],
    k_BHLE: Tensor,
    v_BHLE: Tensor,
    allowed_B11L: Tensor | None,
) -> Tensor:
    """Attention of each unknown token to all known tokens and to itself, shape (B, H, U, E).

    One call of PyTorch's fused attention covers the known keys and also gives the logarithm of the
    sum of exponentials (LSE) of each row; the token's own key is added through it. Backward runs
    the fused backward with the merged output and LSE, in which its probabilities are the final
    ones, and adds the analytic terms of the own key.
    """
    q_BHUE, own_k_BHUE, own_v_BHUE = unknown_qkv
    bias = None
    if allowed_B11L is not None:
        bias = torch.zeros_like(allowed_B11L, dtype=q_BHUE.dtype)
        bias = bias.masked_fill(~allowed_B11L, float("-inf"))
        bias = bias.expand(-1, -1, q_BHUE.shape[2], -1)
    return _Merged.apply(q_BHUE, own_k_BHUE, own_v_BHUE, k_BHLE, v_BHLE, bias)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        q: Tensor,
        own_k: Tensor,
        own_v: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        out, lse = getattr(torch.ops.aten, _FLASH)(q, k, v, attn_mask=bias)
        own_score = (q.float() * own_k.float()).sum(-1) * q.shape[-1] ** -0.5
        merged_lse = torch.logaddexp(lse, own_score)
        known_share = (lse - merged_lse).exp().unsqueeze(-1)
        own_share = (own_score - merged_lse).exp().unsqueeze(-1)
        out = (out.float() * known_share + own_v.float() * own_share).to(q.dtype)
        ctx.save_for_backward(q, own_k, own_v, k, v, bias, out, merged_lse, own_share)
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        q, own_k, own_v, k, v, bias, out, merged_lse, own_share = ctx.saved_tensors
        grad_q, grad_k, grad_v = getattr(torch.ops.aten, f"{_FLASH}_backward")(
            grad.contiguous(), q, k, v, out, merged_lse, *_NO_DROPOUT_NOT_CAUSAL, attn_mask=bias
        )
        wide = grad.float()
        through_value = (wide * (own_v.float() - out.float())).sum(-1, keepdim=True)
        grad_score = own_share * through_value * q.shape[-1] ** -0.5
        grad_q = grad_q + (grad_score * own_k.float()).to(q.dtype)
        grad_own_k = (grad_score * q.float()).to(q.dtype)
        grad_own_v = (own_share * wide).to(q.dtype)
        return grad_q, grad_own_k, grad_own_v, grad_k, grad_v, None
