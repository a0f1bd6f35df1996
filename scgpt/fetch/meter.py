"""Progress on stderr: a bar at a terminal, a few plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from scgpt.fetch.partial import readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_SECONDS_BETWEEN_LINES = 30.0


class Meter:
    """Counts the bytes of one file; does nothing visible if `enabled` is false.

    Parameters
    ----------
    name
        What is counted.
    enabled
        Whether anything is shown.
    stream
        Where; stderr by default.
    clock
        Seconds; decides when the next plain line is due.
    """

    def __init__(
        self,
        name: str,
        *,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name = name
        self._enabled = enabled
        self._stream = stream or sys.stderr
        self._clock = clock
        self._bar = None
        self._done, self._total = 0, None
        self._next_line = clock() + _SECONDS_BETWEEN_LINES

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def start(self, done: int, total: int | None) -> None:
        """Begin at `done` of `total` bytes."""
        self._close()
        self._done, self._total = done, total
        if self._enabled and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._name,
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                file=self._stream,
                leave=False,
            )

    def add(self, n_bytes: int) -> None:
        """Count `n_bytes` more."""
        self._done += n_bytes
        if self._bar is not None:
            self._bar.update(n_bytes)
        elif self._enabled and self._clock() >= self._next_line:
            self._next_line = self._clock() + _SECONDS_BETWEEN_LINES
            share = f" ({100 * self._done // self._total} %)" if self._total else ""
            self.say(f"{readable(self._done)} of {readable(self._total)}{share}")

    def say(self, message: str) -> None:
        """Tell something about the file, without tearing the bar."""
        if not self._enabled:
            return
        line = f"{self._name}: {message}"
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
