"""Keep a library that uses the global state of the process from leaving traces in it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import sys
import types
import warnings
from typing import TYPE_CHECKING, Any

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


@contextlib.contextmanager
def unused_module(name: str, *functions: str) -> Iterator[None]:
    """Let imports inside go without a module of which they only name some functions.

    For a library that takes seconds to import and is never called here. Its functions are there by
    name and say so if they are called after all; outside the block the module is the real one.

    Parameters
    ----------
    name
        Of the module. Where it has been imported already, nothing is done.
    functions
        Its functions that are named inside.
    """
    if name in sys.modules:
        yield
        return

    def left_out(*_: Any, **__: Any) -> None:
        msg = f"a function of '{name}' was called, which was left out because nothing here needs it"
        raise RuntimeError(msg)

    module = types.ModuleType(name)
    for function in functions:
        setattr(module, function, left_out)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
