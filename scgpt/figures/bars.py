"""Grouped bars of scores, with errors, replicates and the marks the controls reached."""

from __future__ import annotations

import math
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from scgpt.errors import ConfigError, ContractError
from scgpt.figures.labels import CHARACTER, LINE, panel_inches
from scgpt.figures.plot import plot, require
from scgpt.figures.style import CONTROL_ROLES, GREY, INK, LIGHT, assign_colours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

SUMMARY = ("standard_error", "interval_low", "interval_high", "floor", "ceiling")
GROUP_WIDTH = 0.84
FACET_GAP = 0.35
DASHED = (0, (2.5, 1.5))


def bar_rows(
    table: pd.DataFrame,
    *,
    x: str = "metric",
    hue: str = "method",
    facet: str | None = None,
    x_order: Sequence[str] | None = None,
    hue_order: Sequence[str] | None = None,
    facet_order: Sequence[str] | None = None,
    controls: str = "marks",
) -> pd.DataFrame:
    """Return one row per replicate of each bar, or one per bar where the table has no replicates.

    Parameters
    ----------
    table
        Summary table (`mean`, `standard_error`, and optionally `interval_low`, `interval_high`,
        `floor`, `ceiling`, `role`), optionally with `replicate` and `value`, then one row each.
    x, hue, facet
        Columns that give the group on the axis, the bar inside it, and the set of groups.
    x_order, hue_order, facet_order
        Which values to draw, in which order; by default all, in the order of the table.
    controls
        "marks" leaves the methods that `role` calls controls to the floor and ceiling marks,
        "bars" draws them as bars as well.

    Raises
    ------
    ContractError
        If columns are missing, or one bar has several means: choose among them with `where`.
    """
    keys = [*([facet] if facet else []), x, hue]
    require(table, keys, "grouped_bars")
    _require_scores(table)
    if controls not in ("marks", "bars"):
        msg = f"grouped_bars: controls {controls!r} is not known; choose 'marks' or 'bars'"
        raise ConfigError(msg)
    if controls == "marks" and "role" in table:
        table = table[~table["role"].isin(CONTROL_ROLES)]
    rows = pd.DataFrame(
        {
            "facet": table[facet].astype(str) if facet else "",
            "x": table[x].astype(str),
            "hue": table[hue].astype(str),
            "role": table.get("role", "method"),
            "mean": pd.to_numeric(table["mean"]),
        }
    )
    for name in SUMMARY:
        rows[name] = pd.to_numeric(table[name]) if name in table else np.nan
    rows["replicate"] = table["replicate"].astype(str) if "replicate" in table else ""
    rows["value"] = pd.to_numeric(table["value"]) if "value" in table else np.nan
    orders = {"facet": facet_order, "x": x_order, "hue": hue_order}
    return _one_mean_per_bar(_ordered(rows, orders))


def _require_scores(table: pd.DataFrame) -> None:
    missing = [name for name in ("mean", "standard_error") if name not in table]
    if missing:
        msg = f"grouped_bars: the table lacks columns {missing}; summarise the scores first"
        raise ContractError(msg)


def _ordered(rows: pd.DataFrame, orders: Mapping[str, Sequence[str] | None]) -> pd.DataFrame:
    for name, wanted in orders.items():
        known = list(dict.fromkeys(rows[name]))
        order = known if wanted is None or (name == "facet" and known == [""]) else list(wanted)
        absent = [value for value in order if value not in known]
        if absent:
            msg = f"grouped_bars: no rows for {absent} in {name}_order; the table has {known}"
            raise ContractError(msg)
        rows = rows[rows[name].isin(order)]
        rows = rows.assign(**{name: pd.Categorical(rows[name], order)})
    if rows.empty:
        msg = "grouped_bars: no bar left to draw; do the rows hold controls only?"
        raise ContractError(msg)
    rows = rows.sort_values(list(orders), kind="stable", ignore_index=True)
    return rows.astype(dict.fromkeys(orders, str))


def _one_mean_per_bar(rows: pd.DataFrame) -> pd.DataFrame:
    n_means = rows.groupby(["facet", "x", "hue"], sort=False)["mean"].nunique(dropna=False)
    if (n_means > 1).any():
        msg = (
            f"grouped_bars: {n_means.max()} different means for {n_means.idxmax()}; choose one "
            f"with `where` (for example by dataset or group)"
        )
        raise ContractError(msg)
    return rows


@plot(rows=bar_rows, categories=("hue",), palette="methods")
def grouped_bars(
    rows: pd.DataFrame,
    ax: Axes,
    *,
    colours: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
    limits: Sequence[float] = (0.0, 1.0),
    name: str | None = None,
    legend: bool = True,
    legend_columns: int | None = None,
    points: bool = True,
) -> None:
    """Draw bars side by side in groups, and groups side by side in facets.

    Whiskers are one standard error. Dots are replicates. Across each group a dashed line marks the
    best negative control and a solid line the positive control. A score without a value is written
    as "n/a", so that it cannot be taken for 0.

    Parameters
    ----------
    rows
        From `bar_rows`.
    ax
        Axes to draw on.
    colours
        Bar name to colour.
    titles
        Name to words, for bars, groups and facets.
    limits
        Range of the score axis; widened where a score or its error lies outside. Bars start at 0,
        or at the end nearest to it.
    name
        Title of the score axis; by default "score", with what the whiskers are if there are any.
    legend
        Whether to explain the colours below the axes.
    legend_columns
        Columns of the legend; by default as many as fit.
    points
        Whether to draw the replicates.
    """
    titles = titles or {}
    colours = dict(colours or assign_colours(rows["hue"]))
    bars = rows.drop_duplicates(["facet", "x", "hue"])
    hues = list(dict.fromkeys(rows["hue"]))
    groups = bars[["facet", "x"]].drop_duplicates().reset_index(drop=True)
    places = _places(groups)
    width = GROUP_WIDTH / len(hues)
    base = float(np.clip(0, *limits))
    for (facet, x), part in bars.groupby(["facet", "x"], sort=False):
        centre = places[facet, x]
        _marks(ax, part, centre)
        for _, bar in part.iterrows():
            at = centre + (hues.index(bar["hue"]) - (len(hues) - 1) / 2) * width
            same = (rows["facet"] == facet) & (rows["x"] == x) & (rows["hue"] == bar["hue"])
            values = rows.loc[same, "value"].dropna() if points else pd.Series(dtype=float)
            _bar(ax, bar, at, width, colours[bar["hue"]], values, base=base)
    _score_axis(ax, rows, limits, name)
    depth = _group_axis(ax, groups, places, titles)
    if legend:
        handles = _handles(rows, hues, colours, titles, points=points)
        # A fixed distance in points below the tick labels, whatever the height of the axes.
        below = ax.transAxes + ScaledTranslation(0, -depth, ax.figure.dpi_scale_trans)
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            bbox_transform=below,
            borderaxespad=0.0,
            ncols=legend_columns or _columns(ax, [handle.get_label() for handle in handles]),
        )


def _places(groups: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Return the centre of each group; facets stand apart."""
    facet_number = pd.factorize(groups["facet"])[0]
    at = np.arange(len(groups)) + FACET_GAP * facet_number
    return dict(zip(zip(groups["facet"], groups["x"], strict=True), at.tolist(), strict=True))


def _bar(
    ax: Axes,
    bar: pd.Series,
    at: float,
    width: float,
    colour: str,
    values: pd.Series,
    *,
    base: float,
) -> None:
    if np.isnan(bar["mean"]):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
        text = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 5, "color": GREY}
        ax.text(at, base + 0.01, "n/a", zorder=6, bbox=box, **text)
        return
    ax.bar(at, bar["mean"] - base, width * 0.92, bottom=base, color=colour, linewidth=0)
    if np.isfinite(bar["standard_error"]):
        line = {"color": INK, "linewidth": 0.7, "capsize": min(1.6, 12 * width), "capthick": 0.7}
        ax.errorbar(at, bar["mean"], bar["standard_error"], zorder=4, **line)
    if len(values) > 1:
        steps = np.linspace(-0.28, 0.28, len(values)) * width
        dots = {"s": 3.2, "color": "white", "edgecolor": INK, "linewidth": 0.35, "zorder": 3}
        ax.scatter(at + steps, values, **dots)


def _marks(ax: Axes, part: pd.DataFrame, centre: float) -> None:
    ends = (centre - GROUP_WIDTH / 2, centre + GROUP_WIDTH / 2)
    for column, style in (("floor", DASHED), ("ceiling", "-")):
        values = part[column].dropna().unique()
        if len(values):
            # The white band below keeps the mark legible on dark bars.
            ax.hlines(values[0], *ends, color="white", linewidth=2.0, zorder=5)
            ax.hlines(values[0], *ends, color=INK, linewidth=0.9, linestyle=style, zorder=5)


def _score_axis(ax: Axes, rows: pd.DataFrame, limits: Sequence[float], name: str | None) -> None:
    error = rows["standard_error"].fillna(0)
    drawn = [rows["mean"] - error, rows["mean"] + error, rows["floor"], rows["ceiling"]]
    drawn = pd.concat([*drawn, rows["value"]]).dropna()
    low, high = limits
    ax.set_ylim(min([low, *drawn]), max([high, *drawn]) + 0.02 * (high - low))
    whiskers = rows["standard_error"].notna().any()
    name = name or ("score (mean ± s.e.m.)" if whiskers else "score")
    ax.set_ylabel(fill(name, max(8, int(0.5 * panel_inches(ax)[1] / CHARACTER))))
    ax.grid(axis="y", color=LIGHT, linewidth=0.4)
    base = float(np.clip(0, low, high))
    if ax.get_ylim()[0] < base:
        ax.axhline(base, color=INK, linewidth=0.6)


def _group_axis(
    ax: Axes,
    groups: pd.DataFrame,
    places: Mapping[tuple[str, str], float],
    titles: Mapping[str, str],
) -> float:
    """Name groups and facets; return how far below the axes the names reach, in inches."""
    at = list(places.values())
    room = panel_inches(ax)[0] * 0.9 / (max(at) - min(at) + 1)
    wide = max(1, int(room / CHARACTER))
    names = [fill(titles.get(x, x), wide, break_long_words=False) for x in groups["x"]]
    longest = max(len(line) for name in names for line in name.split("\n"))
    upright = longest > wide
    if upright:
        names = [name.replace("\n", " ") for name in names]
    ax.set_xticks(at, names, rotation=90 if upright else 0)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(min(at) - 0.6, max(at) + 0.6)
    _name_facets(ax, groups, places, titles)
    if upright:
        return 0.13 + CHARACTER * max(map(len, names))
    return 0.13 + LINE * (1 + max(name.count("\n") for name in names))


def _name_facets(
    ax: Axes,
    groups: pd.DataFrame,
    places: Mapping[tuple[str, str], float],
    titles: Mapping[str, str],
) -> None:
    """Name facets as ticks of a second axis on top, so that a title finds its place above."""
    facets = [name for name in groups["facet"].unique() if name]
    if not facets:
        return
    middles = [np.mean([at for (f, _), at in places.items() if f == facet]) for facet in facets]
    top = ax.secondary_xaxis("top")
    names = [titles.get(facet, facet) for facet in facets]
    top.set_xticks(middles, names, fontweight="bold", fontsize=7)
    top.tick_params(length=0, pad=2)
    top.spines[:].set_visible(False)


def _columns(ax: Axes, names: Sequence[str]) -> int:
    """Return how many legend entries fit beside each other, in lines of similar length."""
    entry = CHARACTER * max(map(len, names)) + 0.3
    fitting = max(1, int(panel_inches(ax)[0] / entry))
    return math.ceil(len(names) / math.ceil(len(names) / fitting))


def _handles(
    rows: pd.DataFrame,
    hues: list[str],
    colours: Mapping[str, str],
    titles: Mapping[str, str],
    *,
    points: bool,
) -> list[Artist]:
    handles: list[Artist] = [Patch(color=colours[hue], label=titles.get(hue, hue)) for hue in hues]
    n_replicates = rows.groupby(["facet", "x", "hue"])["value"].count().max()
    if points and n_replicates > 1:
        dot = {"marker": "o", "markersize": 2.5, "markerfacecolor": "white", "linestyle": "none"}
        handles.append(Line2D([], [], color=INK, markeredgewidth=0.5, label="replicate", **dot))
    if rows["floor"].notna().any():
        label = "floor (best negative control)"
        handles.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=DASHED, label=label))
    if rows["ceiling"].notna().any():
        label = "ceiling (positive control)"
        handles.append(Line2D([], [], color=INK, linewidth=0.9, label=label))
    return handles
