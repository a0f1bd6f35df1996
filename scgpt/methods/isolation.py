"""Keep a library that uses the global state of the process from leaving traces in it."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import random
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgpt.training.determinism import derive_seed, isolated_torch

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

NUMPY_SEED = 2**32


@contextlib.contextmanager
def isolated_library(
    seed: int, *keys: int | str, device: str = "cpu", threads: int | None = None
) -> Iterator[None]:
    """Seed the global generators, and give back the state of the process when the block ends.

    Restored: the generators of Python, NumPy and PyTorch, PyTorch's thread count, warning filters
    and environment variables. Warnings are silent inside, and what the library prints goes to the
    log (level debug).

    Parameters
    ----------
    seed, keys
        The generators start from here; equal ones give equal draws.
    device, threads
        Where and with how many CPU threads PyTorch computes inside.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    environment = dict(os.environ)
    printed = io.StringIO()
    try:
        with (
            isolated_torch(device, threads=threads),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            start = derive_seed(seed, *keys)
            random.seed(start)
            np.random.seed(start % NUMPY_SEED)  # noqa: NPY002
            torch.manual_seed(start)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        for line in printed.getvalue().splitlines():
            logger.debug("%s", line)


def import_uncompiled(module: str) -> None:
    """Import a module that would compile its functions with Numba at import; leave them in Python.

    Its functions give the same values, slowly. Compiling them has aborted processes that had done
    much before.
    """
    import numba

    before = numba.config.DISABLE_JIT
    numba.config.DISABLE_JIT = 1
    try:
        importlib.import_module(module)
    finally:
        numba.config.DISABLE_JIT = before
