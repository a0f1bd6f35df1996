"""Checks of the configuration as a whole: every name defined, every parameter known."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from scgpt.config import Config, explain
from scgpt.errors import ConfigError
from scgpt.provenance import module_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scgpt.config import MethodConfig


def load(entry: str, where: str) -> Any:
    """Return the object an entry point `module:name` stands for.

    Raises
    ------
    ConfigError
        If the module or the name does not exist, with the key path `where`.
    """
    module_name, _, name = entry.partition(":")
    if not name:
        msg = f"{where}: '{entry}' is not an entry point; expected 'module:name'"
        raise ConfigError(msg)
    try:
        module_path(module_name)
    except ConfigError as error:
        msg = f"{where}: {error}"
        raise ConfigError(msg) from None
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        msg = f"{where}: module '{module_name}' has no '{name}'"
        raise ConfigError(msg)
    return getattr(module, name)


def check_references(config: Config) -> None:
    """Check that every name used in one file is defined in another.

    Raises
    ------
    ConfigError
        One line per wrong name: key path, the name, the known names.
    """
    problems: list[str] = []

    def need(names: Iterable[str] | str, known: Iterable[str], where: str) -> None:
        if names == "all":
            return
        known = list(known)
        for name in names:
            if name not in known:
                shown = ", ".join(known) or "none"
                problems.append(f"{where}: '{name}' is not defined. Known names: {shown}")

    need([config.scale], config.scales, "scale")
    for name, dataset in config.datasets.items():
        need(dataset.tasks, config.tasks, f"datasets.{name}.tasks")
        need(dataset.scale_params, config.scales, f"datasets.{name}.scale_params")
    for name, task in config.tasks.items():
        need(task.scale_params, config.scales, f"tasks.{name}.scale_params")
    for name, method in config.methods.items():
        _check_method(name, method, config, need)
    for name, figure in config.figures.items():
        need([figure.task], config.tasks, f"figures.{name}.task")
        if figure.method is not None:
            need([figure.method], config.methods, f"figures.{name}.method")
    for name, scale in config.scales.items():
        where = f"scales.{name}"
        need(scale.figures, config.figures, f"{where}.figures")
        need(scale.run, config.tasks, f"{where}.run")
        for task, run in scale.run.items():
            if task not in config.tasks:
                continue
            able = [key for key, block in config.datasets.items() if task in block.tasks]
            need(run.datasets, able, f"{where}.run.{task}.datasets")
            able = [key for key, block in config.methods.items() if task in block.tasks]
            need(run.methods, able, f"{where}.run.{task}.methods")
            need(run.splits, config.tasks[task].splits, f"{where}.run.{task}.splits")
    if problems:
        raise ConfigError("\n".join(problems))


def _check_method(name: str, method: MethodConfig, config: Config, need: Any) -> None:
    where = f"methods.{name}"
    need(method.tasks, config.tasks, f"{where}.tasks")
    need(method.task_params, method.tasks, f"{where}.task_params")
    need(method.scale_params, config.scales, f"{where}.scale_params")
    if method.model is not None:
        need([method.model], config.models, f"{where}.model")


def check_params(model: Any, params: dict[str, Any], where: str) -> None:
    """Check a mapping of parameters against its typed class.

    Raises
    ------
    ConfigError
        One line per wrong parameter, with the key path and the known names.
    """
    try:
        model.model_validate(params)
    except ValidationError as error:
        raise ConfigError(explain(error, model, where)) from None


def check_call(entry: str, params: dict[str, Any], where: str) -> None:
    """Check keyword arguments against the signature of the function they are meant for.

    Raises
    ------
    ConfigError
        For an unknown or a missing argument, with the key path and the known names.
    """
    function = load(entry, where.rsplit(".", 1)[0] + ".reader")
    known = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "files"  # given by the step, not by the configuration
    }
    for name in params:
        if name not in known:
            msg = f"{where}.{name}: unknown key. Known keys: {', '.join(known) or 'none'}"
            raise ConfigError(msg)
    for name, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and name not in params:
            msg = f"{where}.{name}: required key is missing"
            raise ConfigError(msg)
