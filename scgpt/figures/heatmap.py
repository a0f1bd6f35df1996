"""Matrices as images: confusion between cell types, and cell embeddings sorted by cell type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap

from scgpt.errors import ConfigError, ContractError
from scgpt.figures.labels import CHARACTER, N_WITHOUT_NUMBERS, panel_inches, shorten, spread
from scgpt.figures.plot import plot, require
from scgpt.figures.style import GREY, LIGHT, assign_colours, in_order, text_colour

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MAX_WRITTEN = 16
MAX_NAME_LENGTH = 18
# Share of a panel's width or height that the names of types may take; the rest is for the matrix.
NAMES_SHARE = 0.36
# Width of a colour bar with its label, and of the label of the axis.
COLOUR_BAR_INCHES = 0.8


def confusion_rows(
    table: pd.DataFrame,
    *,
    true: str = "true",
    predicted: str = "predicted",
    count: str | None = "count",
) -> pd.DataFrame:
    """Return one row per pair of types: `true`, `predicted`, `count`, `share` of the true type.

    Parameters
    ----------
    table
        Counts for pairs of types; or one row per cell, if `count` is None.
    true, predicted
        Columns of the annotated and the predicted type.
    count
        Column of the number of cells, added up where a pair occurs more than once.

    Raises
    ------
    ContractError
        If columns are missing, or counts are negative.
    """
    require(table, [true, predicted, *([count] if count else [])], "confusion_matrix")
    weights = pd.to_numeric(table[count]) if count else pd.Series(1, index=table.index)
    if (weights < 0).any() or not weights.sum():
        msg = f"confusion_matrix: column {count!r} must hold counts of cells, not all zero"
        raise ContractError(msg)
    pairs = pd.DataFrame(
        {
            "true": table[true].astype(str),
            "predicted": table[predicted].astype(str),
            "count": weights,
        }
    )
    counts = pairs.pivot_table(
        index="true", columns="predicted", values="count", aggfunc="sum", fill_value=0
    )
    # A type without annotated cells has no share to give; if predicted, it stays as a column.
    counts = counts.loc[counts.sum(axis=1) > 0]
    order = in_order([*counts.index, *counts.columns])
    counts = counts.reindex(
        index=[name for name in order if name in counts.index], columns=order, fill_value=0
    )
    rows = counts.stack().rename("count").reset_index()
    rows["share"] = rows["count"] / rows.groupby("true")["count"].transform("sum")
    return rows


@plot(rows=confusion_rows, categories=("true", "predicted"), palette="cells")
def confusion_matrix(
    rows: pd.DataFrame,
    ax: Axes,
    *,
    colours: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
    values: bool | None = None,
    numbers: bool | None = None,
    colour_bar: bool = True,
) -> None:
    """Draw shares of each annotated type (rows sum to 1) by predicted type.

    Parameters
    ----------
    rows
        From `confusion_rows`.
    ax
        Axes to draw on.
    colours
        Type to colour; only the order is used, which numbers the types as in the other panels.
    titles
        Type to words.
    values
        Whether to write the shares into the cells (those that round to 0.00 are left out); by
        default up to 16 types.
    numbers
        Whether columns are named by number, and rows by number and name; by default where names
        are long or many.
    colour_bar
        Whether to explain the colours beside the matrix.
    """
    shares = _matrix(rows, "share")
    image = ax.imshow(shares.to_numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    order = list(colours or assign_colours([*shares.index, *shares.columns]))
    _name_types(ax, rows, shares, order, titles or {}, numbers=numbers)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    _grid(ax, shares.shape)
    if max(shares.shape) <= MAX_WRITTEN if values is None else values:
        _write_values(ax, shares, image)
    if colour_bar:
        _colour_bar(ax, image, "share of annotated type", ticks=[0, 0.5, 1])


def _name_types(
    ax: Axes,
    rows: pd.DataFrame,
    shares: pd.DataFrame,
    order: list[str],
    titles: Mapping[str, str],
    *,
    numbers: bool | None,
) -> None:
    words = {name: titles.get(name, name) for name in shares.columns}
    if numbers is None:
        numbers = len(words) > MAX_WRITTEN or max(map(len, words.values())) > MAX_NAME_LENGTH
    n_cells = rows.groupby("true")["count"].sum()
    number = {name: str(order.index(name) + 1) for name in words}
    width, height = panel_inches(ax)
    own = []
    for name in shares.index:
        rest = f" ({n_cells[name]:,.0f})" + (f"  {number[name]}" if numbers else "")
        own.append(shorten(words[name], NAMES_SHARE * width - CHARACTER * len(rest)) + rest)
    columns = [shorten(word, NAMES_SHARE * height) for word in words.values()]
    if numbers:
        # The number of a type without a row could not be looked up: such a column keeps its name.
        columns = [
            number[name] if name in shares.index else f"{word}  {number[name]}"
            for name, word in zip(words, columns, strict=True)
        ]
    left = width - CHARACTER * max(map(len, own)) - COLOUR_BAR_INCHES
    upright = max(map(len, columns)) * CHARACTER > left / len(columns)
    ax.set_xticks(range(len(columns)), columns, rotation=90 if upright else 0)
    ax.set_yticks(range(len(own)), own)
    ax.set(xlabel="predicted type", ylabel="annotated type (cells)")


def _matrix(rows: pd.DataFrame, values: str) -> pd.DataFrame:
    wide = rows.pivot_table(index="true", columns="predicted", values=values, sort=False)
    return wide.loc[rows["true"].unique(), rows["predicted"].unique()]


def _grid(ax: Axes, shape: tuple[int, int]) -> None:
    ax.set_xticks(np.arange(-0.5, shape[1]), minor=True)
    ax.set_yticks(np.arange(-0.5, shape[0]), minor=True)
    ax.grid(which="minor", color=LIGHT, linewidth=0.4)
    ax.tick_params(which="minor", length=0)


def _write_values(ax: Axes, shares: pd.DataFrame, image: AxesImage) -> None:
    fontsize = float(np.clip(75 / max(shares.shape), 4.2, 7))
    for (row, column), share in np.ndenumerate(shares.to_numpy()):
        if round(share, 2) > 0:
            text = "1" if round(share, 2) == 1 else f"{share:.2f}".removeprefix("0")
            ink = text_colour(image.cmap(image.norm(share)))
            ax.text(column, row, text, ha="center", va="center", fontsize=fontsize, color=ink)


def _colour_bar(ax: Axes, image: AxesImage, label: str, **options: object) -> None:
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.5, aspect=16, pad=0.02, **options)
    bar.set_label(label, fontsize=6)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6, length=2)


def embedding_rows(
    table: pd.DataFrame,
    *,
    label: str = "cell_type",
    prefix: str = "dim_",
    max_cells: int = 300,
    scale: str = "l2",
) -> pd.DataFrame:
    """Return the drawn cells, sorted by type: `cell` if the table has it, `label`, dimensions.

    Parameters
    ----------
    table
        One row per cell, with its type and one column per embedding dimension.
    label
        Column of the cell type.
    prefix
        Start of the names of the columns that hold the embedding.
    max_cells
        Larger tables are thinned to about this many cells, evenly inside each type: the shares of
        the types stay, but each keeps at least three cells (or all it has).
    scale
        "l2" gives each cell's embedding length 1; "none" draws the values as they are.

    Raises
    ------
    ContractError
        If columns are missing or values are not finite.
    """
    require(table, [label], "embedding_heatmap")
    dimensions = [name for name in table if name.startswith(prefix) and name != label]
    if not dimensions:
        msg = f"embedding_heatmap: no column starts with {prefix!r}; columns: {list(table)[:20]}"
        raise ContractError(msg)
    require(table, dimensions, "embedding_heatmap")
    rows = table.assign(**{label: table[label].astype(str)})
    order = {name: i for i, name in enumerate(in_order(rows[label]))}
    rows = rows.sort_values(label, key=lambda names: names.map(order), kind="stable")
    rows = rows.iloc[_thin(rows[label].to_numpy(), max_cells)]
    values = _scaled(rows[dimensions].to_numpy(dtype=float), scale)
    kept = {"cell": rows["cell"].astype(str).to_numpy()} if "cell" in rows else {}
    kept["label"] = rows[label].to_numpy()
    return pd.concat([pd.DataFrame(kept), pd.DataFrame(values, columns=dimensions)], axis=1)


def _thin(labels: np.ndarray, max_cells: int) -> np.ndarray:
    """Return positions of evenly spaced cells of each run of equal labels."""
    if len(labels) <= max_cells:
        return np.arange(len(labels))
    chosen = []
    for name in dict.fromkeys(labels):
        own = np.flatnonzero(labels == name)
        n = min(len(own), max(3, round(max_cells * len(own) / len(labels))))
        chosen.append(own[np.linspace(0, len(own) - 1, n).round().astype(int)])
    return np.concatenate(chosen)


def _scaled(values: np.ndarray, scale: str) -> np.ndarray:
    if not np.isfinite(values).all():
        msg = "embedding_heatmap: the embedding holds infinite values"
        raise ContractError(msg)
    if scale == "none":
        return values
    if scale != "l2":
        msg = f"embedding_heatmap: scale {scale!r} is not known; choose 'l2' or 'none'"
        raise ConfigError(msg)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    if (length == 0).any():
        msg = "embedding_heatmap: a cell's embedding is all zero; draw with scale: none"
        raise ContractError(msg)
    return values / length


def _long(rows: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in ("cell", "label") if name in rows]
    numbered = rows.assign(row=np.arange(len(rows)))
    return numbered.melt(["row", *names], var_name="dimension").sort_values(
        "row", kind="stable", ignore_index=True
    )


@plot(rows=embedding_rows, tabulate=_long, categories=("label",), palette="cells")
def embedding_heatmap(
    rows: pd.DataFrame,
    ax: Axes,
    *,
    colours: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
    labels: bool = True,
    colour_bar: bool = True,
) -> None:
    """Draw cells (rows, grouped by type) by embedding dimensions (columns).

    The colour scale is symmetric around 0 and ends at the 99th percentile of absolute values:
    a few outlying dimensions would otherwise hide all others.

    Parameters
    ----------
    rows
        From `embedding_rows`.
    ax
        Axes to draw on.
    colours
        Type to colour of the strip.
    titles
        Type to words.
    labels
        Whether to name the types beside the strip.
    colour_bar
        Whether to explain the colours beside the matrix.
    """
    colours = dict(colours or assign_colours(rows["label"]))
    values = rows.drop(columns=["cell", "label"], errors="ignore").to_numpy()
    limit = float(np.quantile(np.abs(values), 0.99)) or 1.0
    image = ax.imshow(
        values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    ax.set(xlabel=f"embedding dimension (1 to {values.shape[1]})", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    strip = ax.inset_axes((-0.045, 0, 0.03, 1))
    codes = rows["label"].map({name: i for i, name in enumerate(colours)}).to_numpy()
    strip.imshow(
        codes[:, None],
        cmap=ListedColormap(list(colours.values())),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        aspect="auto",
        interpolation="nearest",
    )
    strip.set(xticks=[], yticks=[])
    strip.spines[:].set_visible(False)
    if labels:
        _name_blocks(strip, rows["label"].to_numpy(), list(colours), titles or {})
    if colour_bar:
        _colour_bar(ax, image, "embedding value", extend="both")


def _name_blocks(
    strip: Axes, labels: np.ndarray, order: list[str], titles: Mapping[str, str]
) -> None:
    """Write each type's name left of its block, moved apart where blocks are thin."""
    room = NAMES_SHARE * panel_inches(strip)[0]
    names = list(dict.fromkeys(labels))
    centres = np.array([np.flatnonzero(labels == name).mean() for name in names]) + 0.5
    centres = 1 - centres / len(labels)
    heights = spread(centres[::-1], low=0.01, high=0.99, gap=min(0.055, 0.98 / len(names)))[::-1]
    for name, centre, height in zip(names, centres, heights, strict=True):
        number = f"  {order.index(name) + 1}" if len(order) > N_WITHOUT_NUMBERS else ""
        strip.text(
            -2.3,
            height,
            shorten(titles.get(name, name), room) + number,
            transform=strip.transAxes,
            ha="right",
            va="center",
            fontsize=6,
        )
        strip.plot(
            [-2.1, -1.7, -0.3, 0],
            [height, height, centre, centre],
            transform=strip.transAxes,
            color=GREY,
            linewidth=0.4,
            clip_on=False,
            scalex=False,
            scaley=False,
        )
