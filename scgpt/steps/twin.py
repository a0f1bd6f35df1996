"""Step `twin`: write the simulated files that stand in for a download."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from scgpt.errors import DataError
from scgpt.files import sha256_file, write_json
from scgpt.plan.checks import load

if TYPE_CHECKING:
    from pathlib import Path


def run(spec: dict[str, Any], *, folder: Path, record: Path) -> None:
    """Write the files of the twin that `spec` (see `Catalogue.twin_spec`) describes.

    Parameters
    ----------
    spec
        Entry point, its sizes and seed, and the files it must write.
    folder
        Where the files go; what an earlier run left there is removed.
    record
        The JSON file to write: digest and size of every file.

    Raises
    ------
    DataError
        If the twin did not write all files.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write = load(spec["twin"], f"{spec['resource']}.twin")
    write(folder, seed=spec["seed"], **spec["params"])
    missing = [name for name in spec["files"] if not (folder / name).is_file()]
    if missing:
        msg = f"{spec['twin']} did not write {', '.join(missing)}, which the catalogue names"
        raise DataError(msg)
    files = {
        name: {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size}
        for name in spec["files"]
    }
    write_json(record, {"resource": spec["resource"], "files": files})
