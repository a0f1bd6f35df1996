"""Generation of expression values from a gene prompt or a cell prompt, in several rounds.

Shapes: B cells, L prompt tokens including <cls>, U unknown genes, T = L + U, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch

from scgpt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from scgpt.model.scgpt import ScGPT

Order = Literal["confidence", "attention"]
NOT_A_GENE = -1


class Generated(NamedTuple):
    """Generated values, and the round in which each gene became known.

    Parameters
    ----------
    values_BU
        Predicted values; 0 at padding.
    rounds_BU
        Round of each gene, from 0; -1 at padding.
    cell_embedding_BD
        Cell embedding of the last round.
    """

    values_BU: Tensor
    rounds_BU: Tensor
    cell_embedding_BD: Tensor


@torch.no_grad()
def generate(
    model: ScGPT,
    gene_ids_BL: Tensor,
    values_BL: Tensor,
    padding_BL: Tensor | None,
    unknown_gene_ids_BU: Tensor,
    *,
    n_rounds: int = 1,
    order: Order = "confidence",
    cell_prompt_BD: Tensor | None = None,
) -> Generated:
    """Generate the values of unknown genes; after each round some of them count as known.

    Before every round, each unknown gene sees the known ones and itself. The round reveals the
    next 1/`n_rounds` of each cell's unknown genes, those first in `order`; their predictions,
    rounded to bins, are inputs of the rounds after. The result depends on the sets of genes, not
    on the order in which they are given.

    Parameters
    ----------
    model
        A generative network in evaluation mode.
    gene_ids_BL, values_BL, padding_BL
        The prompt, with `<cls>` at position 0. `<cls>` alone makes a pure cell prompt.
    unknown_gene_ids_BU
        Genes to generate; the padding id marks padding. No gene may occur twice in a cell.
    n_rounds
        Number of rounds; one predicts everything at once, as in training.
    order
        Who is revealed first. The paper says "most confident" and leaves the measure open, and the
        network predicts no variance; `confidence` here is nearness of the prediction to a bin.
        `attention` is the share of its last-layer attention that a gene pays to known genes.
    cell_prompt_BD
        Cell embedding that replaces the input at `<cls>`.

    Raises
    ------
    ConfigError
        If the network is not generative or an option is unknown.
    DataError
        If a gene is asked for twice, or known already.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Learning gene expression
    generation". The official code has no such function.
    """
    _check(model, gene_ids_BL, unknown_gene_ids_BU, n_rounds, order)
    pad_id = model.config.pad_id
    # A fixed internal order makes the result independent of the given one, down to rounding.
    place_BU = unknown_gene_ids_BU.argsort(dim=1)
    unknown_BU = unknown_gene_ids_BU.gather(1, place_BU)
    is_gene_BU = unknown_BU != pad_id
    prompt = _sorted_prompt(gene_ids_BL, values_BL, padding_BL)
    values_BU = torch.zeros_like(unknown_BU, dtype=values_BL.dtype)
    rounds_BU = torch.full_like(unknown_BU, NOT_A_GENE)
    for round_index in range(n_rounds):
        known = _with_revealed(prompt, unknown_BU, _to_bins(values_BU, model), rounds_BU)
        output = model(
            *known,
            unknown_gene_ids_BU=unknown_BU,
            cell_prompt_BD=cell_prompt_BD,
            heads=("gep", "cell_embedding"),
        )
        predicted_BU = output["gep_unknown"].to(values_BU.dtype)
        is_open_BU = is_gene_BU & (rounds_BU == NOT_A_GENE)
        score_BU = _scores(model, order, predicted_BU, known, unknown_BU, cell_prompt_BD)
        n_revealed_B = _target(is_gene_BU.sum(dim=1), round_index, n_rounds)
        n_revealed_B = n_revealed_B - (is_gene_BU & ~is_open_BU).sum(dim=1)
        chosen_BU = _first(score_BU, is_open_BU, n_revealed_B)
        values_BU = torch.where(chosen_BU, predicted_BU, values_BU)
        rounds_BU = rounds_BU.masked_fill(chosen_BU, round_index)
    back_BU = place_BU.argsort(dim=1)
    return Generated(
        values_BU.gather(1, back_BU), rounds_BU.gather(1, back_BU), output["cell_embedding"]
    )


def _sorted_prompt(
    gene_ids_BL: Tensor, values_BL: Tensor, padding_BL: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the prompt by gene, <cls> first, padding last."""
    if padding_BL is None:
        padding_BL = torch.zeros_like(gene_ids_BL, dtype=torch.bool)
    keys_BL = gene_ids_BL.masked_fill(padding_BL, torch.iinfo(gene_ids_BL.dtype).max)
    keys_BL = torch.cat([torch.full_like(keys_BL[:, :1], -1), keys_BL[:, 1:]], dim=1)
    place_BL = keys_BL.argsort(dim=1, stable=True)
    return tuple(x_BL.gather(1, place_BL) for x_BL in (gene_ids_BL, values_BL, padding_BL))


def _with_revealed(
    prompt: tuple[Tensor, Tensor, Tensor], unknown_BU: Tensor, values_BU: Tensor, rounds_BU: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Append all unknown genes to the prompt, those not yet revealed as padding."""
    ids_BL, values_BL, padding_BL = prompt
    return (
        torch.cat([ids_BL, unknown_BU], dim=1),
        torch.cat([values_BL, values_BU], dim=1),
        torch.cat([padding_BL, rounds_BU == NOT_A_GENE], dim=1),
    )


def _to_bins(values_BU: Tensor, model: ScGPT) -> Tensor:
    return values_BU.round().clamp(0, model.config.n_bins - 1)


def _scores(
    model: ScGPT,
    order: Order,
    predicted_BU: Tensor,
    known: tuple[Tensor, Tensor, Tensor],
    unknown_BU: Tensor,
    cell_prompt_BD: Tensor | None,
) -> Tensor:
    """Return the score by which genes are revealed, the highest first."""
    if order == "confidence":
        return -(predicted_BU - predicted_BU.round()).abs()
    ids_BT, values_BT, padding_BT = known
    _, known_BTD = model.embed(ids_BT, values_BT)
    if cell_prompt_BD is not None:
        known_BTD = torch.cat([cell_prompt_BD.unsqueeze(1), known_BTD[:, 1:]], dim=1)
    _, unknown_BUD = model.embed_unknown(unknown_BU)
    last = model.config.n_layers - 1
    known_BTD, unknown_BUD = model.transformer(known_BTD, padding_BT, unknown_BUD, n_layers=last)
    attention = model.transformer.layers[last].attention
    return attention.share_on_known(known_BTD, padding_BT, unknown_BUD)


def _target(n_genes_B: Tensor, round_index: int, n_rounds: int) -> Tensor:
    """Return how many genes of each cell are to be known after a round: all after the last."""
    return -(-n_genes_B * (round_index + 1) // n_rounds)


def _first(score_BU: Tensor, is_open_BU: Tensor, n_chosen_B: Tensor) -> Tensor:
    """Mark the `n_chosen_B` open genes with the highest scores; of equals, the lower id first."""
    score_BU = score_BU.masked_fill(~is_open_BU, float("-inf"))
    order_BU = score_BU.argsort(dim=1, descending=True, stable=True)
    rank_BU = order_BU.argsort(dim=1)
    return is_open_BU & (rank_BU < n_chosen_B.unsqueeze(1))


def _check(
    model: ScGPT, gene_ids_BL: Tensor, unknown_BU: Tensor, n_rounds: int, order: str
) -> None:
    if not model.config.generative:
        msg = "this network cannot generate: it was built with generative=False"
        raise ConfigError(msg)
    if model.training:
        msg = "generation needs the network in evaluation mode; call model.eval() first"
        raise ConfigError(msg)
    if n_rounds < 1 or order not in get_args(Order):
        msg = (
            f"n_rounds {n_rounds}, order {order!r}; expected 1 or more and one of {get_args(Order)}"
        )
        raise ConfigError(msg)
    pad_id = model.config.pad_id
    ids_BT = torch.cat([gene_ids_BL, unknown_BU], dim=1).sort(dim=1).values
    twice = ids_BT[:, 1:][(ids_BT[:, 1:] == ids_BT[:, :-1]) & (ids_BT[:, 1:] != pad_id)]
    if len(twice):
        msg = f"gene id {int(twice[0])} occurs twice in a cell, as prompt or as unknown gene"
        raise DataError(msg)
