"""The lock files, the set-up script and the metadata agree with each other and with what runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from typing import TYPE_CHECKING

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

# What the project is built on, whatever else changes.
MANDATED = ("snakemake", "torch", "scanpy", "anndata", "scib", "cell-gears", "harmonypy")
INPUTS = ("requirements.in", "dev.in")


def read_lock(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Return the version and hashes of each package of a lock file."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", path.read_text())
    entries = {}
    for block in blocks[1:]:
        pin = re.match(r"(?P<name>[\w.-]+)==(?P<version>[\w.+!]+) \\\n", block)
        assert pin, f"not an exact pin followed by hashes: {block.splitlines()[0]}"
        assert pin["name"] not in entries
        entries[pin["name"]] = (
            pin["version"],
            re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block),
        )
    return entries


def read_requirements(path: Path) -> list[Requirement]:
    """Return the direct needs of a requirements file."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


@pytest.fixture(scope="module")
def envs(root: Path) -> Path:
    return root / "envs"


@pytest.fixture(scope="module")
def lock(envs: Path) -> dict[str, tuple[str, list[str]]]:
    return read_lock(envs / "python.lock.txt")


@pytest.fixture(scope="module")
def cuda_lock(envs: Path) -> dict[str, tuple[str, list[str]]]:
    return read_lock(envs / "cuda.lock.txt")


@pytest.fixture(scope="module")
def locker(envs: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", envs / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def test_every_locked_package_has_hashes(lock, cuda_lock):
    assert len(lock) > 100
    assert [name for name, (_, hashes) in (lock | cuda_lock).items() if not hashes] == []


def test_the_lock_of_a_cpu_machine_pulls_no_cuda(lock, cuda_lock):
    cuda = re.compile(r"(nvidia-c|nvidia-n[^-]|cuda|triton)")
    assert [name for name in lock if cuda.match(name)] == []
    assert "triton" in cuda_lock
    assert [name for name in cuda_lock if not re.match(r"(nvidia-|cuda-|triton$)", name)] == []


def test_one_torch_line_serves_cpu_and_gpu(lock, locker):
    version, hashes = lock["torch"]
    cpu = set(locker.TORCH_CPU_SHA256[version])
    assert cpu < set(hashes), "the CPU wheels' hashes, and more: those of the builds on PyPI"


@pytest.mark.parametrize("name", INPUTS)
def test_every_direct_need_is_locked_within_its_bounds(envs, lock, name):
    unmet = []
    for need in read_requirements(envs / name):
        version, _ = lock.get(canonicalize_name(need.name), ("0", []))
        if not need.specifier.contains(version) or version == "0":
            unmet.append(f"{need}: {version} is locked; run `make lock`")
    assert unmet == []


def test_mandated_packages_are_direct_needs(envs):
    direct = {canonicalize_name(need.name) for need in read_requirements(envs / INPUTS[0])}
    assert set(MANDATED) <= direct


def imported_modules(path: Path) -> set[str]:
    """Return the top-level modules a file imports, but those it can do without."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    tries = [node for node in nodes if isinstance(node, ast.Try)]
    optional = {
        statement
        for attempt in tries
        if "ImportError" in {getattr(handler.type, "id", "") for handler in attempt.handlers}
        for statement in attempt.body
    }
    names = set()
    for node in set(nodes) - optional:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_import_of_the_package_is_a_direct_need(root, envs):
    imported = set().union(*(imported_modules(path) for path in (root / "scgpt").rglob("*.py")))
    third_party = imported - {*sys.stdlib_module_names, "scgpt"}
    assert {"torch", "numpy"} <= third_party
    direct = {canonicalize_name(need.name) for need in read_requirements(envs / INPUTS[0])}
    providers = metadata.packages_distributions()
    undeclared = {
        module
        for module in third_party
        if not direct & {canonicalize_name(name) for name in providers.get(module, [module])}
    }
    assert undeclared == set()


def test_the_running_environment_is_the_locked_one(lock):
    installed = {
        canonicalize_name(found.name): found.version.partition("+")[0]
        for found in metadata.distributions()
    }
    # conda keeps a pip of its own
    differing = {
        name: (installed.get(name, "absent"), version)
        for name, (version, _) in lock.items()
        if installed.get(name) != version and name != "pip"
    }
    assert differing == {}, "(installed, locked): run `make env`"


def test_the_conda_environment_has_the_locked_versions(envs, lock, project):
    conda = yaml.safe_load((envs / "python.yaml").read_text())
    *_, python, pip, pins = conda["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert project["requires-python"] == ">=3.11,<3.12"
    expected = [f"{name}=={version}" for name, (version, _) in lock.items() if name != "pip"]
    assert pins["pip"] == expected


def test_splitting_keeps_the_library_that_only_reads_the_driver(locker):
    reader = "nvidia-ml-py==13.0 \\\n    --hash=sha256:a\n    # via x\n"
    others = ("triton", "cuda-toolkit", "nvidia-nccl-cu13")
    text = "".join(f"{name}==1 \\\n    --hash=sha256:b\n" for name in others)
    blocks = locker.split(f"# note\n{reader}{text}")
    assert {name for name in blocks if locker.CUDA_ONLY.match(name)} == {*others}
    assert blocks["nvidia-ml-py"] == reader


def test_one_version_and_licence_everywhere(root, project):
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "MIT"
    assert (root / "LICENSE").read_text().startswith("MIT License")


def test_every_change_says_whether_results_changed(root):
    changelog = (root / "CHANGELOG.md").read_text()
    entries = re.findall(r"(?m)^- .*(?:\n  .*)*", changelog)
    assert entries
    silent = [entry for entry in entries if not re.search(r"[Rr]esults changed: (yes|no)\b", entry)]
    assert silent == []


def test_ci_runs_what_developers_run(root):
    workflow = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["check"]["steps"]]
    assert ".ci/run" in steps
    assert os.access(root / ".ci" / "run", os.X_OK)


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """Return a copy of what the set-up script reads."""
    copy = tmp_path / "a checkout"
    shutil.copytree(root / "envs", copy / "envs")
    shutil.copy(root / "pyproject.toml", copy)
    return copy


def set_up(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the set-up script where no package can be had."""
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        ["bash", str(checkout / "envs" / "setup.sh")],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_setup_refuses_an_unknown_build_of_torch(checkout):
    result = set_up(checkout, TORCH="rocm")
    assert result.returncode == 1
    assert result.stderr == "error: TORCH is 'rocm'; it must be cpu or cuda.\n"


def test_setup_refuses_another_python(checkout, tmp_path):
    other = tmp_path / "python3.12"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    result = set_up(checkout, PYTHON=str(other))
    assert result.returncode == 1
    assert result.stderr == f"error: PYTHON={other} is not a Python 3.11.\n"
    assert not (checkout / ".venv").exists()


def test_a_setup_that_fails_is_never_taken_for_complete(checkout):
    half_made = checkout / ".venv" / "left-over"
    half_made.parent.mkdir()
    half_made.touch()
    result = set_up(checkout, PYTHON=sys.executable, TORCH="cpu")
    assert result.returncode != 0
    assert "No matching distribution" in result.stderr
    assert not half_made.exists(), "an environment without a stamp is made anew"
    assert (checkout / ".venv" / "pyvenv.cfg").exists()
    assert not (checkout / ".venv" / ".complete").exists()
