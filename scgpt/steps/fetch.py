"""Step `fetch`: bring the files of a data set, knowledge base or checkpoint, and say what came."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgpt.fetch.fetch import fetch, recorded
from scgpt.fetch.sources import local_sources
from scgpt.files import write_json
from scgpt.plan.checks import load
from scgpt.plan.config import FileSpec
from scgpt.twins.server import alone, serving

if TYPE_CHECKING:
    from collections.abc import Mapping


def run(
    spec: dict[str, Any], *, folder: Path, record: Path, lock: Path, twin: Path | None = None
) -> None:
    """Fetch the files of `spec` (see `Catalogue.fetch_spec`) into `folder`.

    Parameters
    ----------
    spec
        Name and files of the resource.
    folder
        Where the files go.
    record
        The JSON file to write: digest, size and source of every file.
    lock
        Where digests are kept over runs; not used for twins.
    twin
        Folder of the twin's files. They are fetched from their public addresses like the real
        ones, only that all addresses lead to this machine.
    """
    name = spec["resource"]
    files = {key: FileSpec.model_validate(block) for key, block in spec["files"].items()}
    if twin is not None:
        found = _fetch_twin(name, files, folder, twin)
    elif "retrieve" in spec:
        found = _retrieve(spec, files, folder, lock)
    else:
        fetch(files, folder, lock=lock, group=name)
        found = recorded(files, lock, group=name)
    write_json(record, {"resource": name, "twin": twin is not None, "files": found})


def _fetch_twin(
    name: str, files: Mapping[str, FileSpec], folder: Path, twin: Path
) -> dict[str, dict[str, Any]]:
    # Twins are made anew whenever their code changes: nothing of an earlier one may stay.
    shutil.rmtree(folder, ignore_errors=True)
    lock, archives = folder / ".lock", folder / ".archives"
    with alone(), serving(files, twin) as mirror:
        fetch(files, folder, lock=lock, archives=archives, group=name, mirror=mirror)
    shutil.rmtree(archives, ignore_errors=True)
    return recorded(files, lock, group=name, rehearsal=True)


def _retrieve(
    spec: dict[str, Any], files: Mapping[str, FileSpec], folder: Path, lock: Path
) -> dict[str, dict[str, Any]]:
    """Let the resource's own function make what is neither there nor among the local copies."""
    name = spec["resource"]
    local = os.environ.get("SCGPT_LOCAL_DATA")
    have_copies = bool(local) and all(local_sources(Path(local), name, key) for key in files)
    if not have_copies and not all((folder / key).is_file() for key in files):
        load(spec["retrieve"], f"{name}.retrieve")(folder, **spec["params"])
    by_hand = {key: block.model_copy(update={"urls": ["file:///"]}) for key, block in files.items()}
    fetch(by_hand, folder, lock=lock, group=name)
    found = recorded(files, lock, group=name)
    return {key: {**entry, "url": files[key].urls[0]} for key, entry in found.items()}
