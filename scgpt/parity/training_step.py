"""One stored training step: losses, gradients, clipping, Adam, running statistics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from scgpt.errors import ContractError
from scgpt.model import objectives
from scgpt.model.upstream_names import from_official
from scgpt.parity.case import GENERATOR
from scgpt.parity.comparison import (
    GRADIENT_FLOOR,
    GRADIENT_TOLERANCE,
    PARAMETER_TOLERANCE,
    Comparison,
    compare_number,
    compare_output,
    missing,
)
from scgpt.parity.outputs import available_heads, generative_inputs, inputs

if TYPE_CHECKING:
    from torch import Tensor

    from scgpt.model.scgpt import ScGPT
    from scgpt.parity.case import Case

LEARNING_RATE = 1e-4
ADAM_EPS = {"pre-training": 1e-8, "fine-tuning": 1e-4}
"""The official scripts raise it for mixed precision when they fine-tune."""
STEP_ALLOWANCE = 2e-3
MAX_NORM = 1.0
MASK_VALUE = -1


def compare_training_step(model: ScGPT, case: Case) -> list[Comparison]:
    """Repeat the stored step and compare everything stored about it; none if nothing is."""
    if not case.names("train."):
        return []
    model.train()
    losses = _generative_losses(model, case) if case.is_generative else _plain_losses(model, case)
    rows = _compare_losses(case, losses)
    total = torch.stack(list(losses.values())).sum()
    model.zero_grad(set_to_none=True)
    total.backward()
    gradients = {
        name: None if weight.grad is None else float(weight.grad.norm())
        for name, weight in model.named_parameters()
    }
    total_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM))
    eps = ADAM_EPS["pre-training" if case.is_generative else "fine-tuning"]
    torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, eps=eps).step()
    rows += _compare_gradients(case, gradients, total_norm)
    rows += _compare_parameters(case, dict(model.named_parameters()))
    return rows + _compare_buffers(case, model)


def _plain_losses(model: ScGPT, case: Case) -> dict[str, Tensor]:
    """Return the loss terms that the case stores, by their stored names."""
    given = inputs(case)
    output = model(**given, heads=available_heads(model))
    target_BL, mask_BL = case.tensor("in.target"), _loss_mask(model, case)
    cell_BD = output["cell_embedding"]
    terms = {
        "gep": lambda: objectives.masked_mse(output["gep"], target_BL, mask_BL),
        "gepc": lambda: objectives.masked_mse(output["gepc"], target_BL, mask_BL),
        "gep_zero": lambda: objectives.zero_nll(output["gep_zero_prob"], target_BL, mask_BL),
        "gepc_zero": lambda: objectives.zero_nll(output["gepc_zero_prob"], target_BL, mask_BL),
        "cls": lambda: objectives.classification(output["cls"], _class_labels(model, case)),
        "ecs_x10": lambda: (
            objectives.ECS_WEIGHT * objectives.ecs(cell_BD, model.config.ecs_threshold)
        ),
        "cce_x10": lambda: (
            objectives.CCE_WEIGHT
            * objectives.cce(cell_BD, model(**given, heads=("cell_embedding",))["cell_embedding"])
        ),
        "dab": lambda: objectives.classification(output["dar"], case.tensor("in.batch_labels")),
    }
    return _stored_terms(case, terms)


def _generative_losses(model: ScGPT, case: Case) -> dict[str, Tensor]:
    """Return the terms of a pre-training step: gene prompt, GEPC, then the cell prompt."""
    given = generative_inputs(case)
    target_BU, mask_BU = case.tensor("in.gen_expr_target"), ~case.tensor("in.gen_pad")
    first = model(**given, heads=available_heads(model))
    prompt_BD = first["cell_embedding"].detach()

    def from_cell() -> Tensor:
        second = model(**given, cell_prompt_BD=prompt_BD, heads=("gep",))
        return objectives.masked_mse(second["gep_unknown"], target_BU, mask_BU)

    def of_first(name: str) -> Tensor:
        return objectives.masked_mse(first[name], target_BU, mask_BU)

    terms = {
        "gen": lambda: of_first("gep_unknown"),
        "mvc": lambda: of_first("gepc_unknown"),
        "gen_from_cell": from_cell,
        "cls": lambda: objectives.classification(first["cls"], _class_labels(model, case)),
    }
    return _stored_terms(case, terms)


def _stored_terms(case: Case, terms: dict) -> dict[str, Tensor]:
    losses = {}
    for array in case.names("train.loss."):
        name = array.removeprefix("train.loss.")
        if name == "total":
            continue
        if name not in terms:
            msg = f"{case.folder}: unknown loss {array!r}; known: {', '.join(terms)}"
            raise ContractError(msg)
        try:
            losses[name] = terms[name]()
        except KeyError as error:
            msg = f"{case.folder}: {array!r} is stored, but the network has no output {error}"
            raise ContractError(msg) from error
    if not losses:
        msg = f"{case.folder}: a training step is stored (train.*), but no loss of it"
        raise ContractError(msg)
    return losses


def _loss_mask(model: ScGPT, case: Case) -> Tensor:
    """Return where the loss is taken: masked inputs, or everywhere in the perturbation model."""
    values_BL = case.tensor("in.values")
    if case.model_class == GENERATOR:
        return torch.ones_like(values_BL, dtype=torch.bool)
    is_category = model.config.value_encoding == "category"
    mask_BL = values_BL == (model.config.n_value_tokens - 1 if is_category else MASK_VALUE)
    if not mask_BL.any():
        msg = f"{case.folder}: no input value is masked, so its training losses are undefined"
        raise ContractError(msg)
    return mask_BL


def _class_labels(model: ScGPT, case: Case) -> Tensor:
    """Return stored labels, or 0, 1, 2 ... as cases without stored labels were made with."""
    stored = case.optional("in.celltype_labels")
    n_cells = len(next(case.tensor(name) for name in case.names("in.")))
    return torch.arange(n_cells) % model.config.n_classes if stored is None else stored


def _compare_losses(case: Case, losses: dict[str, Tensor]) -> list[Comparison]:
    found = {name: float(loss.detach()) for name, loss in losses.items()}
    found["total"] = sum(found.values())
    return [
        compare_number(array, found[array.removeprefix("train.loss.")], float(case.tensor(array)))
        for array in case.names("train.loss.")
    ]


def _compare_gradients(
    case: Case, gradients: dict[str, float | None], total_norm: float
) -> list[Comparison]:
    rows = []
    if "train.total_grad_norm" in case.arrays:
        stored = float(case.tensor("train.total_grad_norm"))
        difference = abs(total_norm - stored) / stored
        rows.append(Comparison("train.total_grad_norm", difference, GRADIENT_TOLERANCE, "relative"))
    if "train.grad_norms" in case.arrays:
        rows.append(_worst_gradient(case, gradients, total_norm))
    return rows


def _worst_gradient(
    case: Case, gradients: dict[str, float | None], total_norm: float
) -> Comparison:
    """Return the largest difference of one parameter's gradient norm."""
    worst, whose = 0.0, ""
    stored = _per_parameter(case, "train.grad_norms")
    for official, value in stored.items():
        name = from_official(official)
        if name not in gradients:
            return missing("train.grad_norms", f"the network has no parameter {official}")
        difference = _gradient_difference(gradients[name], value, floor=GRADIENT_FLOOR * total_norm)
        if not difference <= worst:
            worst, whose = difference, official
    unseen = sorted(set(gradients) - {from_official(official) for official in stored})
    if unseen:
        return missing("train.grad_norms", f"nothing stored about parameter {unseen[0]}")
    return Comparison("train.grad_norms", worst, GRADIENT_TOLERANCE, "relative", whose)


def _gradient_difference(ours: float | None, stored: float, *, floor: float) -> float:
    """Return the relative difference; a stored NaN means that no gradient arrived."""
    if math.isnan(stored):
        return 0.0 if ours is None or ours == 0 else math.inf
    return abs((ours or 0.0) - stored) / max(stored, floor)


def _compare_parameters(case: Case, parameters: dict[str, Tensor]) -> list[Comparison]:
    """Compare sum and norm of each parameter after the step.

    Gradients that are zero but for rounding (those of key biases) move a weight by a random
    fraction of a step, hence a few thousandths of the longest possible step are allowed on top.
    """
    rows = []
    for array, measure, power in (
        ("train.param_sum_after", torch.Tensor.sum, 1.0),
        ("train.param_norm_after", torch.Tensor.norm, 0.5),
    ):
        if array not in case.arrays:
            continue
        worst = Comparison(array, 0.0, PARAMETER_TOLERANCE, "absolute")
        for official, value in _per_parameter(case, array).items():
            weight = parameters.get(from_official(official) or "")
            if weight is None:
                return [*rows, missing(array, f"the network has no parameter {official}")]
            longest_step = LEARNING_RATE * weight.numel() ** power
            allowed = PARAMETER_TOLERANCE + STEP_ALLOWANCE * longest_step
            difference = abs(float(measure(weight.detach().double())) - value)
            if not difference / allowed <= worst.difference / worst.tolerance:
                worst = Comparison(array, difference, allowed, "absolute", official)
        rows.append(worst)
    return rows


def _compare_buffers(case: Case, model: ScGPT) -> list[Comparison]:
    """Compare running statistics of batch normalisation."""
    buffers = dict(model.named_buffers())
    rows = []
    for array in case.names("train.buffer."):
        name = from_official(array.removeprefix("train.buffer."))
        if name in buffers:
            rows.append(compare_output(array, buffers[name], case.tensor(array)))
        else:
            rows.append(missing(array, "stored, but this network has no such statistic"))
    return rows


def _per_parameter(case: Case, array: str) -> dict[str, float]:
    """Return the entries of `array` by official parameter name."""
    names = [str(name) for name in case.strings("train.grad_names")]
    values = [float(value) for value in case.tensor(array)]
    if len(names) != len(values):
        msg = f"{case.folder}: {array} has {len(values)} entries for {len(names)} parameters"
        raise ContractError(msg)
    return dict(zip(names, values, strict=True))
