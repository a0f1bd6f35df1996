"""Nothing imports upward, and the steps of the tables stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import rooms

BASE = {"errors", "files"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "plan": BASE,
    "fetch": BASE | {"plan"},
    "tokens": BASE,
    "data": BASE | {"tokens"},
    "readers": BASE | {"data", "fetch", "tokens"},
    "model": BASE,
    "training": BASE | {"tokens", "model"},
    "library": BASE | {"tokens", "model", "training"},
    "methods": BASE | {"plan", "data", "tokens", "model", "training", "library"},
    "metrics": {"errors"},
    "tasks": BASE | {"data", "metrics"},
    "figures": BASE | {"plan"},
    "report": BASE | {"plan"},
    "parity": BASE | {"model"},
    "twins": BASE | {"data", "tokens", "model", "fetch", "plan"},
}
HEAVY = {"torch", "scanpy", "anndata", "numpy", "pandas", "scvi", "gears", "sklearn"}
FORBIDDEN = {
    "plan": HEAVY,
    "files": HEAVY,
    "errors": HEAVY,
    "fetch": {"torch", "scanpy", "scvi", "gears"},
    "tokens": {"torch", "scanpy", "scvi", "gears"},
    "data": {"torch", "scvi", "gears"},
    "readers": {"torch", "scvi", "gears"},
    "model": {"anndata", "scanpy", "pandas"},
    "metrics": {"torch", "anndata", "scanpy"},
    "tasks": {"torch", "scvi", "gears"},
    "figures": {"torch", "anndata", "scanpy"},
    "report": {"torch", "anndata", "scanpy"},
}


def modules(root):
    for path in sorted((root / "scgpt").rglob("*.py")):
        yield path, rooms.room_of(".".join(path.relative_to(root).with_suffix("").parts))


def test_every_room_is_governed(root):
    assert {room for _, room in modules(root)} == {*ALLOWED, "steps", "cli"}


def test_imports_follow_the_layers(root):
    wrong = []
    for path, room in modules(root):
        if room not in ALLOWED:  # steps, cli: the top layer
            continue
        for name in rooms.imported(path):
            target = rooms.room_of(name)
            if target not in (None, room, *ALLOWED[room]) and name != "scgpt":
                wrong.append(f"{path.relative_to(root)} imports {name}")
            if name.split(".")[0] in FORBIDDEN.get(room, set()):
                wrong.append(f"{path.relative_to(root)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_page_on_architecture_shows_the_imports_as_they_are():
    text = rooms.PAGE.read_text(encoding="utf-8")
    assert rooms.page(text) == text, "run python docs/rooms.py"


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
from scgpt.plan.plan import load_plan
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
