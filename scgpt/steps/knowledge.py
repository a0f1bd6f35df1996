"""Step `knowledge`: read a knowledge base and write it as one tidy table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgpt.data.tables import write_table
from scgpt.errors import DataError
from scgpt.files import read_json, sha256_file, write_json
from scgpt.plan.checks import load
from scgpt.steps.cards import compare

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

COLUMNS = {"gene_sets": ("set", "gene"), "edges": ("regulator", "target", "weight")}


def run(spec: dict[str, Any], *, raw: Path, record: Path, output: Path, card: Path) -> None:
    """Make the table that `spec` (see `Catalogue.knowledge_spec`) describes.

    Parameters
    ----------
    spec
        Reader, its arguments, and the words of the card.
    raw, record
        Folder of the downloaded files, and what was downloaded from where.
    output, card
        The table (columns by the form: set, gene; or regulator, target, weight) and its card.

    Raises
    ------
    DataError
        If the reader returns an empty table.
    """
    reader = load(spec["reader"], f"knowledge.{spec['knowledge']}.reader")
    table = reader(files=raw, **spec["params"])
    if table.empty:
        msg = f"{raw}: the reader of '{spec['knowledge']}' found nothing; is the file another one?"
        raise DataError(msg)
    write_table(table, output, COLUMNS[spec["form"]])
    found = _count(table, spec["form"])
    checks, differences = compare(found, spec["expected"], comparable=not spec["twin"])
    write_json(
        card,
        {
            **{key: spec[key] for key in ("title", "form", "reference", "license", "notes")},
            "twin": spec["twin"],
            "source": f"{'simulated twin of a download' if spec['twin'] else 'download'}: "
            f"{spec['reader']}",
            "files": read_json(record)["files"],
            "found": found,
            "checks": checks,
            "warnings": [*table.attrs.get("warnings", ()), *differences],
            "sha256": sha256_file(output),
            "size_bytes": output.stat().st_size,
        },
    )


def _count(table: pd.DataFrame, form: str) -> dict[str, int | None]:
    if form == "gene_sets":
        return {"n_sets": int(table["set"].nunique()), "n_genes": int(table["gene"].nunique())}
    return {
        "n_regulators": int(table["regulator"].nunique()),
        "n_targets": int(table["target"].nunique()),
    }
