"""Agreement, timing in turns and peak memory of several versions of one computation."""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """Seconds of every round, and the most memory of the first run in bytes."""

    seconds: np.ndarray
    peak: float


def measure(
    works: dict[str, Callable[[], object]], rounds: int, device: torch.device, *, threads: int = 1
) -> dict[str, Measured]:
    """Run all works once for their memory and as a warm-up, then time them in turns.

    On one CPU thread seconds are those of the CPU, which a busy machine falsifies least, otherwise
    those on the wall. Every other round runs backwards, so that nothing always comes second.
    """
    cpu_seconds = device.type == "cpu" and threads == 1
    clock = time.process_time if cpu_seconds else time.perf_counter
    peaks, seconds = {}, {name: np.zeros(rounds) for name in works}
    for name, work in works.items():
        before = reset_peak(device)
        work()
        wait(device)
        peaks[name] = peak(device) - before
    for round_ in range(rounds):
        for name in list(works)[:: -1 if round_ % 2 else 1]:
            start = clock()
            works[name]()
            wait(device)
            seconds[name][round_] = clock() - start
    return {name: Measured(seconds[name], peaks[name]) for name in works}


def wait(device: torch.device) -> None:
    """Wait until the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> float:
    """Start to measure peak memory anew and return what is in use now, in bytes."""
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else the memory freed by one is there for the other
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return float("nan")  # only Linux can do this
    return status("VmRSS")


def peak(device: torch.device) -> float:
    """Return the most memory in use since `reset_peak`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return status("VmHWM")


def status(field: str) -> float:
    """Return a field of what Linux says about this process, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def require(*, condition: bool, problem: str) -> None:
    """End the program with status 1 unless the condition holds."""
    if not condition:
        sys.exit(f"the versions do not agree: {problem}")


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference in units of the norm of what was expected."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def same_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], *, typical: float, worst: float
) -> str:
    """Say how far gradients are apart, and end the program if that is too far.

    Parameters
    ----------
    found, expected
        Gradients by the name of the tensor.
    typical, worst
        What the median and the largest relative difference may be.
    """
    odd = sorted(found.keys() ^ expected.keys())
    require(condition=not odd, problem=f"only one of them has gradients of {odd}")
    errors = {name: relative(found[name], expected[name]) for name in expected}
    name, middle = max(errors, key=errors.__getitem__), float(np.median(list(errors.values())))
    text = f"gradients of {len(errors)} tensors {middle:.1e}, at most {errors[name]:.1e} ({name})"
    require(condition=middle <= typical and errors[name] <= worst, problem=text)
    return text


def cosine_of(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the cosine between two sets of tensors, each taken as one long vector."""
    flat = [
        torch.cat([tensors[name].flatten() for name in sorted(one)]) for tensors in (one, other)
    ]
    return float(F.cosine_similarity(*flat, dim=0))


def show(measured: dict[str, Measured], *, tokens: int | None = None) -> None:
    """Print a line for each version; ratios are to the first."""
    first = next(iter(measured.values()))
    titles = ("tokens/s" if tokens else "", "ratio", "lowest", "highest", "peak MiB")
    print(f"  {'':<28}{'ms':>9}" + "".join(f"{title:>10}" for title in titles))
    for name, one in measured.items():
        typical, ratios = np.median(one.seconds), first.seconds / one.seconds
        rate = f"{tokens / typical:,.0f}" if tokens else ""
        print(
            f"  {name:<28}{1e3 * typical:>9.1f}{rate:>10}{np.median(ratios):>9.2f}x"
            f"{ratios.min():>10.2f}{ratios.max():>10.2f}{one.peak / 2**20:>10,.0f}"
        )


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes in bf16, rather than imitating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def step(
    loss: Callable[[], Tensor],
    autocast: Callable[[], AbstractContextManager],
    finish: Callable[[], None],
) -> None:
    """Forward under `autocast`, backward, then whatever finishes the step."""
    with autocast():
        value = loss()
    value.backward()
    finish()
