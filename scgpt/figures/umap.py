"""Cells as points in two dimensions, coloured by category; the legend also as its own panel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from scgpt.errors import ContractError
from scgpt.figures.labels import CHARACTER, LINE, N_WITHOUT_NUMBERS, panel_inches, shorten
from scgpt.figures.plot import plot, require
from scgpt.figures.style import GREY, INK, assign_colours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

FONT_SIZE = 6.5
SMALLEST_FONT_SIZE = 5.0
# Smallest distance between two numbers, as a share of the longer side of the plot.
NUMBER_GAP = 0.03


def umap_rows(
    table: pd.DataFrame, *, x: str = "x", y: str = "y", label: str = "label"
) -> pd.DataFrame:
    """Return one row per cell with `x`, `y`, `label` and, where the table has it, `cell`.

    Parameters
    ----------
    table
        One row per cell.
    x, y
        Columns of the coordinates.
    label
        Column of the category.
    """
    require(table, [x, y, label], "umap")
    rows = pd.DataFrame(
        {
            "x": pd.to_numeric(table[x]).to_numpy(dtype=float),
            "y": pd.to_numeric(table[y]).to_numpy(dtype=float),
            "label": table[label].astype(str).to_numpy(),
        }
    )
    if not np.isfinite(rows[["x", "y"]].to_numpy()).all():
        msg = f"umap: columns {x!r} and {y!r} hold infinite coordinates"
        raise ContractError(msg)
    if "cell" in table:
        rows.insert(0, "cell", table["cell"].astype(str).to_numpy())
    return rows


@plot(rows=umap_rows, categories=("label",), palette="cells")
def umap(
    rows: pd.DataFrame,
    ax: Axes,
    *,
    colours: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
    legend: bool = True,
    numbers: bool | None = None,
    size: float | None = None,
    axis_name: str = "UMAP",
) -> None:
    """Draw cells as points, in an order that puts no category on top.

    Parameters
    ----------
    rows
        From `umap_rows`.
    ax
        Axes to draw on.
    colours
        Category to colour; the order numbers the categories. By default `assign_colours`.
    titles
        Category to words for the legend.
    legend
        Whether to list the categories right of the axes; a `category_legend` panel can do so for
        several plots at once.
    numbers
        Whether to write the number of each category at the median of its cells; by default for
        more than eight categories.
    size
        Area of a point in square points; by default from the number of cells.
    axis_name
        Name of the two axes.
    """
    colours = dict(colours or assign_colours(rows["label"]))
    shuffled = rows.iloc[np.random.default_rng(0).permutation(len(rows))]
    ax.scatter(
        shuffled["x"],
        shuffled["y"],
        s=size or float(np.clip(9000 / len(rows), 0.6, 14)),
        c=[colours[name] for name in shuffled["label"]],
        linewidths=0,
        rasterized=True,
    )
    if len(colours) > N_WITHOUT_NUMBERS if numbers is None else numbers:
        _number_groups(rows, ax, list(colours))
    _bare_axes(ax, axis_name)
    if legend:
        present = [name for name in colours if (rows["label"] == name).any()]
        counts = rows["label"].value_counts()
        _legend(ax, present, colours, counts, titles or {}, outside=True, numbers=numbers)


def _number_groups(rows: pd.DataFrame, ax: Axes, order: list[str]) -> None:
    gap = NUMBER_GAP * float(np.ptp(rows[["x", "y"]].to_numpy(), axis=0).max())
    taken: list[np.ndarray] = []
    # Small groups first: a large one has cells enough to give way.
    for name in rows["label"].value_counts().index[::-1]:
        points = rows.loc[rows["label"] == name, ["x", "y"]].to_numpy()
        taken.append(_place(points, taken, gap))
        ax.text(
            *taken[-1],
            str(order.index(name) + 1),
            ha="center",
            va="center",
            fontsize=6,
            fontweight="bold",
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
        )


def _place(points: np.ndarray, taken: list[np.ndarray], gap: float) -> np.ndarray:
    """Return the cell nearest to the median of its group that keeps `gap` to the places taken.

    A cell, not the median itself: the median of a bent group may lie outside it.
    """
    middle = np.median(points, axis=0)
    nearest_first = points[np.argsort(((points - middle) ** 2).sum(axis=1), kind="stable")]
    free = np.ones(len(points), dtype=bool)
    for place in taken:
        free &= np.hypot(*(nearest_first - place).T) >= gap
    return nearest_first[np.argmax(free)]


def _bare_axes(ax: Axes, axis_name: str) -> None:
    """Remove ticks and frame: the coordinates have no unit; the corner names the axes."""
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(False)
    ax.margins(0.03)
    ax.set_xlabel(f"{axis_name} 1", loc="left", color=GREY, fontsize=6)
    ax.set_ylabel(f"{axis_name} 2", loc="bottom", color=GREY, fontsize=6)


def legend_rows(table: pd.DataFrame, *, labels: Sequence[str] = ("label",)) -> pd.DataFrame:
    """Return one row per category: `label` and its number of cells in each of the columns.

    Parameters
    ----------
    table
        One row per cell; a cell drawn for several methods counts once.
    labels
        Columns of the categories, for example annotated and predicted type.
    """
    labels = list(labels)
    require(table, labels, "category_legend")
    if "cell" in table:
        table = table.drop_duplicates("cell")
    counts = {f"n_{name}": table[name].astype(str).value_counts() for name in labels}
    rows = pd.DataFrame(counts).fillna(0).astype(int)
    return rows.rename_axis("label").sort_index().reset_index()


@plot(rows=legend_rows, categories=("label",), palette="cells")
def category_legend(
    rows: pd.DataFrame,
    ax: Axes,
    *,
    colours: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
    counts: bool = True,
    numbers: bool | None = None,
) -> None:
    """Draw a legend alone, for a row of panels that share their categories.

    Parameters
    ----------
    rows
        From `legend_rows`.
    ax
        Axes to draw on; nothing else is drawn there.
    colours
        Category to colour; the order numbers the categories.
    titles
        Category to words.
    counts
        Whether to add the number of cells, of the first column counted.
    numbers
        Whether to number the categories; by default for more than eight.
    """
    colours = dict(colours or assign_colours(rows["label"]))
    present = [name for name in colours if name in set(rows["label"])]
    n_cells = rows.set_index("label").iloc[:, 0] if counts else None
    ax.set_axis_off()
    _legend(ax, present, colours, n_cells, titles or {}, outside=False, numbers=numbers)


def _legend(
    ax: Axes,
    names: list[str],
    colours: Mapping[str, str],
    counts: pd.Series | None,
    titles: Mapping[str, str],
    *,
    outside: bool,
    numbers: bool | None,
) -> None:
    order = list(colours)
    numbered = len(order) > N_WITHOUT_NUMBERS if numbers is None else numbers
    prefix = {name: f"{order.index(name) + 1}  " if numbered else "" for name in names}
    width, height = panel_inches(ax)
    size, n_columns = _fit(len(names), height)
    # Beside points, the legend may take half of the panel; alone, all of it.
    room = (width * (0.5 if outside else 1.0) / n_columns - 0.25) * FONT_SIZE / size
    full = {name: prefix[name] + titles.get(name, name) for name in names}
    suffix = {name: f" ({counts[name]:,})" if counts is not None else "" for name in names}
    if max(len(full[name] + suffix[name]) for name in names) * CHARACTER > room:
        # Whole names tell more than numbers of cells, which the confusion matrix gives as well.
        suffix = dict.fromkeys(names, "")
    mark = {"marker": "o", "linestyle": "none", "markersize": 5, "markeredgewidth": 0}
    ax.legend(
        [Line2D([], [], color=colours[name], **mark) for name in names],
        [shorten(full[name], room) + suffix[name] for name in names],
        loc="center left" if outside else "upper left",
        bbox_to_anchor=(1.0, 0.5) if outside else (0.0, 1.0),
        borderaxespad=0.3,
        labelspacing=0.35,
        labelcolor=INK,
        fontsize=size,
        ncols=n_columns,
    )


def _fit(n_lines: int, height: float) -> tuple[float, int]:
    """Return font size and number of columns of a legend; rather small type than two columns."""
    fitting = max(1, int(height / LINE) - 1)
    n_columns = 1
    while FONT_SIZE * fitting / math.ceil(n_lines / n_columns) < SMALLEST_FONT_SIZE:
        n_columns += 1
    return min(FONT_SIZE, FONT_SIZE * fitting / math.ceil(n_lines / n_columns)), n_columns
