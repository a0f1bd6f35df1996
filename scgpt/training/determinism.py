"""Randomness that depends on names and numbers, never on what ran before."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numba
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED_BITS = 63


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a seed for one purpose, e.g. ``derive_seed(0, "order", epoch)``.

    Equal arguments give equal seeds on every machine; different ones give unrelated seeds.
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(key).__name__}:{key}" for key in keys)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)


def numpy_generator(seed: int, *keys: int | str) -> np.random.Generator:
    """Return a NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *keys))


@contextmanager
def isolated_torch(device: str | torch.device, *, threads: int | None = None) -> Iterator[None]:
    """Give PyTorch's generators and thread count back as they were when the block ends.

    Inside, `reseed` may be called freely.

    Parameters
    ----------
    device
        Device whose generator is saved besides that of the CPU.
    threads
        CPU threads inside the block; unchanged if None. Sums run in another order with another
        number of threads, so results are reproducible to the last bit only for the same number.

    Notes
    -----
    Numba's first parallel function sets the number of threads of the OpenMP library that PyTorch
    shares with it to that of all cores. It is made to do so before the block, not in its midst.
    """
    device = torch.device(device)
    devices = [_index(device)] if device.type == "cuda" else []
    before = torch.get_num_threads()
    numba.get_num_threads()
    with torch.random.fork_rng(devices=devices):
        try:
            torch.set_num_threads(before if threads is None else threads)
            yield
        finally:
            torch.set_num_threads(before)


def reseed(seed: int, *keys: int | str) -> None:
    """Seed PyTorch's generators for one step; only to be used inside `isolated_torch`."""
    torch.manual_seed(derive_seed(seed, *keys))


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
