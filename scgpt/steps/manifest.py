"""Step `manifest`: every result of a scale with its digest, and what made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgpt.files import sha256_file, write_json
from scgpt.steps import provenance

if TYPE_CHECKING:
    from pathlib import Path


def run(*, files: list[Path], output: Path) -> None:
    """Write size and SHA-256 of `files`, the commit, package versions and hardware.

    Digests of the single predictions and of what they were made from stand in the `run.json`
    files and, gathered, in the `runs.tsv` tables listed here.
    """
    listed = {
        str(path): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(files)
    }
    write_json(
        output,
        {
            "files": listed,
            "git": provenance.git_commit(),
            "packages": provenance.package_versions(),
            "hardware": provenance.hardware(),
        },
    )
