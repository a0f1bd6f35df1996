"""Declarations of figures: which panels, of which table, where.

A figure is declared as::

    title: ...                 # optional, drawn above
    width: 7.1                 # inches
    columns: 12                # units of width that a row holds
    palette: dataset           # panels that agree in this `where` key share colours of cell types
    panels:
      - plot: scgpt.figures.umap:umap
        table: cells
        where: {dataset: hpancreas, method: scgpt}
        options: {label: annotated, legend: false}
        title: Human pancreas, annotated
        span: 4                # units of width, default: the whole row
        height: 2.2            # inches; a row is as high as its highest panel
        letter: true           # false: belongs to the letter before
        palette: ""            # panels of another name have colours and numbers of their own
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from scgpt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Keys of a declared figure that are for others: the report, the steps.
PASSED_BY = ("caption", "alt", "task")


@dataclass(frozen=True, kw_only=True)
class PanelSpec:
    """Declaration of one panel; see the head of this module."""

    plot: str
    table: str
    where: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    span: int | None = None
    height: float = 2.4
    letter: bool = True
    palette: str = ""


@dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """Declaration of a figure; see the head of this module."""

    panels: tuple[PanelSpec, ...]
    title: str = ""
    width: float = 7.1
    columns: int = 12
    palette: str = "dataset"


def figure_from(declared: Mapping[str, Any]) -> FigureSpec:
    """Return the typed form of a declared figure, refusing unknown keys and missing ones."""
    declared = {key: value for key, value in declared.items() if key not in PASSED_BY}
    panels = declared.get("panels")
    if not isinstance(panels, list | tuple) or not panels:
        msg = "figure: `panels` must be a list of at least one panel"
        raise ConfigError(msg)
    typed = tuple(
        _typed(PanelSpec, panel, f"panels[{number}]") for number, panel in enumerate(panels)
    )
    spec = _typed(FigureSpec, {**declared, "panels": typed}, "figure")
    for number, panel in enumerate(spec.panels):
        if panel.span is not None and not 1 <= panel.span <= spec.columns:
            msg = f"panels[{number}].span is {panel.span}; a row holds 1 to {spec.columns}"
            raise ConfigError(msg)
    return spec


def _typed(kind: type, declared: Mapping[str, Any], where: str) -> Any:
    known = {entry.name: entry for entry in fields(kind)}
    unknown = sorted(set(declared) - set(known))
    if unknown:
        msg = f"{where}: unknown keys {unknown}; known keys: {sorted(known)}"
        raise ConfigError(msg)
    missing = [
        name
        for name, entry in known.items()
        if name not in declared and entry.default is MISSING and entry.default_factory is MISSING
    ]
    if missing:
        msg = f"{where}: missing keys {missing}"
        raise ConfigError(msg)
    return kind(**declared)
