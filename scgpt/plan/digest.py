"""Digests of the code that a step runs, read from source without importing it."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import sys
from pathlib import Path

from scgpt.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def run_steps_in_this_python() -> None:
    """Let `python` in shell commands be the one that runs now.

    Snakemake is often called by its path, without activating the environment that it stands in.
    """
    folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])


def code_digest(*entries: str) -> str:
    """Digest the code that entry points run: their modules and all in-package imports.

    Comments, docstrings and formatting do not count, so that only a change of behaviour makes
    Snakemake run a step again.

    Parameters
    ----------
    entries
        Modules (`scgpt.steps.score`) or entry points (`scgpt.methods.baselines.knn:KNN`).

    Raises
    ------
    ConfigError
        If a module does not exist or is not Python.
    """
    modules = _closure({entry.split(":")[0] for entry in entries})
    text = "\n".join(f"{name}:{_module_digest(name)}" for name in sorted(modules))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _closure(names: set[str]) -> set[str]:
    todo, seen = list(names), set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(imports_of(name))
    return seen


def module_path(name: str) -> Path:
    """Return the source file of a module of this package, without importing it.

    Raises
    ------
    ConfigError
        If there is no such module below `scgpt`.
    """
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if name.split(".")[0] == "scgpt" and path.is_file():
            return path
    msg = f"module '{name}' does not exist; expected a file {base.with_suffix('.py')}"
    raise ConfigError(msg)


def imports_of(name: str) -> set[str]:
    """Return the modules of this package that a module imports anywhere in its body."""
    return set(_parsed(name)[1])


def _module_digest(name: str) -> str:
    return _parsed(name)[0]


def _parsed(name: str) -> tuple[str, tuple[str, ...]]:
    path = module_path(name)
    stat = path.stat()
    return _parse(name, path, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _parse(name: str, path: Path, _mtime: int, _size: int) -> tuple[str, tuple[str, ...]]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        msg = f"{path}:{error.lineno}: not valid Python ({error.msg}); mend the module"
        raise ConfigError(msg) from error
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if _ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
            if node.module != "scgpt":  # its lazy names are for users; no step runs them
                found.add(node.module)
            found.update(
                f"{node.module}.{alias.name}"
                for alias in node.names
                if _is_module(f"{node.module}.{alias.name}")
            )
    # ast.unparse, not ast.dump: the text of a dump differs between Python versions.
    text = ast.unparse(_without_docstrings(tree))
    return hashlib.sha256(text.encode()).hexdigest(), tuple(sorted(found - {name}))


def _ours(module: str) -> bool:
    return module.split(".")[0] == "scgpt"


def _is_module(name: str) -> bool:
    base = ROOT.joinpath(*name.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        documented = isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        )
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
