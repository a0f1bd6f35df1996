"""The contract of a method (C4): typed parameters, a context, `fit` and `predict`."""

from __future__ import annotations

import abc
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from scgpt.errors import ConfigError
from scgpt.plan.config import typed

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad


class MethodParams(BaseModel):
    """Base of every method's parameters: frozen, and a key nobody declared is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class MethodContext:
    """What a job gives to a method besides data and parameters.

    Parameters
    ----------
    seed
        The only source of randomness.
    device
        Torch device name; methods without a network ignore it.
    threads
        Number of CPU threads the method may use.
    checkpoint
        Folder of a pretrained model, if the declaration names one.
    truth
        The hidden answers; only handed to positive controls.
    knowledge
        Files of the knowledge bases that the declaration names, by name.
    scratch
        Folder the method may write to (for checkpoints of a running job); nowhere else.
    progress
        Whether to show progress on standard error.
    """

    seed: int
    device: str = "cpu"
    threads: int = 1
    checkpoint: Path | None = None
    truth: ad.AnnData | None = None
    knowledge: Mapping[str, Path] = field(default_factory=dict)
    scratch: Path | None = None
    progress: bool = False


class Method(abc.ABC):
    """One way to solve one task.

    A method does not change its input, depends on cells and genes only through their names (not
    their order), gives the same output for the same seed on CPU, writes only to
    `context.scratch` and sets no global seed or warning filter.

    Attributes
    ----------
    history
        Loss rows of the fit: mappings with the keys epoch, step, phase, objective, value, lr,
        seconds, cells_per_second. Empty for methods without a training curve.
    notes
        Every rule that odd input made necessary, in words; they stand beside the scores.
    """

    Params: ClassVar[type[MethodParams]] = MethodParams

    def __init__(self, params: MethodParams, context: MethodContext) -> None:
        if not isinstance(params, self.Params):
            msg = (
                f"{type(self).__name__} takes {self.Params.__qualname__}, "
                f"not {type(params).__qualname__}; make it with parse_params"
            )
            raise ConfigError(msg)
        self.params = params
        self.context = context
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []

    @abc.abstractmethod
    def fit(self, data: ad.AnnData) -> None:
        """Learn from task data (C2)."""

    @abc.abstractmethod
    def predict(self, data: ad.AnnData) -> ad.AnnData:
        """Return the prediction of the task (C5)."""


def load_method(entry_point: str) -> type[Method]:
    """Import a method class.

    Parameters
    ----------
    entry_point
        `package.module:ClassName`.

    Raises
    ------
    ConfigError
        If the text has another form, the module or class does not exist, a package the module
        needs is not installed, or the class is not a method.
    """
    module_name, _, class_name = entry_point.partition(":")
    if not (module_name and class_name.isidentifier()):
        msg = f"entry point {entry_point!r} is not of the form package.module:ClassName"
        raise ConfigError(msg)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if module_name == missing or module_name.startswith(f"{missing}."):
            msg = f"entry point {entry_point!r}: there is no module {missing}"
        else:
            msg = (
                f"entry point {entry_point!r}: {module_name} needs the package {missing}, which "
                "is not installed here; run the method in its declared environment"
            )
        raise ConfigError(msg) from error
    found = getattr(module, class_name, None)
    if found is None:
        known = sorted(name for name, value in vars(module).items() if _is_method(value))
        msg = f"entry point {entry_point!r}: {module_name} has no {class_name}; methods: {known}"
        raise ConfigError(msg)
    if not _is_method(found):
        msg = f"entry point {entry_point!r}: {class_name} is not a concrete Method"
        raise ConfigError(msg)
    return found


def _is_method(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Method) and not inspect.isabstract(value)


def parse_params(method_class: type[Method], values: Mapping[str, Any]) -> MethodParams:
    """Turn a mapping (from YAML or JSON) into the typed parameters of a method.

    Raises
    ------
    ConfigError
        If a key is unknown (the known ones are named) or a value does not fit.
    """
    if not isinstance(values, Mapping):
        msg = f"parameters of {method_class.__name__} are {values!r}, expected a mapping"
        raise ConfigError(msg)
    return typed(method_class.Params, dict(values), method_class.__name__)
