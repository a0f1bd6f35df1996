"""Metrics: a decorated pure function is all there is to add; found, checked and tabled here.

The names of a function's arguments are the arrays it needs. It returns a number, or a mapping from
group (for example cell type) to number; either may be a `Score` that also carries its own `n` and a
note. It raises `MetricUndefined` where the data give it no meaning. Nothing here replaces a missing
or non-finite value by a number.
"""

from __future__ import annotations

import importlib
import inspect
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from scgpt.errors import ConfigError, ContractError, MetricUndefined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ROW_COLUMNS = ("metric", "group", "value", "n", "note")
ATTRIBUTE = "__metric__"
# Sums of thousands of float64 terms may leave [0, 1] by rounding alone.
BOUND_TOLERANCE = 1e-9


class Score(NamedTuple):
    """A value with the number of observations behind it; `value` None needs a `note`."""

    value: float | None
    n: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is known about one metric: how to compute it and how to read it."""

    name: str
    title: str
    tasks: tuple[str, ...]
    higher_is_better: bool
    bounds: tuple[float, float]
    reference: str
    description: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    function: Callable[..., Any]


def metric(
    *,
    task: str | Sequence[str],
    higher_is_better: bool,
    bounds: tuple[float, float],
    reference: str,
    title: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a pure function to be a metric; the function itself stays unchanged.

    Parameters
    ----------
    task
        The task, or the tasks, whose predictions it scores.
    higher_is_better
        Direction of improvement.
    bounds
        Smallest and largest possible value; use `math.inf` where there is none.
    reference
        DOI or text that defines the metric.
    title
        Words for tables and figures; by default the name with spaces.

    Raises
    ------
    ConfigError
        If the function takes its arrays by `*args` or `**kwargs`, has no docstring, or the bounds
        are not in order.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        low, high = bounds
        if not low < high:
            msg = f"metric {function.__name__!r}: bounds must be (low, high), found {bounds!r}"
            raise ConfigError(msg)
        if not function.__doc__:
            msg = f"metric {function.__name__!r}: needs a docstring; its first line is reported"
            raise ConfigError(msg)
        required, optional = _arguments(function)
        entry = Metric(
            name=function.__name__,
            title=title or function.__name__.replace("_", " "),
            tasks=(task,) if isinstance(task, str) else tuple(task),
            higher_is_better=higher_is_better,
            bounds=(float(low), float(high)),
            reference=reference,
            description=inspect.cleandoc(function.__doc__).partition("\n\n")[0].replace("\n", " "),
            required=required,
            optional=optional,
            function=function,
        )
        setattr(function, ATTRIBUTE, entry)
        return function

    return declare


def _arguments(function: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    required, optional = [], []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            msg = f"metric {function.__name__!r}: name every array it needs, not {parameter}"
            raise ConfigError(msg)
        (required if parameter.default is parameter.empty else optional).append(parameter.name)
    return tuple(required), tuple(optional)


def metrics_of(module_names: Iterable[str], task: str) -> list[Metric]:
    """Return the metrics of a task that the named modules define, in the order they are written.

    Parameters
    ----------
    module_names
        Modules such as ``"scgpt.metrics.classification"``. A metric that a module only imports
        from another one is not taken twice.
    task
        Name of the task.

    Raises
    ------
    ConfigError
        If a module does not exist, two metrics share a name, or none belongs to the task.
    """
    module_names = list(module_names)
    found: dict[str, Metric] = {}
    for module_name in module_names:
        for entry in _declared_in(module_name):
            if task not in entry.tasks:
                continue
            if entry.name in found:
                other = found[entry.name].function.__module__
                msg = f"metric {entry.name!r} is defined in {other} and {module_name}; rename one"
                raise ConfigError(msg)
            found[entry.name] = entry
    if not found:
        msg = f"no metric for task {task!r} in modules {module_names}; check `metrics` of the task"
        raise ConfigError(msg)
    return list(found.values())


def _declared_in(module_name: str) -> list[Metric]:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A missing third-party import inside the module must not be reported as a wrong name.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        msg = f"metric module {module_name!r} does not exist; check `metrics` of the task"
        raise ConfigError(msg) from error
    functions = [value for value in vars(module).values() if hasattr(value, ATTRIBUTE)]
    return [getattr(f, ATTRIBUTE) for f in functions if f.__module__ == module_name]


def compute(metric: Metric, arrays: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compute one metric and return its table rows.

    Parameters
    ----------
    metric
        The metric.
    arrays
        Everything the task can offer, by name; the metric takes what it names.

    Returns
    -------
    list of dict
        One row (`metric`, `group`, `value`, `n`, `note`) for a number, one per group for a mapping.
        `group` is empty for an ungrouped metric. `value` is None, with the reason as `note`, where
        the metric is undefined. `n` is the length of the metric's first array unless the metric
        gives its own.

    Raises
    ------
    ContractError
        If an array is missing, or the metric returns something that is not a finite number within
        its bounds.
    """
    missing = [name for name in metric.required if name not in arrays]
    if missing:
        msg = f"metric {metric.name!r} needs {missing}, but the task offers {sorted(arrays)}"
        raise ContractError(msg)
    given = {name: arrays[name] for name in (*metric.required, *metric.optional) if name in arrays}
    n = next((len(array) for array in given.values() if hasattr(array, "__len__")), None)
    try:
        result = metric.function(**given)
    except MetricUndefined as undefined:
        return [_row(metric, "", Score(None, n, str(undefined)))]
    if isinstance(result, Mapping):
        return [_row(metric, str(group), _score(value, n)) for group, value in result.items()]
    return [_row(metric, "", _score(result, n))]


def _score(value: Any, n: int | None) -> Score:
    return value if isinstance(value, Score) else Score(value, n)


def _row(metric: Metric, group: str, score: Score) -> dict[str, Any]:
    where = f"metric {metric.name!r}" + (f", group {group!r}" if group else "")
    if score.value is None:
        if not score.note:
            msg = f"{where}: a missing value needs a note; raise MetricUndefined with the reason"
            raise ContractError(msg)
        value = None
    else:
        value = _finite(score.value, metric.bounds, where)
    return dict(zip(ROW_COLUMNS, (metric.name, group, value, score.n, score.note), strict=True))


def _finite(value: Any, bounds: tuple[float, float], where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        msg = f"{where}: expected a number, found {value!r} of type {type(value).__name__}"
        raise ContractError(msg)
    value = float(value)
    low, high = bounds
    if not math.isfinite(value):
        msg = f"{where}: found {value}; a metric is finite or raises MetricUndefined"
        raise ContractError(msg)
    if not low - BOUND_TOLERANCE <= value <= high + BOUND_TOLERANCE:
        msg = f"{where}: found {value}, outside its declared bounds [{low}, {high}]"
        raise ContractError(msg)
    return value
