"""The options of the training loop."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from scgpt.errors import ConfigError

ADAM_EPS = 1e-8
ADAM_EPS_MIXED_PRECISION = 1e-4


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train: the optimiser, its schedule, precision, selection, checkpoints.

    The defaults are the common fine-tuning recipe of scGPT (doi:10.1038/s41592-024-02201-0,
    Methods, "Implementation details").

    Parameters
    ----------
    epochs
        Passes over the training batches.
    learning_rate
        Of Adam, before warm-up and decay.
    schedule, lr_decay, warmup_steps
        `step` multiplies the rate by `lr_decay` after every epoch, `cosine` lets it fall to 0 over
        all steps, `constant` leaves it. During the first `warmup_steps` optimiser steps the rate
        grows linearly to its value.
    adam_eps
        None means 1e-8 in single and 1e-4 in mixed precision (small second moments underflow).
    gradient_clip
        Largest norm of the gradient; None for no limit.
    accumulate
        Batches per optimiser step. The gradient is that of one large batch: batches count by their
        number of cells, also in a last, incomplete group.
    amp, amp_required
        Mixed precision: `bf16`, or on a GPU `fp16`. A device that cannot do it is an error, unless
        it is not required: then such a device computes in single precision. (On a CPU without
        bf16 instructions `bf16` works, but slower than single precision.)
    patience
        Stop after this many epochs without a better value; None to run all epochs.
    selection, selection_mode
        What makes an epoch the best one: `loss`, the name of an objective, or the name of a metric
        that `evaluate` returns; and whether it should be small or large.
    log_steps
        Record the mean loss of every so many optimiser steps, besides that of every epoch.
    checkpoint_steps, checkpoint_seconds
        Write a checkpoint after so many steps or seconds, besides at the end of every epoch. Only
        used when the loop is given a scratch folder.

    Raises
    ------
    ConfigError
        If a value is impossible.
    """

    epochs: int = 10
    learning_rate: float = 1e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    lr_decay: float = 0.9
    warmup_steps: int = 0
    adam_eps: float | None = None
    gradient_clip: float | None = 1.0
    accumulate: int = 1
    amp: Literal["off", "fp16", "bf16"] = "off"
    amp_required: bool = True
    patience: int | None = None
    selection: str = "loss"
    selection_mode: Literal["min", "max"] = "min"
    log_steps: int | None = None
    checkpoint_steps: int | None = None
    checkpoint_seconds: float | None = 600.0

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("patience", "log_steps", "checkpoint_steps"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1, or nothing")
        for name in ("adam_eps", "gradient_clip", "checkpoint_seconds"):
            value = getattr(self, name)
            self._require(name, value is None or value > 0, "above 0, or nothing")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("lr_decay", 0 < self.lr_decay <= 1, "above 0 and at most 1")
        self._require("warmup_steps", self.warmup_steps >= 0, "at least 0")
        self._require_choice("schedule", ("step", "cosine", "constant"))
        self._require_choice("amp", ("off", "fp16", "bf16"))
        self._require_choice("selection_mode", ("min", "max"))

    def _require(self, name: str, holds: bool, expected: str) -> None:  # noqa: FBT001
        if not holds:
            msg = f"training option {name} is {getattr(self, name)!r}, expected {expected}"
            raise ConfigError(msg)

    def _require_choice(self, name: str, choices: tuple[str, ...]) -> None:
        self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values."""
        return dataclasses.asdict(self)
