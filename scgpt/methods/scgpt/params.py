"""The blocks of parameters that scGPT methods are composed of: a network, and its optimiser.

A method inherits the blocks it needs, so that their keys stand beside its own in the
configuration, and repeats a field only where its default is another one.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from scgpt.methods.base import MethodParams
from scgpt.training.config import TrainingConfig


class NetworkParams(MethodParams):
    """Where the network comes from, and what it is like if it starts from scratch."""

    init: Literal["scratch", "checkpoint"] = "scratch"
    """`checkpoint` starts from the pretrained model of the method's declaration."""

    d_model: int = Field(default=64, ge=1)
    n_layers: int = Field(default=2, ge=1)
    n_heads: int = Field(default=4, ge=1)
    d_ff: int = Field(default=64, ge=1)
    """Sizes of the network from scratch; a checkpoint brings its own."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float | None = Field(default=0.0, ge=0, lt=1)
    """Dropout of attention probabilities; None means the same as `dropout`, as published. Zero
    allows a fused attention kernel, which makes training on a CPU three times as fast."""

    n_bins: int = Field(default=51, ge=2, le=256)
    """Bins of expression values, for a network from scratch; a checkpoint brings its own."""


class OptimiserParams(MethodParams):
    """How a network is trained; the meaning of each field is that of `TrainingConfig`."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=8, ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=7e-4, gt=0)
    lr_decay: float = Field(default=0.9, gt=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a better validation score; None runs all epochs."""

    amp: Literal["off", "fp16", "bf16"] = "off"
    """Mixed precision: `bf16`, or on a GPU `fp16`; where the device cannot do it, single precision,
    so that one plan runs everywhere."""

    def training_config(self, **more: Any) -> TrainingConfig:
        """Return the options of the training loop; `more` are those that the method decides."""
        fields = set(OptimiserParams.model_fields) - {"batch_size"}
        return TrainingConfig(**self.model_dump(include=fields), amp_required=False, **more)
