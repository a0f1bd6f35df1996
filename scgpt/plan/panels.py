"""Panels of a figure that repeat, spelled out for the data sets and methods of a scale."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scgpt.plan.config import Config, FigureConfig


def spelled_out(
    config: Config, block: FigureConfig, datasets: list[str], methods: list[str]
) -> list[dict[str, Any]]:
    """Return every panel of a figure, in reading order.

    Neighbours that repeat do so together, data set by data set. A panel that repeats over methods
    becomes one row of panels, the methods side by side, for every data set.
    """
    panels = []
    for repeated, group in itertools.groupby(block.panels, key=lambda panel: bool(panel.repeat)):
        entries = [(panel.repeat, panel.model_dump(exclude={"repeat"})) for panel in group]
        if not repeated:
            panels += [entry for _, entry in entries]
        for dataset in datasets if repeated else ():
            for repeat, entry in entries:
                panels += (
                    [_filled(config, entry, dataset=dataset)]
                    if repeat == "dataset"
                    else _side_by_side(config, entry, dataset, methods)
                )
    return panels


def _side_by_side(
    config: Config, entry: dict[str, Any], dataset: str, methods: list[str]
) -> list[dict[str, Any]]:
    return [
        # One letter for the row.
        _filled(config, entry, dataset=dataset, method=method)
        | {"letter": entry["letter"] and number == 0}
        for number, method in enumerate(methods)
    ]


def _filled(config: Config, entry: dict[str, Any], **names: str) -> dict[str, Any]:
    blocks = {"dataset": config.datasets, "method": config.methods}
    title = entry["title"]
    for key, name in names.items():
        title = title.replace(f"{{{key}}}", blocks[key][name].title)
    return {**entry, "where": {**entry["where"], **names}, "title": title}
