"""The one training loop: annotation, integration, perturbation and pretraining all use it.

Every random number of a step follows from (seed, epoch, number of the batch), and the learning
rate from the position alone. So a run that was killed and resumed makes exactly the steps that an
unbroken one makes; on CPU the weights agree to the last bit.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scgpt.errors import ConfigError, DataError
from scgpt.training import records, resume
from scgpt.training.determinism import isolated_torch, reseed
from scgpt.training.optim import Precision, apply_gradients, build_optimizer, learning_rate
from scgpt.training.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from scgpt.training.batches import BatchSource, TrainingBatch
    from scgpt.training.config import TrainingConfig

logger = logging.getLogger(__name__)

LossFunction = Callable[["nn.Module", Any], tuple["Tensor", Mapping[str, "Tensor"]]]
"""(network, batch) -> (weighted loss, unweighted value of every objective)."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training leaves behind besides the network, which holds the best weights.

    Attributes
    ----------
    history
        Rows with the keys epoch, step, phase, objective, value, lr, seconds, cells_per_second.
        Phase `train` is the mean over an epoch, `valid` its validation, `step` the mean over
        `log_steps` steps. Epochs count from 0, steps from 1, seconds from the start of the run.
    best_epoch, best_value
        The epoch whose weights were kept and its selection value (None without validation).
    n_epochs, n_steps
        Epochs and optimiser steps made.
    stopped_early
        Whether patience ran out.
    resumed_step
        Step at which this call took up a checkpoint; 0 for a run from the beginning.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    best_value: float | None
    n_epochs: int
    n_steps: int
    stopped_early: bool
    resumed_step: int


def train(
    model: nn.Module,
    *,
    loss_fn: LossFunction,
    train_batches: BatchSource,
    valid_batches: BatchSource | None,
    config: TrainingConfig,
    seed: int,
    device: str | torch.device = "cpu",
    scratch: Path | None = None,
    progress: bool = False,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    fingerprint: str = "",
) -> TrainingResult:
    """Train a network in place and leave its best weights in it, in evaluation mode.

    Parameters
    ----------
    model
        The network; moved to `device`. Frozen parameters stay as they are.
    loss_fn
        Computes the weighted loss and the objectives of a batch.
    train_batches, valid_batches
        The data. Without validation data (and without `evaluate`) the last epoch is the best.
    config
        How to train.
    seed
        Of dropout and all else that is random inside `loss_fn`.
    device
        Where to compute.
    scratch
        Folder for the checkpoint. The same call resumes from it.
    progress
        Whether to show progress on standard error.
    evaluate
        Computes further metrics of the network after each epoch, for `config.selection`.
    fingerprint
        Identity of whatever decides the result and cannot be seen from the other arguments
        (options of `loss_fn`); a checkpoint with another one is not resumed.

    Raises
    ------
    DataError
        If a loss or gradient is not finite.
    ConfigError
        If the selection names an unknown metric, or nothing can be trained.
    """
    run = _Run(
        model=model,
        loss_fn=loss_fn,
        train_batches=train_batches,
        valid_batches=valid_batches,
        config=config,
        seed=seed,
        device=torch.device(device),
        folder=None if scratch is None else Path(scratch),
        evaluate=evaluate,
        show=progress,
        fingerprint=fingerprint,
    )
    with isolated_torch(device):
        return run.complete()


@dataclass
class _Position:
    """Where a run stands; everything of a checkpoint that is neither weights nor history."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_epoch: int = -1
    best_value: float | None = None
    finished: bool = False
    stopped_early: bool = False
    epoch_sums: dict[str, float] = field(default_factory=dict)
    window_sums: dict[str, float] = field(default_factory=dict)


class _Run:
    """State of one call of `train`."""

    def __init__(
        self,
        *,
        model: nn.Module,
        loss_fn: LossFunction,
        train_batches: BatchSource,
        valid_batches: BatchSource | None,
        config: TrainingConfig,
        seed: int,
        device: torch.device,
        folder: Path | None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
        show: bool,
        fingerprint: str,
    ) -> None:
        self.model = model.to(device)
        self.loss_fn, self.evaluate = loss_fn, evaluate
        self.train_batches, self.valid_batches = train_batches, valid_batches
        self.config, self.seed, self.device, self.folder = config, seed, device, folder
        self.precision = Precision.choose(config, device)
        self.optimizer = build_optimizer(model, config, self.precision)
        self.scaler = self.precision.scaler()
        self.steps_per_epoch = math.ceil(len(train_batches) / config.accumulate)
        self.progress = Progress(
            show=show, epochs=config.epochs, steps_per_epoch=self.steps_per_epoch
        )
        self.position = _Position()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] | None = None
        self.digest = ""
        if folder is not None:
            self.digest = resume.run_digest(self._identity(fingerprint), model.state_dict())
        self.started = self.saved = time.monotonic()
        self.seconds_before = 0.0

    def _identity(self, fingerprint: str) -> dict[str, Any]:
        valid = self.valid_batches
        return {
            "config": self.config.to_dict(),
            "seed": self.seed,
            "device": self.device.type,
            "train": self.train_batches.fingerprint,
            "valid": None if valid is None else valid.fingerprint,
            "trained": [n for n, p in self.model.named_parameters() if p.requires_grad],
            "more": fingerprint,
        }

    def complete(self) -> TrainingResult:
        """Resume if possible, run all epochs, put the best weights into the network."""
        self._restore()
        at = self.position
        resumed_step = at.step
        while not at.finished:
            self._train_epoch()
            self._end_epoch()
            self._save()
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return TrainingResult(
            history=self.history,
            best_epoch=at.best_epoch,
            best_value=at.best_value,
            n_epochs=at.epoch,
            n_steps=at.step,
            stopped_early=at.stopped_early,
            resumed_step=resumed_step,
        )

    def _train_epoch(self) -> None:
        at, config = self.position, self.config
        self.model.train()
        self.progress.start_epoch(at.epoch, done=at.batch // config.accumulate)
        batches = self.train_batches.epoch(at.epoch, start=at.batch)
        while group := list(itertools.islice(batches, config.accumulate)):
            start = time.perf_counter()
            self._step(group)
            at.epoch_seconds += time.perf_counter() - start
            self._log_window()
            if self._checkpoint_due():
                self._save()

    def _step(self, group: list[TrainingBatch]) -> None:
        at, config = self.position, self.config
        rate = learning_rate(
            config,
            epoch=at.epoch,
            step=at.step,
            total_steps=config.epochs * self.steps_per_epoch,
        )
        n_cells = sum(batch.n_cells for batch in group)
        values = {}
        for batch in group:
            reseed(self.seed, "train", at.epoch, at.batch)
            loss, values = self._loss(batch, phase="training")
            self.scaler.scale(loss * (batch.n_cells / n_cells)).backward()
            for sums in (at.epoch_sums, at.window_sums):
                records.add(sums, values, batch.n_cells)
            at.batch += 1
        apply_gradients(
            self.optimizer,
            self.scaler,
            rate=rate,
            clip=config.gradient_clip,
            where=self._where("training"),
        )
        at.step += 1
        self.progress.step(at.epoch, math.ceil(at.batch / config.accumulate), values["loss"])

    def _loss(self, batch: TrainingBatch, *, phase: str) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the values of all objectives; refuse any that is not finite."""
        batch = batch.to(self.device)
        with self.precision.autocast():
            loss, objectives = self.loss_fn(self.model, batch)
        tensors = [loss.detach(), *(value.detach() for value in objectives.values())]
        # One transfer for all numbers: each would make the GPU wait.
        numbers = torch.stack([tensor.float() for tensor in tensors]).tolist()
        values = dict(zip(["loss", *objectives], numbers, strict=True))
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            found = ", ".join(f"{name}={value:g}" for name, value in values.items())
            msg = (
                f"{', '.join(wrong)} is not finite at {self._where(phase)} ({found}); lower the "
                "learning rate, turn mixed precision off, or check that every batch has something "
                "to predict"
            )
            raise DataError(msg)
        return loss, values

    def _where(self, phase: str) -> str:
        return f"epoch {self.position.epoch + 1}, step {self.position.step + 1} ({phase})"

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self.model.eval()
        sums: dict[str, float] = {}
        if self.valid_batches is not None:
            for number, batch in enumerate(self.valid_batches.epoch(self.position.epoch)):
                reseed(self.seed, "valid", number)
                records.add(sums, self._loss(batch, phase="validation")[1], batch.n_cells)
        values = records.means(sums)
        if self.evaluate is not None:
            reseed(self.seed, "evaluate")
            values.update({name: float(v) for name, v in self.evaluate(self.model).items()})
        return values

    def _end_epoch(self) -> None:
        at = self.position
        trained = records.means(at.epoch_sums)
        speed = at.epoch_sums[records.CELLS] / at.epoch_seconds
        self._record("train", trained, speed)
        values = self._validate()
        self._record("valid", values)
        shown = {"loss": trained["loss"]} | {f"valid {k}": v for k, v in values.items()}
        self.progress.end_epoch(at.epoch, shown)
        self._select(values)
        at.epoch, at.batch, at.epoch_seconds, at.epoch_sums = at.epoch + 1, 0, 0.0, {}
        patience = self.config.patience
        if patience is not None and at.best_value is not None:
            at.stopped_early = at.epoch - 1 - at.best_epoch >= patience
        at.finished = at.stopped_early or at.epoch >= self.config.epochs

    def _select(self, values: Mapping[str, float]) -> None:
        """Keep the weights if this epoch is the best so far."""
        at, name = self.position, self.config.selection
        if not values:
            at.best_epoch = at.epoch
            return
        if name not in values:
            msg = f"selection {name!r} is not computed in validation; known: {', '.join(values)}"
            raise ConfigError(msg)
        value = values[name]
        if not math.isfinite(value):
            msg = f"selection {name!r} is {value} after epoch {at.epoch + 1}; no epoch can be best"
            raise DataError(msg)
        sign = 1 if self.config.selection_mode == "min" else -1
        if at.best_value is None or sign * value < sign * at.best_value:
            at.best_epoch, at.best_value = at.epoch, value
            self.best = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}

    def _log_window(self) -> None:
        at, every = self.position, self.config.log_steps
        if every is None:
            at.window_sums = {}
        elif at.step % every == 0:
            self._record("step", records.means(at.window_sums))
            at.window_sums = {}

    def _record(
        self, phase: str, values: Mapping[str, float], cells_per_second: float | None = None
    ) -> None:
        self.history += records.rows(
            values,
            epoch=self.position.epoch,
            step=self.position.step,
            phase=phase,
            lr=self.optimizer.param_groups[0]["lr"],
            seconds=self._seconds(),
            cells_per_second=cells_per_second,
        )

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _checkpoint_due(self) -> bool:
        if self.folder is None:
            return False
        steps, seconds = self.config.checkpoint_steps, self.config.checkpoint_seconds
        by_steps = steps is not None and self.position.step % steps == 0
        return by_steps or (seconds is not None and time.monotonic() - self.saved >= seconds)

    def _save(self) -> None:
        if self.folder is None:
            return
        self.position.seconds = self._seconds()
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "position": asdict(self.position),
            "history": self.history,
        }
        resume.save(self.folder, content, digest=self.digest)
        self.saved = time.monotonic()

    def _restore(self) -> None:
        if self.folder is None:
            return
        content = resume.load(self.folder, digest=self.digest)
        if content is None:
            return
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.best = content["best"]
        self.position = _Position(**content["position"])
        self.history = content["history"]
        self.seconds_before = self.position.seconds
        logger.info(
            "resumed at epoch %d, step %d from %s",
            self.position.epoch + 1,
            self.position.step,
            self.folder / resume.FILE_NAME,
        )
