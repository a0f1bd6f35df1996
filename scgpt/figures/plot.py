"""What a plot function is: rows out of a table, then paint onto axes.

The two halves are written apart so that the table beside a figure can hold exactly the rows that
were painted, and so that panels of one figure can agree on colours before anything is drawn.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgpt.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

# Not options of a figure's declaration: the composition hands them to every plot that wants them.
SHARED = ("colours", "titles")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot function `(table, ax, **options)` that also tells what it draws.

    Attributes
    ----------
    name
        Name of the plot.
    rows
        `(table, **options) -> DataFrame`, the rows drawn.
    paint
        `(rows, ax, **options) -> None`.
    tabulate
        `(rows) -> DataFrame`, the tidy form of the rows for a text table.
    categories
        Columns of the rows whose values are colour categories.
    palette
        Plots of one figure with the same `palette` share the colours of equal categories.
    """

    name: str
    rows: Callable[..., pd.DataFrame]
    paint: Callable[..., None]
    tabulate: Callable[[pd.DataFrame], pd.DataFrame]
    categories: tuple[str, ...]
    palette: str

    def __call__(self, table: pd.DataFrame, ax: Axes, **options: Any) -> None:
        """Draw a table."""
        self.paint_rows(self.prepare(table, **options), ax, **options)

    def prepare(self, table: pd.DataFrame, **options: Any) -> pd.DataFrame:
        """Return the rows that the plot draws of a table.

        Raises
        ------
        ConfigError
            If an option is unknown.
        ContractError
            If the table is empty or lacks what the plot needs.
        """
        self._check(options)
        if table.empty:
            msg = f"{self.name}: the table has no row to draw"
            raise ContractError(msg)
        return self.rows(table, **_accepted(self.rows, options))

    def paint_rows(self, rows: pd.DataFrame, ax: Axes, **options: Any) -> None:
        """Draw rows that `prepare` made."""
        self._check(options)
        self.paint(rows, ax, **_accepted(self.paint, options))

    def numbers(self, table: pd.DataFrame, **options: Any) -> pd.DataFrame:
        """Return, as a tidy table, exactly what the plot draws of a table."""
        return self.tabulate(self.prepare(table, **options))

    def _check(self, options: Mapping[str, Any]) -> None:
        known = {*_options(self.rows), *_options(self.paint)}
        unknown = sorted(set(options) - known - set(SHARED))
        if unknown:
            offered = sorted(known - set(SHARED))
            msg = f"{self.name}: unknown options {unknown}; it knows {offered}"
            raise ConfigError(msg)


def plot(
    *,
    rows: Callable[..., pd.DataFrame],
    tabulate: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    categories: Sequence[str] = (),
    palette: str = "",
) -> Callable[[Callable[..., None]], Plot]:
    """Turn a paint function into a `Plot`; the arguments are the attributes of `Plot`."""

    def declare(paint: Callable[..., None]) -> Plot:
        return Plot(
            name=paint.__name__,
            rows=rows,
            paint=paint,
            tabulate=tabulate or pd.DataFrame.copy,
            categories=tuple(categories),
            palette=palette,
        )

    return declare


def find_plot(entry: str) -> Plot:
    """Return the plot named ``module:function``.

    Raises
    ------
    ConfigError
        If there is no such module or plot.
    """
    module_name, _, name = entry.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError) as error:
        msg = f"plot {entry!r}: cannot import {module_name!r}; write it as 'module:function'"
        raise ConfigError(msg) from error
    found = getattr(module, name, None)
    if not isinstance(found, Plot):
        known = sorted(key for key, value in vars(module).items() if isinstance(value, Plot))
        msg = f"plot {entry!r}: {module_name} has no plot {name!r}; it has {known}"
        raise ConfigError(msg)
    return found


def require(table: pd.DataFrame, columns: Sequence[str], plot_name: str) -> None:
    """Raise ContractError unless the table has all columns, without missing values."""
    missing = [name for name in columns if name not in table]
    if missing:
        msg = f"{plot_name}: the table lacks columns {missing}; it has {list(table)[:20]}"
        raise ContractError(msg)
    holes = {name: int(n) for name, n in table[list(columns)].isna().sum().items() if n}
    if holes:
        msg = f"{plot_name}: missing values in {holes} (column: number) of {len(table)} rows"
        raise ContractError(msg)


def _options(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    names = _options(function)
    return {name: value for name, value in options.items() if name in names}
