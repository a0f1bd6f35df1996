"""Step `figure`: draw a declared figure from tidy tables, with the numbers drawn beside it (C7)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgpt.data.tables import read_table, write_table
from scgpt.errors import ContractError
from scgpt.figures.layout import draw, drawn_numbers
from scgpt.figures.style import method_colours, save
from scgpt.files import atomic_path
from scgpt.metrics.registry import metrics_of

if TYPE_CHECKING:
    from pathlib import Path


def run(spec: dict[str, Any], *, tables: list[Path], pdf: Path, png: Path, tsv: Path) -> None:
    """Draw a figure (`spec`: see `Plan.figure_spec`) as vector, raster and table.

    Parameters
    ----------
    spec
        Declaration of the figure, titles of the names in the tables, roles of the methods.
    tables
        `{task}_scores.tsv`, `{task}_summary.tsv`, and the tables of each job that is drawn.
    pdf, png, tsv
        Files to write.
    """
    found = gather(tables)
    metrics = {entry.name: entry.title for entry in metrics_of(spec["metrics"], spec["task"])}
    titles = {**metrics, **spec["titles"]}
    panels = [_titled(panel, found, titles) for panel in spec["figure"]["panels"]]
    declared = {**spec["figure"], "panels": panels}
    if {"scores", "summary"} <= set(found):
        found["summary"] = _with_replicates(found["summary"], found["scores"])
    colours = method_colours(spec["roles"])
    numbers = drawn_numbers(declared, found)
    figure = draw(declared, found, titles=titles, colours=colours)
    for path in (pdf, png):
        with atomic_path(path) as temporary:
            save(figure, temporary)
    write_table(numbers, tsv)


def _titled(
    panel: dict[str, Any], found: dict[str, pd.DataFrame], titles: dict[str, str]
) -> dict[str, Any]:
    """Return the panel with the score that its declaration asks for added to its title."""
    panel = dict(panel)
    metric = panel.pop("score", None)
    if metric is None:
        return panel
    where, summary = panel["where"], found["summary"]
    rows = summary[
        (summary["dataset"] == where.get("dataset"))
        & (summary["method"] == where.get("method"))
        & (summary["metric"] == metric)
        & (summary["group"].fillna("") == "")
    ]
    value = rows["mean"].iloc[0] if len(rows) else float("nan")
    words = "no value" if pd.isna(value) else f"{value:.3f}"
    return {**panel, "title": f"{panel['title']}\n{titles.get(metric, metric)} {words}"}


def gather(paths: list[Path]) -> dict[str, pd.DataFrame]:
    """Read tables and put those of one kind together, by the last word of their names."""
    parts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for path in paths:
        table = read_table(path)
        if not table.empty:
            parts[path.stem.rsplit("_", 1)[-1]].append(table)
    if not parts:
        msg = f"none of the {len(paths)} tables has a row to draw"
        raise ContractError(msg)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


def _with_replicates(summary: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    from scgpt.metrics.statistics import with_replicates

    return with_replicates(summary, scores)
