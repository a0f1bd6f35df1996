"""Figures from declarations: panels in rows, lettered, each a plot of a table."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from scgpt.errors import ContractError
from scgpt.figures.plot import Plot, find_plot
from scgpt.figures.style import assign_colours, context
from scgpt.plan.config import FigureLayout, typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import SubFigure

    from scgpt.plan.config import PanelConfig

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel ready to be painted: its plot, exactly the rows it will paint, and its options."""

    name: str
    letter: str
    plot: Plot
    rows: pd.DataFrame
    options: dict[str, Any]
    palette: str
    title: str = ""
    span: int = 12
    height: float = 2.4


def draw(
    figure_spec: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    *,
    titles: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a declared figure.

    Parameters
    ----------
    figure_spec
        The declaration.
    tables
        Tables by the names that the panels use.
    titles
        Words for names in the tables (methods, data sets, metrics, cell types).
    colours
        Colours that are already fixed, for example from `style.method_colours`.

    Returns
    -------
    matplotlib.figure.Figure
        To be written with `style.save`.

    Raises
    ------
    ConfigError
        If the declaration is wrong.
    ContractError
        If a table does not hold what a panel needs.
    """
    spec = typed(FigureLayout, figure_spec, "figure")
    panels = prepare(spec, tables)
    return compose(
        panels,
        width=spec.width,
        columns=spec.columns,
        title=spec.title,
        titles=titles,
        colours=colours,
    )


def drawn_numbers(
    figure_spec: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Return every number that `draw` paints: `panel`, `plot`, then the columns of each plot.

    Panels that share a letter are a, a2, a3. Columns that a plot does not have stay empty.
    """
    panels = prepare(typed(FigureLayout, figure_spec, "figure"), tables)
    parts = []
    for panel in panels:
        rows = panel.plot.tabulate(panel.rows)
        rows.insert(0, "panel", panel.name)
        rows.insert(1, "plot", panel.plot.name)
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def prepare(spec: FigureLayout, tables: Mapping[str, pd.DataFrame]) -> list[Panel]:
    """Return the panels with the rows they will paint."""
    panels, letter, n_letters, n_same = [], "", 0, 1
    for number, declared in enumerate(spec.panels):
        if declared.letter or not letter:
            letter, n_letters, n_same = LETTERS[n_letters % 26], n_letters + 1, 1
        else:
            n_same += 1
        plot = find_plot(declared.plot)
        where = f"panels[{number}] ({plot.name})"
        panels.append(
            Panel(
                name=letter if n_same == 1 else f"{letter}{n_same}",
                letter=letter if n_same == 1 else "",
                plot=plot,
                rows=plot.prepare(select(declared, tables, where), **declared.options),
                options=dict(declared.options),
                palette=":".join(
                    (plot.palette, str(declared.where.get("dataset", "")), declared.palette)
                ),
                title=declared.title,
                span=declared.span or spec.columns,
                height=declared.height,
            )
        )
    return panels


def select(declared: PanelConfig, tables: Mapping[str, pd.DataFrame], where: str) -> pd.DataFrame:
    """Return the rows of a panel's table that match its `where`.

    A value of `where` is one value or a list; values are compared as text, since tables read from
    files may hold seeds as numbers or text.

    Raises
    ------
    ContractError
        If the table or a column is absent, or nothing matches.
    """
    if declared.table not in tables:
        msg = f"{where}: no table {declared.table!r}; known tables: {sorted(tables)}"
        raise ContractError(msg)
    table = tables[declared.table]
    for column, wanted in declared.where.items():
        if column not in table:
            msg = f"{where}: table {declared.table!r} has no column {column!r}: {list(table)[:20]}"
            raise ContractError(msg)
        values = wanted if isinstance(wanted, list | tuple) else [wanted]
        text = table[column].astype(str).where(table[column].notna(), "")
        chosen = table[text.isin([str(value) for value in values])]
        if chosen.empty:
            found = sorted(text.unique())[:20]
            msg = f"{where}: no row of {declared.table!r} has {column} = {wanted!r}; it has {found}"
            raise ContractError(msg)
        table = chosen
    return table


def compose(
    panels: Sequence[Panel],
    *,
    width: float = 7.1,
    columns: int = 12,
    title: str = "",
    titles: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Paint panels in rows, from left to right, each row as high as its highest panel.

    Parameters
    ----------
    panels
        The panels, in reading order.
    width
        Width of the figure in inches; heights are the panels'.
    columns
        Units of width per row.
    title
        Drawn above everything.
    titles, colours
        As in `draw`.
    """
    rows = in_rows(panels, columns)
    heights = [max(panel.height for panel in row) for row in rows]
    top = 0.3 if title else 0.0
    palettes = _palettes(panels, colours or {})
    with context():
        figure = Figure(figsize=(width, sum(heights) + top), layout="constrained")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        bands = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for band, row in zip(bands, rows, strict=True):
            spans = [panel.span for panel in row]
            # An empty unit at the end keeps panels of an unfilled row at their declared width.
            rest = [columns - sum(spans)] if sum(spans) < columns else []
            cells = band.subfigures(1, len(spans + rest), width_ratios=spans + rest, squeeze=False)
            for cell, panel in zip(cells[0], row, strict=False):
                _paint(cell, panel, palettes[panel.palette], titles or {})
        # Laid out once, here: every file format then shows the same figure, and writing is faster.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def in_rows(panels: Sequence[Panel], columns: int) -> list[list[Panel]]:
    """Return the panels broken into rows of at most `columns` units."""
    rows: list[list[Panel]] = []
    free = 0
    for panel in panels:
        if panel.span > free:
            rows.append([])
            free = columns
        rows[-1].append(panel)
        free -= panel.span
    return rows


def _palettes(panels: Sequence[Panel], fixed: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return category to colour for each set of panels that share a palette."""
    names: dict[str, set[str]] = defaultdict(set)
    for panel in panels:
        for column in panel.plot.categories:
            names[panel.palette].update(panel.rows[column])
    return {
        palette: {name: fixed.get(name, colour) for name, colour in assign_colours(found).items()}
        for palette, found in names.items()
    } | {panel.palette: {} for panel in panels if panel.palette not in names}


def _paint(
    cell: SubFigure, panel: Panel, colours: Mapping[str, str], titles: Mapping[str, str]
) -> None:
    ax = cell.subplots()
    shared = {"colours": colours or None, "titles": titles}
    panel.plot.paint_rows(panel.rows, ax, **{**shared, **panel.options})
    # A blank title keeps the letter's line free of the topmost tick label.
    ax.set_title(panel.title or " ")
    if panel.letter:
        cell.text(0.004, 0.996, panel.letter, fontsize=10, fontweight="bold", va="top", ha="left")
