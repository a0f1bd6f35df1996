"""Nothing imports upward, and the steps of the tables stay light."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

LAYER_0 = {
    *("errors", "files", "config", "checks", "static"),
    *("catalogue", "benchmark", "panels", "provenance"),
}
ALLOWED = {
    "data": LAYER_0 | {"data"},
    "model": {"errors", "files", "model"},
    "training": LAYER_0 | {"data", "model", "training"},
    "metrics": {"errors", "metrics"},
    "tasks": LAYER_0 | {"data", "metrics", "tasks"},
    "methods": LAYER_0 | {"data", "model", "training", "methods"},
    "figures": LAYER_0 | {"figures"},
    "report": LAYER_0 | {"report"},
}
HEAVY = {"torch", "scanpy", "anndata", "numpy", "pandas", "scvi", "gears", "sklearn"}
FORBIDDEN = {
    "layer 0": HEAVY,
    "data": {"torch", "scvi", "gears"},
    "model": {"anndata", "scanpy", "pandas"},
    "figures": {"torch", "anndata", "scanpy"},
    "report": {"torch", "anndata", "scanpy"},
}


def modules(root):
    for path in sorted((root / "scgpt").rglob("*.py")):
        parts = path.relative_to(root / "scgpt").parts
        package = parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")
        yield path, "layer 0" if package in LAYER_0 else package


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(name):
    parts = name.split(".")
    return parts[1] if parts[0] == "scgpt" and len(parts) > 1 else None


def test_imports_follow_the_layers(root):
    wrong = []
    for path, package in modules(root):
        allowed = LAYER_0 if package == "layer 0" else ALLOWED.get(package)
        if allowed is None:  # steps, cli: the top layer
            continue
        for name in imports(path):
            if ours(name) is not None and ours(name) not in allowed:
                wrong.append(f"{path.relative_to(root)} imports {name}")
            if name.split(".")[0] in FORBIDDEN.get(package, set()):
                wrong.append(f"{path.relative_to(root)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_files_and_rules_keep_their_size(root):
    long = [
        f"{path.relative_to(root)}: {n} lines"
        for pattern, limit in (("scgpt/**/*.py", 400), ("workflow/**/*.smk", 250))
        for path in root.glob(pattern)
        if (n := len(path.read_text().splitlines())) > limit
    ]
    assert not long, "\n".join(long)


def test_init_files_hold_one_sentence(root):
    for path in (root / "scgpt").rglob("*/__init__.py"):
        assert len(path.read_text().splitlines()) == 1, path


@pytest.mark.parametrize("step", ["score", "table", "figure", "report", "manifest"])
def test_light_steps_load_no_heavy_package(step):
    code = (
        f"import sys, scgpt.cli, scgpt.steps.{step}; "
        "print([m for m in ('torch', 'scvi', 'gears', 'scanpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plan_loads_no_heavy_package(root):
    code = f"""
import sys, yaml
from pathlib import Path
from scgpt.benchmark import load_plan
raw = {{}}
for path in Path("config").glob("*.yaml"):
    raw |= yaml.safe_load(path.read_text())
load_plan(raw, "tiny").check_parameters()
print(sorted(name for name in {sorted(HEAVY)!r} if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
