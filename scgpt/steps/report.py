"""Step `report`: gather tables, figures and cards of a scale into one offline HTML file."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgpt.data.tables import read_table
from scgpt.files import read_json, write_text
from scgpt.metrics.registry import metrics_of
from scgpt.report.images import data_uri
from scgpt.report.render import render
from scgpt.steps import provenance
from scgpt.steps.cards import card_context

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTE = 1_000_000


def run(spec: dict[str, Any], *, results: Path, output: Path) -> None:
    """Write the report of a scale.

    Parameters
    ----------
    spec
        What the configuration says about tasks, methods and figures (see `Plan.report_spec`).
    results
        Folder of the scale.
    output
        The HTML file.
    """
    cards = {name: read_json(results / f"datasets/{name}.json") for name in spec["datasets"]}
    context = {
        "title": "Reproduction of scGPT",
        "scale": {"name": spec["scale"], "description": spec["description"]},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": _version(),
        "tasks": [_task(name, block, spec, results) for name, block in spec["tasks"].items()],
        "methods": spec["methods"],
        "costs": _costs(spec, results),
        "metrics": _metrics(spec),
        "datasets": [card_context(name, card) for name, card in cards.items()],
        "provenance": _provenance(spec, cards),
        "deviations": spec["deviations"],
        "notes": [note for card in cards.values() for note in card["notes"]]
        + _split_notes(spec, results),
    }
    write_text(output, render(context))


def _version() -> str:
    try:
        return version("scgpt-reproduction")
    except PackageNotFoundError:
        return ""  # run from a checkout that is not installed


def _task(name: str, block: dict[str, Any], spec: dict[str, Any], results: Path) -> dict[str, Any]:
    tables = results / "tables"
    return {
        "name": name,
        "title": block["title"],
        "description": block["description"],
        "headline": block["headline"],
        "scores": read_table(tables / f"{name}_summary.tsv").to_dict("records"),
        "comparisons": read_table(tables / f"{name}_comparisons.tsv").to_dict("records"),
        "figures": [
            _figure(figure, spec["figures"][figure], results) for figure in block["figures"]
        ],
    }


def _figure(name: str, block: dict[str, str], results: Path) -> dict[str, str]:
    return {
        "name": name,
        "title": block["title"],
        "caption": block["caption"],
        "alt": f"{block['title']}. {block['caption']}",
        "image": data_uri(results / f"figures/{name}.png"),
        "numbers": f"figures/{name}.tsv",
    }


def _costs(spec: dict[str, Any], results: Path) -> list[dict[str, Any]]:
    runs = pd.concat(
        [read_table(results / f"tables/{task}_runs.tsv") for task in spec["tasks"]],
        ignore_index=True,
    )
    grouped = runs.groupby(["task", "dataset", "method"], sort=False)
    costs = grouped.agg(
        n_runs=("seed", "size"),
        wall_seconds=("wall_seconds", "mean"),
        peak_memory_mb=("peak_rss_bytes", "max"),
        peak_gpu_memory_mb=("peak_gpu_bytes", "max"),
        device=("device", "first"),
    ).reset_index()
    for column in ("peak_memory_mb", "peak_gpu_memory_mb"):
        costs[column] = costs[column] / MEGABYTE
    return costs.to_dict("records")


def _metrics(spec: dict[str, Any]) -> list[dict[str, Any]]:
    found = {
        metric.name: metric
        for task, block in spec["tasks"].items()
        for metric in metrics_of(block["metrics"], task)
    }
    return [
        {
            "name": metric.name,
            "title": metric.title,
            "description": metric.description,
            "reference": metric.reference,
            "higher_is_better": metric.higher_is_better,
            **_bounds(metric.bounds),
        }
        for metric in found.values()
    ]


def _bounds(bounds: tuple[float, float]) -> dict[str, float | None]:
    infinite = (float("-inf"), float("inf"))
    low, high = (None if bound in infinite else bound for bound in bounds)
    return {"low": low, "high": high}


def _provenance(spec: dict[str, Any], cards: dict[str, dict[str, Any]]) -> dict[str, Any]:
    git = provenance.git_commit()
    return {
        "commit": git["commit"] or "not a git checkout",
        "modified": bool(git["dirty"]),
        "command": f"snakemake --cores all --config scale={spec['scale']}",
        "packages": provenance.package_versions(),
        "hardware": {key: str(value) for key, value in provenance.hardware().items()},
        "inputs": [
            {
                "name": f"datasets/{name}.h5ad",
                "sha256": card["sha256"],
                "size_bytes": card["size_bytes"],
            }
            for name, card in cards.items()
        ]
        + [
            {"name": f"raw/{name}/{key}", "sha256": file["sha256"], "size_bytes": file["size"]}
            for name, card in cards.items()
            for key, file in card.get("files", {}).items()
        ],
    }


def _split_notes(spec: dict[str, Any], results: Path) -> list[str]:
    notes = []
    for task, block in spec["tasks"].items():
        for dataset in block["datasets"]:
            card = read_json(results / f"{task}/{dataset}/{block['splits'][0]}/split.json")
            notes += [f"{task}, {dataset}: {note}" for note in card["notes"]]
            notes.append(
                f"{task}, {dataset}: the division {block['splits'][0]} has SHA-256 "
                f"{card['split_sha256']}"
            )
    return notes
