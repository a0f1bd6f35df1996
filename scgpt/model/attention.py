"""Multi-head attention over gene tokens, for known genes and for genes to be generated.

Shapes: B cells, L known tokens including <cls>, U unknown tokens, Q queries, D width, H heads,
E width per head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scgpt.model.attention_kernels import can_merge, merged_attention


class Attention(nn.Module):
    """Self-attention among known tokens, and attention of unknown tokens to known ones.

    Padded keys are never attended to. Padded queries get an ordinary output, which no valid
    position ever reads; whatever averages over positions has to decide about them itself.

    Parameters
    ----------
    d_model, n_heads
        Width and number of heads.
    dropout
        Dropout of attention probabilities, while training.
    """

    def __init__(self, d_model: int, n_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start like PyTorch's own attention: Xavier-uniform projection, zero biases."""
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def project(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each of shape (B, H, L, E)."""
        return tuple(map(self._split, self.qkv(x_BLD).chunk(3, dim=-1)))

    def forward(
        self,
        known_BLD: Tensor,
        padding_BL: Tensor | None = None,
        unknown_BUD: Tensor | None = None,
        *,
        query_BQD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; return the output of known and, if given, of unknown tokens.

        Parameters
        ----------
        known_BLD, padding_BL
            Known tokens; True marks padding, None means there is none.
        unknown_BUD
            Tokens whose value is to be generated. Each sees all known tokens and itself, never
            another unknown one, and its output skips the output projection: the released weights
            were trained that way (the paper's Supplementary Fig. 1 shows the mask).
        query_BQD
            Those of the known tokens whose output is wanted; all of them without it.
        """
        q_BHQE, k_BHLE, v_BHLE = self._project_some(known_BLD, query_BQD)
        allowed = None if padding_BL is None else ~padding_BL[:, None, None, :]
        known_BHQE = F.scaled_dot_product_attention(
            q_BHQE, k_BHLE, v_BHLE, attn_mask=allowed, dropout_p=self._dropout_now()
        )
        known_BQD = self.out(self._join(known_BHQE))
        if unknown_BUD is None:
            return known_BQD, None
        unknown_BHUE = attend_known_and_self(
            self.project(unknown_BUD), k_BHLE, v_BHLE, allowed, dropout=self._dropout_now()
        )
        return known_BQD, self._join(unknown_BHUE)

    def _project_some(
        self, known_BLD: Tensor, query_BQD: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries of some tokens, and the keys and values of all."""
        if query_BQD is None:
            return self.project(known_BLD)
        width = known_BLD.shape[-1]
        q_BQD = F.linear(query_BQD, self.qkv.weight[:width], self.qkv.bias[:width])
        kv_BLD = F.linear(known_BLD, self.qkv.weight[width:], self.qkv.bias[width:])
        return tuple(map(self._split, (q_BQD, *kv_BLD.chunk(2, dim=-1))))

    def raw_scores(self, x_BLD: Tensor) -> Tensor:
        """Return query-key products per head, (B, H, L, L): no scaling, no mask, no softmax."""
        q_BHLE, k_BHLE, _ = self.project(x_BLD)
        return q_BHLE @ k_BHLE.transpose(-1, -2)

    def share_on_known(
        self, known_BLD: Tensor, padding_BL: Tensor | None, unknown_BUD: Tensor
    ) -> Tensor:
        """Return how much of its attention each unknown token pays to known ones, (B, U)."""
        _, k_BHLE, _ = self.project(known_BLD)
        allowed = None if padding_BL is None else ~padding_BL[:, None, None, :]
        weights = known_and_self_weights(self.project(unknown_BUD), k_BHLE, allowed)
        return 1 - weights[..., -1].mean(dim=1)

    def _dropout_now(self) -> float:
        return self.dropout if self.training else 0.0

    def _split(self, x_BLD: Tensor) -> Tensor:
        n_cells, n_tokens, d_model = x_BLD.shape
        return x_BLD.view(n_cells, n_tokens, self.n_heads, d_model // self.n_heads).transpose(1, 2)

    def _join(self, x_BHLE: Tensor) -> Tensor:
        return x_BHLE.transpose(1, 2).flatten(2)


def attend_known_and_self(
    unknown_qkv: tuple[Tensor, Tensor, Tensor],
    k_BHLE: Tensor,
    v_BHLE: Tensor,
    allowed_B11L: Tensor | None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each unknown token to all known tokens and to itself, shape (B, H, U, E).

    On a CPU, without dropout, in two parts that never store the weights (`merged_attention`).
    Otherwise, and on every GPU, through the whole table of weights, U by L + 1 per head: memory and
    time grow with U x L there, because the merged way was never run on a GPU.
    """
    if not dropout and can_merge(unknown_qkv[0], k_BHLE):
        return merged_attention(unknown_qkv, k_BHLE, v_BHLE, allowed_B11L)
    weights = known_and_self_weights(unknown_qkv, k_BHLE, allowed_B11L)
    weights = F.dropout(weights, dropout) if dropout else weights
    return weights[..., :-1] @ v_BHLE + weights[..., -1:] * unknown_qkv[2]


def known_and_self_weights(
    unknown_qkv: tuple[Tensor, Tensor, Tensor], k_BHLE: Tensor, allowed_B11L: Tensor | None
) -> Tensor:
    """Return attention weights of unknown tokens, (B, H, U, L + 1); the last one is on itself.

    The scores form a U by L block plus one column for the token itself, so that nothing of the
    U by U block between unknown tokens is ever computed.
    """
    q_BHUE, own_k_BHUE, _ = unknown_qkv
    q_BHUE = q_BHUE * q_BHUE.shape[-1] ** -0.5
    scores_BHUL = q_BHUE @ k_BHLE.transpose(-1, -2)
    if allowed_B11L is not None:
        scores_BHUL = scores_BHUL.masked_fill(~allowed_B11L, float("-inf"))
    own_BHU1 = (q_BHUE * own_k_BHUE).sum(-1, keepdim=True)
    return torch.cat([scores_BHUL, own_BHU1], dim=-1).softmax(dim=-1)
