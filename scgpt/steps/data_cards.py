"""Step `data-cards`: one page with the cards of all data sets and knowledge bases of a scale."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scgpt.files import read_json, write_text
from scgpt.report.render import render_cards
from scgpt.steps.cards import card_context

if TYPE_CHECKING:
    from pathlib import Path


def run(spec: dict[str, Any], *, results: Path, output: Path) -> None:
    """Write the page.

    Parameters
    ----------
    spec
        Scale, its description, and the names of data sets and knowledge bases.
    results
        Folder of the scale.
    output
        The HTML file.
    """
    context = {
        "title": "Data cards",
        "scale": {"name": spec["scale"], "description": spec["description"]},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    for part in ("datasets", "knowledge"):
        cards = {name: read_json(results / part / f"{name}.json") for name in spec[part]}
        context[part] = [
            {**card_context(name, card), "notes": card["notes"]} for name, card in cards.items()
        ]
    write_text(output, render_cards(context))
