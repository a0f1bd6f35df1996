"""Data cards: counts against the published ones, divisions, and how the report shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

DIVISION = ("unit", "subset", "subgroup")


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


def division(adata: AnnData) -> pd.DataFrame:
    """Return who is in which part of a data set that comes divided.

    Returns
    -------
    Columns `unit` (a condition as its file writes it, or a cell), `subset` and `subgroup` (empty
    where there is none), sorted by unit so that the order of the cells does not matter. No rows
    where the data set is whole. `attrs["of"]` says what the units are.
    """
    of = "cells"
    if "division" in adata.uns:
        table, of = adata.uns["division"], "conditions"
    elif "subset" in adata.obs:
        table = pd.DataFrame({"unit": adata.obs_names, "subset": adata.obs["subset"].to_numpy()})
    else:
        table = pd.DataFrame({"unit": []}, dtype=str)
    table = table.reindex(columns=list(DIVISION), fill_value="").astype(str)
    table = table.sort_values("unit", kind="stable", ignore_index=True)
    table.attrs["of"] = of
    return table


def split_card(table: pd.DataFrame, sha256: str) -> dict[str, Any] | None:
    """Return what is divided, the size of each part and the digest of the file that says so.

    None where the data set is whole.
    """
    if table.empty:
        return None
    return {
        "of": table.attrs["of"],
        "sizes": {str(name): int(n) for name, n in table["subset"].value_counts().items()},
        "sha256": sha256,
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
        "split_of": split.get("of", "cells"),
        "split_sha256": split.get("sha256", ""),
    }
