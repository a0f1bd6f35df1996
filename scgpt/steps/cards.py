"""Data cards: counts against the published ones, divisions, and how the report shows them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd


def compare(
    found: Mapping[str, int | None], expected: Mapping[str, Any], *, comparable: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare counts with the published ones.

    Parameters
    ----------
    found
        Name of a count to its value; None where it cannot be counted.
    expected
        The block `expected` of the catalogue.
    comparable
        False where the counts cannot agree: a thinned data set, or a twin.

    Returns
    -------
    One row per published count (`agrees` is None where nothing can be said), and one sentence per
    difference.
    """
    source = expected.get("source")
    rows, warnings = [], []
    for key, value in expected.items():
        if key not in found or value is None:
            continue
        agrees = found[key] == value if comparable else None
        rows.append({"count": key, "found": found[key], "expected": value, "agrees": agrees})
        if agrees is False:
            warnings.append(f"{key}: found {found[key]}, expected {value} ({source})")
    return rows, warnings


def split_card(obs: pd.DataFrame) -> dict[str, Any]:
    """Return the size of each subset and one digest of who is in which.

    The digest does not depend on the order of the cells.
    """
    lines = sorted(f"{cell}\t{subset}\n" for cell, subset in obs["subset"].items())
    sizes = obs["subset"].value_counts()
    return {
        "sizes": {str(name): int(n) for name, n in sizes.items()},
        "sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
    }


def card_context(name: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of a data set or knowledge base as the report takes it.

    See `scgpt.report.context.Dataset`; the notes are left to the caller.
    """
    found, split = card["found"], card.get("split") or {}
    is_twin = card.get("twin", False)
    return {
        "name": name,
        "title": card["title"],
        "n_cells": found.get("n_cells"),
        "n_genes": found.get("n_genes"),
        "n_types": found.get("n_cell_types"),
        "n_batches": found.get("n_batches"),
        "simulated": is_twin or card.get("kind") == "simulated",
        "source": card["source"],
        "licence": card["license"],
        "reference": card["reference"],
        "warnings": card["warnings"],
        "checks": [
            {**row, "count": row["count"].removeprefix("n_").replace("_", " ")}
            for row in card.get("checks", [])
        ],
        "files": [
            {"name": key, "sha256": f["sha256"], "size_bytes": f["size"], "url": f["url"]}
            for key, f in card.get("files", {}).items()
        ],
        "split": split.get("sizes", {}),
        "split_sha256": split.get("sha256", ""),
    }
