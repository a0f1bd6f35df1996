"""Fine-tuning recipes: which objectives with which weights, and the loss they add up to.

Shapes: B cells, L tokens including <cls>, M of them masked, D width, C classes, P batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from scgpt.errors import ConfigError
from scgpt.model import objectives as formulas

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from scgpt.training.batches import CellBatch

OBJECTIVES = ("gep", "gepc", "ecs", "cce", "cls", "dar")
MASKED = frozenset({"gep", "gepc"})
ENCODERS = (
    "gene_encoder.",
    "value_encoder.",
    "batch_encoder.",
    "modality_encoder.",
    "perturbation_encoder.",
    "generation_flag.",
)


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """Objectives of a fine-tuning and what they need from batches and network.

    Parameters
    ----------
    objectives
        Weight of each objective (`gep`, `gepc`, `ecs`, `cce`, `cls`, `dar`); the loss is the
        weighted sum. Those not named, or with weight 0, are not computed.
    mask_ratio
        Share of tokens masked in training and validation; `gep` and `gepc` need it above 0.
    explicit_zero
        Whether `gep` and `gepc` also predict the probability of a non-zero value; its negative
        log-likelihood joins the loss with the weight of the objective.
    ecs_threshold
        Similarity at which `ecs` is neutral.
    input_norm
        `dsbn` for normalisation per batch (then no mini-batch may mix batches).
    freeze_encoders
        Keep the encoders of genes, values and labels as loaded; the transformer and the heads
        are trained.

    Raises
    ------
    ConfigError
        If an objective is unknown, no weight is positive, or something needed is missing.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Fine-tuning objectives".
    """

    objectives: Mapping[str, float] = field(default_factory=lambda: {"cls": 1.0})
    mask_ratio: float = 0.0
    explicit_zero: bool = False
    ecs_threshold: float = 0.8
    input_norm: Literal["none", "batchnorm", "dsbn"] = "none"
    freeze_encoders: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.objectives) - set(OBJECTIVES))
        if unknown:
            msg = f"unknown objective {unknown[0]!r}; known: {', '.join(OBJECTIVES)}"
            raise ConfigError(msg)
        negative = {name: weight for name, weight in self.objectives.items() if not weight >= 0}
        if negative or not any(self.objectives.values()):
            msg = f"objectives are {dict(self.objectives)}; expected weights >= 0, one above 0"
            raise ConfigError(msg)
        object.__setattr__(self, "objectives", MappingProxyType(dict(self.objectives)))
        masked = sorted(MASKED & self.active.keys())
        if masked and not 0 < self.mask_ratio < 1:
            msg = f"objective {masked[0]!r} needs 0 < mask_ratio < 1, found {self.mask_ratio}"
            raise ConfigError(msg)

    @property
    def active(self) -> dict[str, float]:
        """Objectives with a weight above 0, in the order they are computed and reported."""
        return {name: self.objectives[name] for name in OBJECTIVES if self.objectives.get(name)}

    @property
    def heads(self) -> tuple[str, ...]:
        """Outputs of the network that the objectives read."""
        direct = [name for name in ("gep", "gepc", "cls", "dar") if name in self.active]
        return (*direct, "cell_embedding") if {"ecs", "cce"} & self.active.keys() else (*direct,)

    @property
    def fingerprint(self) -> str:
        """Text that changes with every option."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps(plain | {"objectives": dict(self.objectives)}, sort_keys=True)

    def model_options(self, *, n_classes: int = 0, n_batch_labels: int = 0) -> dict[str, Any]:
        """Return the fields of `ScGPTConfig` that this recipe decides."""
        needs_batches = "dar" in self.active or self.input_norm == "dsbn"
        if needs_batches and n_batch_labels < 1:
            msg = "objective 'dar' and input_norm 'dsbn' need the batch of every cell; none given"
            raise ConfigError(msg)
        if "cls" in self.active and n_classes < 2:
            msg = f"objective 'cls' needs at least two classes, found {n_classes}"
            raise ConfigError(msg)
        return {
            "n_classes": n_classes if "cls" in self.active else 0,
            "n_batch_labels": n_batch_labels,
            "gepc": "inner product" if "gepc" in self.active else None,
            "dar": "dar" in self.active,
            "explicit_zero": self.explicit_zero,
            "ecs_threshold": self.ecs_threshold,
            "input_norm": self.input_norm,
        }


ANNOTATION = FinetuneRecipe(objectives={"cls": 1.0})
INTEGRATION = FinetuneRecipe(
    objectives={"gep": 1.0, "gepc": 1.0, "ecs": formulas.ECS_WEIGHT, "dar": 1.0},
    mask_ratio=0.4,
    explicit_zero=True,
    input_norm="dsbn",
)
MULTIOMIC = FinetuneRecipe(objectives={"gep": 1.0, "gepc": 1.0, "dar": 1.0}, mask_ratio=0.4)


class FinetuneLoss:
    """Weighted sum of the objectives of a recipe; the `loss_fn` of the training loop.

    Parameters
    ----------
    recipe
        The objectives.
    """

    def __init__(self, recipe: FinetuneRecipe) -> None:
        self.recipe = recipe

    def __call__(self, model: nn.Module, batch: CellBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the unweighted value of every objective."""
        output = self._forward(model, batch, self.recipe.heads)
        values: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for name, weight in self.recipe.active.items():
            for term, value in self._objective(name, model, batch, output).items():
                values[term], weights[term] = value, weight
        return sum(weights[term] * values[term] for term in values), values

    def _forward(
        self, model: nn.Module, batch: CellBatch, heads: tuple[str, ...]
    ) -> dict[str, Tensor]:
        return model(
            batch.gene_ids_BL,
            batch.values_BL,
            batch.padding_BL,
            batch_labels_B=batch.batch_labels_B,
            positions_BM=batch.positions_BM,
            heads=heads,
        )

    def _objective(
        self, name: str, model: nn.Module, batch: CellBatch, output: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if name in MASKED:
            return self._masked(name, batch, output)
        if name == "ecs":
            return {name: formulas.ecs(output["cell_embedding"].float(), self.recipe.ecs_threshold)}
        if name == "cce":
            # Dropout differs between the two passes; that is the whole contrast.
            second = self._forward(model, batch, ("cell_embedding",))["cell_embedding"].float()
            return {name: formulas.cce(output["cell_embedding"].float(), second)}
        labels_B = batch.labels_B if name == "cls" else batch.batch_labels_B
        if labels_B is None:
            what = "class" if name == "cls" else "batch"
            msg = f"objective {name!r} needs the {what} of every cell; the batches carry none"
            raise ConfigError(msg)
        return {name: formulas.classification(output[name].float(), labels_B)}

    def _masked(
        self, name: str, batch: CellBatch, output: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if batch.targets_BL is None or batch.mask_BL is None:
            msg = f"objective {name!r} needs masked values; the batches have none (mask_ratio 0)"
            raise ConfigError(msg)
        targets, mask = batch.targets_BL, batch.mask_BL
        if batch.positions_BM is not None:
            # The network has predicted the masked positions alone.
            targets, mask = targets.gather(1, batch.positions_BM), batch.is_masked_BM
        values = {name: formulas.masked_mse(output[name].float(), targets, mask)}
        if self.recipe.explicit_zero:
            values[f"{name}_zero"] = formulas.zero_nll(
                output[f"{name}_zero_prob"].float(), targets, mask
            )
        return values


def freeze_encoders(model: nn.Module) -> list[str]:
    """Stop the gradient of the encoders of genes, values and labels; return what was frozen.

    Normalisation of the input embedding, the transformer and the heads stay trainable.
    """
    frozen = []
    for name, parameter in model.named_parameters():
        if name.startswith(ENCODERS):
            parameter.requires_grad_(requires_grad=False)
            frozen.append(name)
    return frozen
