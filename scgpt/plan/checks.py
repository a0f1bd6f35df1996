"""Checks of the configuration as a whole: every name defined, every parameter known."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from scgpt.errors import ConfigError
from scgpt.plan.config import Config, explain
from scgpt.plan.digest import module_path
from scgpt.plan.static import metric_names, plot_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scgpt.plan.config import FigureConfig, MethodConfig, ModelConfig, TaskConfig
    from scgpt.plan.static import Parameters


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
    _check_catalogue(config, need, problems)
    for name, task in config.tasks.items():
        need(task.scale_params, config.scales, f"tasks.{name}.scale_params")
        need(task.compared, config.methods, f"tasks.{name}.compared")
    for name, method in config.methods.items():
        _check_method(name, method, config, need)
    for name, figure in config.figures.items():
        need([figure.task], config.tasks, f"figures.{name}.task")
        able = [key for key, block in config.methods.items() if figure.task in block.tasks]
        need(figure.method, able, f"figures.{name}.method")
        need(figure.methods, able, f"figures.{name}.methods")
    for name, scale in config.scales.items():
        where = f"scales.{name}"
        need([scale.like] if scale.like else [], config.scales, f"{where}.like")
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


def _check_catalogue(config: Config, need: Any, problems: list[str]) -> None:
    """Check what names data sets, knowledge bases and checkpoints as one list of downloads."""
    seen: dict[str, str] = {}
    for part in ("datasets", "knowledge", "models"):
        for name in getattr(config, part):
            if name in seen:
                problems.append(f"{part}.{name}: the name is taken by {seen[name]}.{name}")
            seen[name] = part
    for name, block in config.datasets.items():
        if (block.kind == "download") != bool(block.files):
            problems.append(f"datasets.{name}.files: expected for kind download, and only for it")
    for name, block in config.models.items():
        _check_model(name, block, config, need, problems)
    known = [*config.datasets, *config.knowledge]
    for name, scale in config.scales.items():
        need(scale.catalogue, known, f"scales.{name}.catalogue")


def _check_model(
    name: str, model: ModelConfig, config: Config, need: Any, problems: list[str]
) -> None:
    where = f"models.{name}"
    if (model.init == "fetched") != bool(model.files):
        problems.append(f"{where}.files: expected for init fetched, and only for it")
    if (model.init == "random") != (model.like is not None):
        problems.append(f"{where}.like: expected for init random, and only for it")
    if model.like is not None:
        fetched = [key for key, block in config.models.items() if block.init == "fetched"]
        need([model.like], fetched, f"{where}.like")


def _check_method(name: str, method: MethodConfig, config: Config, need: Any) -> None:
    where = f"methods.{name}"
    need(method.tasks, config.tasks, f"{where}.tasks")
    need(method.task_params, method.tasks, f"{where}.task_params")
    need(method.scale_params, config.scales, f"{where}.scale_params")
    need(method.knowledge, config.knowledge, f"{where}.knowledge")
    if method.model is not None:
        need([method.model], config.models, f"{where}.model")


def check_parameters(
    params: dict[str, Any], parameters: Parameters, where: str, *, given: tuple[str, ...] = ()
) -> None:
    """Check a mapping against the names that its receiver knows, and the types it declares.

    Parameters
    ----------
    params
        The mapping from the configuration.
    parameters
        Known and required names, and types.
    where
        Key path, for the message.
    given
        Names that the step fills in itself; the configuration must not.

    Raises
    ------
    ConfigError
        One line per unknown or missing key, with the known names, and per wrong value.
    """
    known = [name for name in parameters.known if name not in given]
    shown = ", ".join(sorted(known)) or "none"
    problems = [
        f"{where}.{name}: unknown key. Known keys: {shown}" for name in params if name not in known
    ]
    problems += [
        f"{where}.{name}: required key is missing"
        for name in parameters.required
        if name in known and name not in params
    ]
    for name, kind in parameters.types.items():
        if name in params:
            try:
                TypeAdapter(kind).validate_python(params[name])
            except ValidationError as error:
                problems.append(explain(error, Config, f"{where}.{name}"))
    if problems:
        raise ConfigError("\n".join(problems))


def check_metrics(name: str, task: TaskConfig) -> list[str]:
    """Check the metric modules and the headline of a task, and return the names of its metrics.

    Raises
    ------
    ConfigError
        With the key path, what was found and the known names.
    """
    known: list[str] = []
    for number, module in enumerate(task.metrics):
        with at(f"tasks.{name}.metrics.{number}"):
            known += metric_names(module, name)
    if not known:
        msg = (
            f"tasks.{name}.metrics: no metric for task '{name}' in {', '.join(task.metrics)}; "
            "name a module with functions under `@metric(...)` that declare this task"
        )
        raise ConfigError(msg)
    problems = [
        f"tasks.{name}.headline: '{each}' is not defined. Known names: {', '.join(known)}"
        for each in task.headline
        if each not in known
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return known


def check_figure(name: str, figure: FigureConfig, task: TaskConfig) -> None:
    """Check the panels of a figure: plot functions, options, tables and scores.

    Raises
    ------
    ConfigError
        With the key path, what was found and the known names.
    """
    tables = ["scores", "summary", *task.drawn]
    metrics = [each for module in task.metrics for each in metric_names(module, figure.task)]
    for number, panel in enumerate(figure.panels):
        where = f"figures.{name}.panels.{number}"
        with at(f"{where}.plot"):
            options = plot_parameters(panel.plot)
        check_parameters(panel.options, options, f"{where}.options")
        for key, value, known in (("table", panel.table, tables), ("score", panel.score, metrics)):
            if value is not None and value not in known:
                shown = ", ".join(known)
                msg = f"{where}.{key}: task '{figure.task}' has no '{value}'. Known names: {shown}"
                raise ConfigError(msg)


@contextmanager
def at(where: str) -> Iterator[None]:
    """Put the key path in front of the message of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        msg = f"{where}: {error}"
        raise ConfigError(msg) from None
