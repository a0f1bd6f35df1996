"""A bar of cells done: drawn all the time on a terminal, now and then in a log."""

from __future__ import annotations

import sys

from tqdm import tqdm

LOG_SECONDS = 30.0


def cell_bar(n_cells: int, what: str, *, show: bool, done: int = 0) -> tqdm:
    """Return a bar on standard error, to be used as a context manager."""
    return tqdm(
        total=n_cells,
        initial=done,
        desc=what,
        unit="cell",
        disable=not show,
        mininterval=0.1 if sys.stderr.isatty() else LOG_SECONDS,
        file=sys.stderr,
    )
