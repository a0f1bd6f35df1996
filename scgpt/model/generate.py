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

    Each round reveals the next 1/`n_rounds` of a cell's unknown genes; their predictions, rounded
    to bins, are inputs of the rounds after. The order in which genes are given does not matter.

    Parameters
    ----------
    model
        A generative network in evaluation mode.
    gene_ids_BL, values_BL, padding_BL
        The prompt, with `<cls>` at position 0. `<cls>` alone makes a pure cell prompt.
    unknown_gene_ids_BU
        Genes to generate, each once per cell; the padding id marks padding.
    n_rounds
        Number of rounds; one predicts everything at once, as in training.
    order
        Who is revealed first. The paper says "most confident" and leaves the measure open; here it
        is nearness to a bin, or the share of last-layer attention paid to known genes.
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
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods. Not in the official code.
    """
    _check(model, gene_ids_BL, unknown_gene_ids_BU, n_rounds, order)
    # A fixed internal order makes the result independent of the given one, down to rounding.
    unknown_BU, place_BU = unknown_gene_ids_BU.sort(dim=1)
    is_gene_BU = unknown_BU != model.config.pad_id
    prompt = _sorted_prompt(gene_ids_BL, values_BL, padding_BL)
    values_BU = torch.zeros_like(unknown_BU, dtype=values_BL.dtype)
    rounds_BU = torch.full_like(unknown_BU, NOT_A_GENE)
    for round_index in range(n_rounds):
        known = _with_revealed(prompt, unknown_BU, _to_bins(values_BU, model), rounds_BU)
        predicted_BU, score_BU, cell_BD = _predict(model, known, unknown_BU, order, cell_prompt_BD)
        n_known_B = _target(is_gene_BU.sum(dim=1), round_index, n_rounds)
        n_new_B = n_known_B - (rounds_BU != NOT_A_GENE).sum(dim=1)
        chosen_BU = _first(score_BU, is_gene_BU & (rounds_BU == NOT_A_GENE), n_new_B)
        values_BU = torch.where(chosen_BU, predicted_BU.to(values_BU.dtype), values_BU)
        rounds_BU = rounds_BU.masked_fill(chosen_BU, round_index)
    back_BU = place_BU.argsort(dim=1)
    return Generated(values_BU.gather(1, back_BU), rounds_BU.gather(1, back_BU), cell_BD)


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


def _predict(
    model: ScGPT,
    known: tuple[Tensor, Tensor, Tensor],
    unknown_BU: Tensor,
    order: Order,
    cell_prompt_BD: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return predictions, the scores by which genes are revealed, and the cell embedding."""
    output = model(
        *known,
        unknown_gene_ids_BU=unknown_BU,
        cell_prompt_BD=cell_prompt_BD,
        positions_BM=known[0][:, :0],
        heads=("gep", "cell_embedding"),
    )
    predicted_BU = output["gep_unknown"]
    if order == "confidence":
        score_BU = -(predicted_BU - predicted_BU.round()).abs()
    else:
        score_BU = _share_on_known(model, known, unknown_BU, cell_prompt_BD)
    return predicted_BU, score_BU, output["cell_embedding"]


def _share_on_known(
    model: ScGPT,
    known: tuple[Tensor, Tensor, Tensor],
    unknown_BU: Tensor,
    cell_prompt_BD: Tensor | None,
) -> Tensor:
    """Return the share of last-layer attention that each unknown gene pays to known ones."""
    ids_BT, values_BT, padding_BT = known
    _, known_BTD = model.embed(ids_BT, values_BT)
    if cell_prompt_BD is not None:
        known_BTD = torch.cat([cell_prompt_BD.unsqueeze(1), known_BTD[:, 1:]], dim=1)
    unknown_BUD = model.embed_unknown(unknown_BU)
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
