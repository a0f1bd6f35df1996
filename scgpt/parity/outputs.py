"""Evaluation outputs of a case: ours against the stored ones."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from scgpt.errors import ContractError
from scgpt.model import objectives
from scgpt.model.perturbation import predict_perturbation
from scgpt.parity.comparison import (
    Comparison,
    compare_number,
    compare_output,
    missing,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from scgpt.model.scgpt import ScGPT
    from scgpt.parity.case import Case

HEAD_OF = {
    "mlm_output": "gep",
    "mlm_zero_probs": "gep_zero_prob",
    "mvc_output": "gepc",
    "mvc_zero_probs": "gepc_zero_prob",
    "cls_output": "cls",
    "dab_output": "dar",
    "cell_emb": "cell_embedding",
}
"""Official output -> ours."""
_LOSSES = ("loss_ecs", "loss_cce")
_SAMPLED = ("mlm_output", "mvc_output")


def inputs(case: Case) -> dict[str, Any]:
    """Return the stored inputs of a plain case, as arguments of `ScGPT.forward`."""
    labels = {
        "batch_labels_B": case.optional("in.batch_labels"),
        "modality_ids_BL": case.optional("in.mod_types"),
        "perturbation_flags_BL": case.optional("in.pert_flags"),
    }
    return {
        "gene_ids_BL": case.tensor("in.src"),
        "values_BL": case.tensor("in.values"),
        "padding_BL": case.tensor("in.pad_mask"),
        **labels,
    }


def available_heads(model: ScGPT) -> tuple[str, ...]:
    """Return the heads that `model` has."""
    parts = tuple(
        name for name in ("gep", "gepc", "cls", "dar") if getattr(model, name) is not None
    )
    return ("cell_embedding", *parts)


@contextmanager
def recorded_layers(model: ScGPT) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
    """Record what every layer returns while the block runs."""
    seen: list[tuple[Tensor, Tensor | None]] = []
    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        for layer in model.transformer.layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def compare_plain(model: ScGPT, case: Case) -> list[Comparison]:
    """Compare every `slow.*` array of a case without generation tokens."""
    model.eval()
    valid_BL = ~case.tensor("in.pad_mask")
    ours = _plain_outputs(model, case)
    rows = []
    for array in case.names("slow."):
        name, stored = array.removeprefix("slow."), case.tensor(array)
        if name not in ours:
            rows.append(missing(name, "stored, but this network has no such output"))
        elif name in _LOSSES:
            rows.append(compare_number(name, float(ours[name]), float(stored)))
        else:
            valid = valid_BL if stored.shape[:2] == valid_BL.shape else None
            if case.samples and name in _SAMPLED:
                # Sampled zeros are random; what was not zeroed must agree.
                valid = valid_BL & (stored != 0)
            rows.append(compare_output(name, ours[name], stored, valid=valid))
    return rows


def _plain_outputs(model: ScGPT, case: Case) -> dict[str, Tensor]:
    given = inputs(case)
    with recorded_layers(model) as layers:
        heads = model(**given, heads=available_heads(model))
    output = {theirs: heads[ours] for theirs, ours in HEAD_OF.items() if ours in heads}
    output |= {f"hidden.{index}": layer[0] for index, layer in enumerate(layers)}
    output["transformer_output"] = layers[-1][0]
    output["gene_token_embs"] = model.gene_encoder(given["gene_ids_BL"])
    value_vectors = model.value_encoder(given["values_BL"])
    is_scaling = model.config.value_encoding == "scaling"
    output["value_embs"] = value_vectors.squeeze(-1) if is_scaling else value_vectors
    cell_BD = heads["cell_embedding"]
    output["loss_ecs"] = objectives.ecs(cell_BD, model.config.ecs_threshold)
    output["loss_cce"] = objectives.cce(cell_BD, cell_BD)
    return output | _unmasked_outputs(model, case, given)


def _unmasked_outputs(model: ScGPT, case: Case, given: dict[str, Any]) -> dict[str, Tensor]:
    """Return what was stored for complete (unmasked) values: encoding and generation."""
    output = {}
    complete = given | {"values_BL": case.optional("in.target")}
    if "slow.encode_batch_t0" in case.arrays:
        layers = ("gene_ids_BL", "values_BL", "padding_BL", "batch_labels_B")
        output["encode_batch_t0"] = model.encode(**{name: complete[name] for name in layers})[:, 0]
    prompt_BD = case.optional("in.gen_cell_emb")
    if prompt_BD is not None:
        output["generate_with_values"] = model(**complete, cell_prompt_BD=prompt_BD)["gep"]
    if "slow.generate_no_values" in case.arrays:
        bare = given | {"values_BL": None, "padding_BL": None}
        output["generate_no_values"] = model(**bare, cell_prompt_BD=prompt_BD)["gep"]
    return output


def compare_perturbation(model: ScGPT, case: Case) -> list[Comparison]:
    """Compare the `pp.*` arrays: whole predicted profiles from control cells."""
    model.eval()
    known = ("pp.gene_ids", "pp.ctrl", "pp.flags")
    rows = []
    for array in case.names("pp."):
        if array in known:
            continue
        stored, genes = case.tensor(array), array.removeprefix("pp.")
        if genes not in ("all", "batch-wise"):
            rows.append(missing(array, "stored, but no such way to choose genes is known"))
            continue
        ours = predict_perturbation(model, *(case.tensor(name) for name in known), genes=genes)
        rows.append(
            compare_output(array, ours, stored, valid=stored != 0 if case.samples else None)
        )
    return rows


def generative_inputs(case: Case) -> dict[str, Any]:
    """Return the stored inputs of a pre-training case, as arguments of `ScGPT.forward`."""
    return {
        "gene_ids_BL": case.tensor("in.pcpt_gene"),
        "values_BL": case.tensor("in.pcpt_expr"),
        "padding_BL": case.tensor("in.pcpt_pad"),
        "unknown_gene_ids_BU": case.tensor("in.gen_gene"),
        "batch_labels_B": case.optional("in.batch_labels"),
    }


def compare_generative(model: ScGPT, case: Case) -> list[Comparison]:
    """Compare the passes of a pre-training case: gene prompt, cell prompt, no unknown genes."""
    model.eval()
    given = generative_inputs(case)
    first = _generative_outputs(model, given)
    passes = {"pass1": first, "pcpt_only": _generative_outputs(model, given, unknown=False)}
    passes["pass2"] = _generative_outputs(model, given, prompt_BD=first["cell_emb"])
    known_BL, unknown_BU = ~case.tensor("in.pcpt_pad"), ~case.tensor("in.gen_pad")
    valids = (known_BL, unknown_BU, torch.cat([known_BL, unknown_BU], dim=1))
    rows = []
    for array in (name for prefix in passes for name in case.names(f"{prefix}.")):
        prefix, name = array.split(".", 1)
        stored = case.tensor(array)
        if name not in passes[prefix]:
            rows.append(missing(array, "stored, but this network has no such output"))
        elif name in _LOSSES:
            rows.append(compare_number(array, float(passes[prefix][name]), float(stored)))
        else:
            valid = next((v for v in valids if v.shape == stored.shape[:2]), None)
            rows.append(compare_output(array, passes[prefix][name], stored, valid=valid))
    return rows


def _generative_outputs(
    model: ScGPT,
    given: dict[str, Any],
    *,
    unknown: bool = True,
    prompt_BD: Tensor | None = None,
) -> dict[str, Tensor]:
    """Run one pass and name its outputs as the pre-training branch does."""
    if not unknown:
        given = given | {"unknown_gene_ids_BU": given["unknown_gene_ids_BU"][:, :0]}
    with recorded_layers(model) as layers:
        heads = model(**given, cell_prompt_BD=prompt_BD, heads=available_heads(model))
    names = {"": "mlm_output", "_zero_prob": "mlm_zero_probs"}
    output = {theirs: heads[ours] for theirs, ours in HEAD_OF.items() if ours in heads}
    for suffix, theirs in names.items():
        short = "preds" if not suffix else "zero_probs"
        if theirs in output:
            output[f"pcpt_{short}"] = output.pop(theirs)
            output[f"gen_{short}"] = heads[f"gep{suffix}_unknown"]
    for suffix, theirs in {"": "mvc_output", "_zero_prob": "mvc_zero_probs"}.items():
        if theirs in output:
            output[theirs] = torch.cat([output[theirs], heads[f"gepc{suffix}_unknown"]], dim=1)
    for index, (known_BLD, unknown_BUD) in enumerate(layers):
        output |= {f"hidden_pcpt.{index}": known_BLD, f"hidden_gen.{index}": unknown_BUD}
    output["loss_ecs"] = objectives.ecs(output["cell_emb"], model.config.ecs_threshold)
    output["loss_cce"] = objectives.cce(output["cell_emb"], output["cell_emb"])
    return output


@torch.no_grad()
def compare_outputs(model: ScGPT, case: Case) -> list[Comparison]:
    """Compare all evaluation outputs of a case.

    Raises
    ------
    ContractError
        If the case stores none.
    """
    rows = compare_generative(model, case) if case.is_generative else []
    if "in.src" in case.arrays:
        rows += compare_plain(model, case)
    rows += compare_perturbation(model, case)
    if not rows:
        msg = f"{case.folder}: no stored outputs (slow.*, pass1.*, pp.*) to compare with"
        raise ContractError(msg)
    return rows
