"""Read parameter names from source code without importing it.

The Plan checks every key of the configuration before the first job, in every Snakemake process.
Importing the methods for that would load torch and friends each time, which takes many seconds.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scgpt.errors import ConfigError
from scgpt.provenance import module_path

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Parameters:
    """Names that a function or a class of parameters knows, and those it cannot do without."""

    known: tuple[str, ...]
    required: tuple[str, ...]


def function_parameters(entry: str) -> Parameters:
    """Return the arguments of the function that `module:name` stands for.

    Raises
    ------
    ConfigError
        If there is no such module or function.
    """
    node, _ = _find(entry, ast.FunctionDef)
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    optional = [arg.arg for arg in plain[len(plain) - len(arguments.defaults) :]]
    optional += [
        arg.arg
        for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    ]
    names = tuple(arg.arg for arg in [*plain, *arguments.kwonlyargs])
    return Parameters(names, tuple(name for name in names if name not in optional))


def class_parameters(entry: str) -> Parameters:
    """Return the annotated fields of a parameter class, inherited ones included.

    Raises
    ------
    ConfigError
        If there is no such module or class.
    """
    node, module = _find(entry, ast.ClassDef)
    known: dict[str, bool] = {}
    for base in node.bases:
        origin = _origin(base, module)
        if origin is not None:
            inherited = class_parameters(origin)
            known |= {name: name in inherited.required for name in inherited.known}
    for item in node.body:
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        ):
            known[item.target.id] = item.value is None
    return Parameters(tuple(known), tuple(name for name, needed in known.items() if needed))


def method_parameters(entry: str) -> Parameters:
    """Return the fields of the `Params` of a method class, its own or inherited.

    Raises
    ------
    ConfigError
        If there is no such module or class, or no `Params` in it or its bases.
    """
    node, module = _find(entry, ast.ClassDef)
    for item in node.body:
        if isinstance(item, ast.ClassDef) and item.name == "Params":
            return class_parameters(f"{module}:{node.name}.Params")
        if isinstance(item, ast.Assign | ast.AnnAssign) and item.value is not None:
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            if any(isinstance(target, ast.Name) and target.id == "Params" for target in targets):
                origin = _origin(item.value, module)
                if origin is not None:
                    return class_parameters(origin)
    for base in node.bases:
        origin = _origin(base, module)
        if origin is not None:
            return method_parameters(origin)
    msg = f"'{entry}' has no class `Params`; give it one (see scgpt.methods.base.MethodParams)"
    raise ConfigError(msg)


def _find(entry: str, kind: type[ast.FunctionDef] | type[ast.ClassDef]) -> tuple[ast.AST, str]:
    module, _, name = entry.partition(":")
    if not name:
        msg = f"'{entry}' is not an entry point; expected 'module:name'"
        raise ConfigError(msg)
    body = _body(module)
    found = None
    for part in name.split("."):
        found = next(
            (node for node in body if isinstance(node, kind | ast.ClassDef) and node.name == part),
            None,
        )
        if found is None:
            word = "function" if kind is ast.FunctionDef else "class"
            msg = f"module '{module}' has no {word} '{name}'"
            raise ConfigError(msg)
        body = found.body
    return found, module


def _body(module: str) -> list[ast.stmt]:
    path = module_path(module)
    return _parse(path, path.stat().st_mtime_ns).body


@functools.cache
def _parse(path: Path, _mtime: int) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        msg = f"{path}:{error.lineno}: not valid Python ({error.msg}); mend the module"
        raise ConfigError(msg) from error


def _origin(node: ast.expr, module: str) -> str | None:
    """Return `module:name` of a class named in `module`, None if it is not of this package."""
    if not isinstance(node, ast.Name):
        return None
    for item in _body(module):
        if isinstance(item, ast.ClassDef) and item.name == node.id:
            return f"{module}:{node.id}"
        if isinstance(item, ast.ImportFrom) and item.module:
            for alias in item.names:
                if (alias.asname or alias.name) == node.id:
                    ours = item.module.split(".")[0] == "scgpt"
                    return f"{item.module}:{alias.name}" if ours else None
    return None
