"""What ran: versions of packages, the machine, the commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from scgpt.plan.digest import ROOT

PACKAGES = (
    "anndata",
    "cell-gears",
    "harmonypy",
    "igraph",
    "leidenalg",
    "lightning",
    "matplotlib",
    "numpy",
    "pandas",
    "pynndescent",
    "scanpy",
    "scib",
    "scikit-learn",
    "scipy",
    "scvi-tools",
    "snakemake",
    "torch",
    "torch-geometric",
    "umap-learn",
)


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide results, without importing them."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def hardware() -> dict[str, Any]:
    """Return what the step ran on: processor, cores, memory, GPU (if torch is loaded)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    record: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "n_cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": None,
    }
    torch = sys.modules.get("torch")  # never imported for this: it costs seconds
    if torch is not None and torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name(0)
    return record


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> dict[str, int | None]:
    """Return the peak memory of this process in bytes, on the CPU and on the GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    record: dict[str, int | None] = {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_gpu_bytes": None,
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        record["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return record


def git_commit() -> dict[str, Any]:
    """Return the commit of the project and whether tracked files differ from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or an unpacked archive: the record says null
    return done.stdout.strip()
