"""Read names and types of parameters from source code without importing it.

The Plan checks every key of the configuration before the first job, in every Snakemake process.
Importing the methods for that would load torch and friends each time, which takes many seconds.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from scgpt.errors import ConfigError
from scgpt.plan.digest import module_path

if TYPE_CHECKING:
    from pathlib import Path


BOUNDS = ("ge", "gt", "le", "lt", "min_length", "max_length")
TYPES = {"int": int, "float": float, "bool": bool, "str": str, "Any": Any}
CONTAINERS = {"list": list, "dict": dict, "tuple": tuple}


@dataclass(frozen=True)
class Parameters:
    """Names that a function or a class of parameters knows, and those it cannot do without.

    `types` has what pydantic may check a value against, where the source tells it plainly.
    """

    known: tuple[str, ...]
    required: tuple[str, ...]
    types: dict[str, Any] = field(default_factory=dict)


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
    types: dict[str, Any] = {}
    for base in reversed(node.bases):  # of two bases the first one counts, as in Python
        origin = _origin(base, module)
        if origin is not None:
            inherited = class_parameters(origin)
            known |= {name: name in inherited.required for name in inherited.known}
            types |= inherited.types
    for item in node.body:
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        ):
            name = item.target.id
            known[name] = item.value is None
            types.pop(name, None)
            try:
                types[name] = Annotated[_type(item.annotation), _bounds(item.value)]
            except _UnreadableError:
                continue  # its receiver checks the value
    required = tuple(name for name, needed in known.items() if needed)
    return Parameters(tuple(known), required, types)


class _UnreadableError(Exception):
    """An annotation that cannot be understood without running the code."""


def _type(node: ast.expr) -> Any:
    """Return the type that an annotation of plain built-in types stands for."""
    match node:
        case ast.Constant(value=None):
            return NoneType
        case ast.Name(id=name) if name in TYPES | CONTAINERS:
            return (TYPES | CONTAINERS)[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left) | _type(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[_constant(inner)]
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, mark])):
            return Annotated[_type(inner), _bounds(mark)]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in CONTAINERS:
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            dots = [isinstance(part, ast.Constant) and part.value is ... for part in parts]
            types = [... if d else _type(part) for part, d in zip(parts, dots, strict=True)]
            return CONTAINERS[name][tuple(types)]
    raise _UnreadableError


def _bounds(value: ast.expr | None) -> Any:
    """Return the bounds that `Field(..., ge=1)` sets on its value."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "Field"):
        return Field()
    return Field(**{k.arg: _constant(k.value) for k in value.keywords if k.arg in BOUNDS})


def _constant(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _UnreadableError from None


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


def plot_parameters(entry: str) -> Parameters:
    """Return the options of a plot function: those of its rows and those of its paint.

    Raises
    ------
    ConfigError
        If there is no such module or plot.
    """
    module, _, name = entry.partition(":")
    plots = _decorated(module, "plot")
    if name not in plots:
        shown = ", ".join(f"{module}:{each}" for each in plots) or "none"
        msg = f"'{entry}' is not a plot. Known plots of the module: {shown}"
        raise ConfigError(msg)
    paint, call = plots[name]
    known = [arg.arg for arg in paint.args.kwonlyargs]
    rows = next((word.value for word in call.keywords if word.arg == "rows"), None)
    origin = None if rows is None else _origin(rows, module)
    if origin is not None:
        node, _ = _find(origin, ast.FunctionDef)
        known += [arg.arg for arg in node.args.kwonlyargs]
    return Parameters(tuple(dict.fromkeys(known)), ())


def metric_names(module: str, task: str) -> list[str]:
    """Return the metrics of a task that a module defines, in the order they are written.

    Raises
    ------
    ConfigError
        If there is no such module.
    """
    found = _decorated(module, "metric")
    return [name for name, (_, call) in found.items() if task in _tasks(call, module, task)]


def _tasks(call: ast.Call, module: str, task: str) -> tuple[str, ...]:
    """Return the tasks that a metric declares; `task` where that takes more than reading."""
    node = next((word.value for word in call.keywords if word.arg == "task"), None)
    if isinstance(node, ast.Name):
        assigned = [item for item in _body(module) if isinstance(item, ast.Assign)]
        wanted = node.id
        node = next((a.value for a in assigned if ast.unparse(a.targets[0]) == wanted), None)
    try:
        tasks = None if node is None else _constant(node)
    except _UnreadableError:
        tasks = None
    if tasks is None:
        return (task,)
    return (tasks,) if isinstance(tasks, str) else tuple(tasks)


def _decorated(module: str, decorator: str) -> dict[str, tuple[ast.FunctionDef, ast.Call]]:
    """Return the functions of a module under `@decorator(...)`, with that call."""
    found = {}
    for node in _body(module):
        for call in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            is_call = isinstance(call, ast.Call)
            if is_call and ast.unparse(call.func).split(".")[-1] == decorator:
                found[node.name] = (node, call)
    return found


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
    """Return `module:name` of what is named in `module`, None if it is not of this package."""
    if not isinstance(node, ast.Name):
        return None
    for item in _body(module):
        if isinstance(item, ast.ClassDef | ast.FunctionDef) and item.name == node.id:
            return f"{module}:{node.id}"
        if isinstance(item, ast.ImportFrom) and item.module:
            for alias in item.names:
                if (alias.asname or alias.name) == node.id:
                    ours = item.module.split(".")[0] == "scgpt"
                    return f"{item.module}:{alias.name}" if ours else None
    return None
