"""The verb `parity`: compare our network with stored outputs of the official one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgpt.model.upstream import open_official
from scgpt.parity.case import read_case
from scgpt.parity.comparison import Comparison, table
from scgpt.parity.options import model_options
from scgpt.parity.outputs import compare_outputs
from scgpt.parity.training_step import compare_training_step

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def compare_case(folder: str | Path) -> list[Comparison]:
    """Run one stored case and return the comparison of every output with its stored value.

    Parameters
    ----------
    folder
        Holds `best_model.pt`, `args.json`, `vocab.json`, `meta.json` and `io.npz`.

    Raises
    ------
    ScgptError
        If the folder is no such case, or its weights do not fit what it describes.
    """
    case = read_case(folder)
    loaded = open_official(case.folder, **model_options(case))
    rows = compare_outputs(loaded.model, case)
    return rows + compare_training_step(loaded.model, case)


def run(folders: Iterable[str | Path]) -> int:
    """Compare cases and print a table of each; return 1 if anything is beyond its tolerance."""
    n_failed = 0
    for folder in folders:
        rows = compare_case(folder)
        failed = [row for row in rows if not row.passed]
        n_failed += bool(failed)
        verdict = f"{len(failed)} of {len(rows)} differ" if failed else f"all {len(rows)} agree"
        print(f"{folder}: {verdict}", table(rows), sep="\n")
    return 1 if n_failed else 0
