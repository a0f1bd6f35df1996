"""Progress on standard error: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE_SECONDS = 30.0


class Progress:
    """Shows where a training is.

    Parameters
    ----------
    show
        Whether to write anything.
    epochs, steps_per_epoch
        Size of the run.
    """

    def __init__(self, *, show: bool, epochs: int, steps_per_epoch: int) -> None:
        self.show, self.epochs, self.steps_per_epoch = show, epochs, steps_per_epoch
        self.terminal = show and sys.stderr.isatty()
        self.bar: tqdm | None = None
        self.last_line = time.monotonic()

    def start_epoch(self, epoch: int, *, done: int) -> None:
        """Begin the bar of an epoch of which `done` steps were made before."""
        if self.terminal:
            self.bar = tqdm(
                total=self.steps_per_epoch,
                initial=done,
                desc=f"epoch {epoch + 1}/{self.epochs}",
                unit="step",
                file=sys.stderr,
                leave=False,
            )

    def step(self, epoch: int, done: int, loss: float) -> None:
        """Count one step."""
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        elif self.show and time.monotonic() - self.last_line > LINE_SECONDS:
            self._line(f"epoch {epoch + 1}/{self.epochs} step {done}/{self.steps_per_epoch}", loss)

    def end_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Close the bar and say how the epoch ended."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        if self.show:
            self._line(f"epoch {epoch + 1}/{self.epochs}", **values)

    def _line(self, where: str, loss: float | None = None, **values: float) -> None:
        if loss is not None:
            values = {"loss": loss, **values}
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{where}  {numbers}", file=sys.stderr, flush=True)
        self.last_line = time.monotonic()
