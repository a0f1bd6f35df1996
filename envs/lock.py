"""Resolve the direct needs into the lock files; called by `make lock`.

One resolution, three files beside this script:

* `python.lock.txt`: every package with an exact version and its hashes, torch included;
* `cuda.lock.txt`: the NVIDIA libraries and triton that only torch's CUDA build needs;
* `python.yaml`: the same versions for `snakemake --sdm conda`.

Versions already locked are kept where they still fit; `--upgrade` takes the newest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ENVS = Path(__file__).resolve().parent
LOCK, CUDA_LOCK, CONDA = (
    ENVS / name for name in ("python.lock.txt", "cuda.lock.txt", "python.yaml")
)
CUDA_ONLY = re.compile(r"(triton$|cuda-|nvidia-(?!ml-py))")
# PyPI carries only the CUDA build for Linux. The CPU wheels have the same version there and at
# https://download.pytorch.org/whl/cpu/torch/ (link ends in #sha256=...), so one line serves both.
TORCH_CPU_SHA256 = {
    "2.13.0": (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",  # Linux x86-64
        "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",  # Linux aarch64
    )
}
HEADER = "# Written by `make lock` from envs/requirements.in and envs/dev.in; do not edit.\n"
CONDA_HEAD = f"""\
{HEADER}# Only for `snakemake --sdm conda`; not run in CI, which tests `make env`.
# torch comes from PyPI here, so on Linux its CUDA libraries are fetched too. Versions stand in
# full because Snakemake copies this file elsewhere, where a path to the lock would not hold.
name: scgpt-reproduction
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def resolve(*, upgrade: bool) -> str:
    """Return uv's resolution for Python 3.11 on Linux, old pins kept unless `upgrade`."""
    environment = {key: value for key, value in os.environ.items() if key != "UV_FIND_LINKS"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "all.txt"
        old = [path.read_text() for path in (LOCK, CUDA_LOCK) if path.exists()]
        output.write_text("".join(old))
        command = [
            *(sys.executable, "-m", "uv", "pip", "compile", "requirements.in", "dev.in"),
            *("--no-config", "--quiet", "--no-header", "--generate-hashes"),
            *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"),
            *("--output-file", str(output)),
            *(["--upgrade"] if upgrade else []),
        ]
        subprocess.run(command, cwd=ENVS, env=environment, check=True)
        return output.read_text()


def split(resolution: str) -> dict[str, str]:
    """Return the block of lines of each package, by package name, in the resolver's order."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", resolution)
    return {block.partition("==")[0]: block for block in blocks if block.strip()}


def add_cpu_hashes(torch_block: str) -> str:
    """Return torch's block with the hashes of the official CPU wheels added."""
    pin, *rest = torch_block.splitlines()
    version = pin.split("==")[1].removesuffix("\\").strip()
    if version not in TORCH_CPU_SHA256:
        message = f"envs/lock.py: no CPU wheel hashes for torch {version}; add them there."
        raise SystemExit(message)
    known = set(re.findall(r"--hash=sha256:(\w+)", torch_block)) | {*TORCH_CPU_SHA256[version]}
    hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(known))
    notes = [line for line in rest if line.lstrip().startswith("#")]
    return "\n".join([pin, hashes, *notes]) + "\n"


def main() -> None:
    """Write the three files."""
    blocks = split(resolve(upgrade="--upgrade" in sys.argv[1:]))
    blocks["torch"] = add_cpu_hashes(blocks["torch"])
    cuda = {name: blocks.pop(name) for name in list(blocks) if CUDA_ONLY.match(name)}
    LOCK.write_text(HEADER + "".join(blocks.values()))
    CUDA_LOCK.write_text(HEADER + "".join(cuda.values()))
    pins = [block.split()[0] for name, block in blocks.items() if name != "pip"]
    CONDA.write_text(CONDA_HEAD + "".join(f"      - {pin}\n" for pin in pins))


if __name__ == "__main__":
    main()
