"""Observed beside predicted: pairs of boxes for the genes that a perturbation changes most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from scgpt.errors import ContractError
from scgpt.figures.labels import shorten
from scgpt.figures.plot import plot, require
from scgpt.figures.style import GREY, INK, LIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

NUMBERS = ("mean", "low", "q1", "median", "q3", "high")
KINDS = ("observed", "predicted")
COLOURS = {"observed": LIGHT, "predicted": "#0072B2"}
OFFSET, WIDTH = 0.2, 0.34
GAP = 1.5  # between two conditions, in genes
GENE_INCHES = 0.8
ROOM_FOR_NAMES = 0.12  # of the height, above the boxes


def box_rows(table: pd.DataFrame, *, conditions: Sequence[str] = (), n: int = 2) -> pd.DataFrame:
    """Return the boxes of some conditions, in the order drawn.

    Parameters
    ----------
    table
        Columns condition, gene, rank, kind (observed or predicted), mean, low, q1, median, q3,
        high, n.
    conditions
        Those to show, where the table has them; more are added in the order of their names.
    n
        How many conditions.

    Raises
    ------
    ContractError
        If columns are missing, or a gene has not exactly one box of each kind.
    """
    require(table, ["condition", "gene", "rank", "kind", *NUMBERS], "paired_boxes")
    known = sorted(table["condition"].astype(str).unique())
    chosen = [name for name in conditions if name in known]
    chosen = [*chosen, *(name for name in known if name not in chosen)][:n]
    rows = table[table["condition"].isin(chosen)].copy()
    if rows.duplicated(["condition", "gene", "kind"]).any():
        msg = "paired_boxes: a gene has several boxes of one kind; choose a method with `where`"
        raise ContractError(msg)
    rows["condition"] = pd.Categorical(rows["condition"], chosen)
    rows["kind"] = pd.Categorical(rows["kind"], KINDS)
    rows = rows.sort_values(["condition", "rank", "kind"], ignore_index=True)
    columns = ["condition", "gene", "rank", "kind", *NUMBERS, *(["n"] if "n" in rows else [])]
    return rows[columns].astype({"condition": str, "kind": str})


@plot(rows=box_rows)
def paired_boxes(rows: pd.DataFrame, ax: Axes) -> None:
    """Draw pairs of boxes, gene by gene and condition by condition, with a line at no change.

    Parameters
    ----------
    rows
        From `box_rows`.
    ax
        Axes to draw on.
    """
    genes = rows.drop_duplicates(["condition", "gene"])
    blocks = {name: i for i, name in enumerate(genes["condition"].unique())}
    places = np.arange(len(genes)) + GAP * genes["condition"].map(blocks).to_numpy()
    place = dict(zip(zip(genes["condition"], genes["gene"], strict=True), places, strict=True))
    for kind, side in zip(KINDS, (-OFFSET, OFFSET), strict=True):
        part = rows[rows["kind"] == kind]
        at = [place[key] + side for key in zip(part["condition"], part["gene"], strict=True)]
        _draw_boxes(ax, part, at, COLOURS[kind])
    ax.axhline(0, color=GREY, linewidth=0.6, linestyle=(0, (3, 2)), zorder=0)
    ax.set_xticks(places, [shorten(name, GENE_INCHES) for name in genes["gene"]], rotation=90)
    ax.set_xlim(places[0] - 1, places[-1] + 1)
    ax.set_ylabel("Change against control")
    _name_conditions(ax, rows, genes, places)
    handles = [Patch(facecolor=COLOURS[kind], edgecolor=INK, linewidth=0.5) for kind in KINDS]
    ax.legend(handles, KINDS, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _draw_boxes(ax: Axes, part: pd.DataFrame, at: list[float], colour: str) -> None:
    names = {"med": "median", "q1": "q1", "q3": "q3", "whislo": "low", "whishi": "high"}
    stats = [
        {"mean": row["mean"], **{key: row[name] for key, name in names.items()}}
        for row in part.to_dict("records")
    ]
    line = {"linewidth": 0.5, "color": INK}
    ax.bxp(
        stats,
        positions=at,
        widths=WIDTH,
        showfliers=False,
        showmeans=True,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "edgecolor": INK, "linewidth": 0.5},
        medianprops={"linewidth": 0.9, "color": INK},
        whiskerprops=line,
        capprops=line,
        meanprops={"marker": "o", "markersize": 1.6, "markerfacecolor": INK, "markeredgewidth": 0},
    )


def _name_conditions(ax: Axes, rows: pd.DataFrame, genes: pd.DataFrame, places: np.ndarray) -> None:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + ROOM_FOR_NAMES * (high - low))
    for name in genes["condition"].unique():
        here = places[(genes["condition"] == name).to_numpy()]
        seen = rows[(rows["condition"] == name) & (rows["kind"] == "observed")]
        words = name.replace("+", " + ")
        if "n" in seen and len(seen):
            words += f" (n = {int(seen['n'].iloc[0])} cells)"
        place = {"ha": "center", "va": "top", "transform": ax.get_xaxis_transform()}
        ax.text(here.mean(), 0.99, words, fontsize=7, **place)
