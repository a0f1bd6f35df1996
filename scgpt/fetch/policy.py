"""How patient a download is: time-outs, retries, back-off, and what counts as a stall."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from scgpt.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


class SourceFailed(DownloadError):
    """One source did not deliver the file; another one may."""


class Refused(SourceFailed):
    """Asking the same source again would not help."""


class Temporary(SourceFailed):
    """Asking the same source again may help.

    Parameters
    ----------
    message
        What happened, in one line.
    wait
        Seconds the server asked to wait; None leaves it to the back-off.
    """

    def __init__(self, message: str, *, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Limits of one download; tests make them small and inject `sleep`.

    Parameters
    ----------
    attempts
        Failures in a row, without progress, after which a source is given up.
    progress_bytes
        New bytes that count as progress and start the count of failures again.
    connect_timeout, read_timeout
        Seconds to wait for a connection, and for the next byte.
    min_speed, stall_window
        A transfer slower than `min_speed` bytes per second over `stall_window` seconds is broken
        off and asked for again: it would pass every read time-out and never end.
    base_wait, max_wait
        Seconds of the first back-off, and of the longest; a server that asks for more
        (Retry-After) is given up at once.
    spare_bytes
        Free disk space that must remain after the download.
    max_unpacked, max_members
        Bounds for what an archive may unpack to.
    """

    attempts: int = 6
    progress_bytes: int = 1 << 20
    connect_timeout: float = 20.0
    read_timeout: float = 60.0
    min_speed: float = 1024.0
    stall_window: float = 60.0
    base_wait: float = 1.0
    max_wait: float = 120.0
    max_redirects: int = 10
    spare_bytes: int = 64 << 20
    max_unpacked: int = 256 << 30
    max_members: int = 100_000
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after `failures` failures: exponential, with jitter.

        The jitter (half to one and a half) keeps jobs that failed together from asking together.
        """
        return min(self.max_wait, self.base_wait * 2 ** (failures - 1)) * (0.5 + self.jitter())


class SpeedGuard:
    """Breaks off a transfer that drips."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self._since = policy.clock()
        self._n_bytes = 0

    def add(self, n_bytes: int) -> None:
        """Count `n_bytes` that have just arrived.

        Raises
        ------
        Temporary
            If the last window was slower than the policy allows.
        """
        self._n_bytes += n_bytes
        elapsed = self._policy.clock() - self._since
        if elapsed < self._policy.stall_window:
            return
        speed = self._n_bytes / elapsed
        if speed < self._policy.min_speed:
            msg = (
                f"stalled: {speed:.0f} bytes/s over {elapsed:.0f} s "
                f"(at least {self._policy.min_speed:.0f} expected)"
            )
            raise Temporary(msg)
        self._since = self._policy.clock()
        self._n_bytes = 0


def with_retries(
    action: Callable[[], Result],
    policy: Policy,
    *,
    progress: Callable[[], int],
    say: Callable[[str], None],
) -> Result:
    """Run `action` until it succeeds, is refused, or fails too often without progress.

    Parameters
    ----------
    action
        One attempt; it resumes by itself where the last one stopped.
    policy
        Number of attempts and waits.
    progress
        Bytes held so far. Only a new maximum counts as progress, so a server that always starts
        again from zero cannot keep a download alive for ever.
    say
        Where to tell about waits.

    Raises
    ------
    Refused
        If the attempts are used up or the source cannot help.
    """
    failures, best = 0, progress()
    while True:
        try:
            return action()
        except Temporary as problem:
            if progress() >= best + policy.progress_bytes:
                failures, best = 0, progress()
            failures += 1
            if failures >= policy.attempts:
                msg = f"{problem} (given up after {failures} attempts)"
                raise Refused(msg) from problem
            seconds = policy.wait(failures) if problem.wait is None else problem.wait
            if seconds > policy.max_wait * 1.5:
                msg = f"{problem} (it asks to wait {seconds:.0f} s: run again later)"
                raise Refused(msg) from problem
            say(f"{problem}; next attempt in {seconds:.1f} s")
            policy.sleep(seconds)
