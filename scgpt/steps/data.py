"""The commands `scgpt data list`, `fetch` and `check`: one clear line per thing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scgpt.errors import ConfigError, ScgptError
from scgpt.fetch.fetch import check, describe
from scgpt.fetch.partial import readable
from scgpt.plan.catalogue import Catalogue
from scgpt.plan.config import DatasetConfig, parse_config
from scgpt.steps import fetch as fetch_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scgpt.plan.config import Config, Resource

CONFIG, LOCK = "config", "config/downloads.lock"
PARTS = {"datasets": "data set", "knowledge": "knowledge base", "models": "checkpoint"}


def show(root: Path, names: Sequence[str]) -> None:
    """Print what can be fetched, and what of it is here.

    Parameters
    ----------
    root
        Folder of the project, with `config/` in it.
    names
        What to show with all its files; empty for one line each.
    """
    config = load(root)
    if names:
        for name in names:
            _show_one(root, name, _resource(config, name))
        return
    for part, word in PARTS.items():
        for name, resource in getattr(config, part).items():
            print(f"{name:24} {word:15} {_state(root, name, resource):34} {resource.title}")


def _show_one(root: Path, name: str, resource: Resource) -> None:
    print(f"{name}: {resource.title}")
    print(f"  cite: {resource.reference}; licence: {resource.license}")
    for note in resource.notes:
        print(f"  note: {note}")
    if _is_own(resource):
        print(f"  {_own_file(root, resource)[1]}")
    elif not resource.files:
        print("  made here; there is nothing to download")
    for each in describe(resource.files, root / "results/raw" / name, root / LOCK):
        here = "here" if each.is_present else "not here"
        known = f"sha256 {each.sha256[:12]}" if each.sha256 else "digest not known yet"
        print(f"  {each.path.name}: {here}, {readable(each.size)}, {known}")
        for source in each.sources:
            print(f"    {source}")


def _state(root: Path, name: str, resource: Resource) -> str:
    if _is_own(resource):
        return f"{'here' if _own_file(root, resource)[0] else 'not here'}, a file of your own"
    if not resource.files:
        return "made here"
    files = describe(resource.files, root / "results/raw" / name, root / LOCK)
    n_here = sum(each.is_present for each in files)
    if n_here == len(files):
        return f"here, {readable(sum(each.size or 0 for each in files))}"
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    kind = "retrieved by a query" if resource.retrieve else count
    return f"not here, {kind}" if n_here == 0 else f"{n_here} of {len(files)} files here"


def _is_own(resource: Resource) -> bool:
    return isinstance(resource, DatasetConfig) and resource.kind == "local"


def _own_file(root: Path, resource: Resource) -> tuple[bool, str]:
    """Return whether the file that the user supplies is here, and words on where it belongs."""
    name = resource.params.get("path")
    if name is None:
        return False, "a file of your own; `params` of the data set say which"
    copies = os.environ.get("SCGPT_LOCAL_DATA")
    places = [root.resolve() / name, *([Path(copies) / name] if copies else [])]
    found = next((place for place in places if place.is_file()), None)
    if found is not None:
        return True, f"a file of your own, here: {found}"
    words = f"a file of your own, not here; put it at {' or '.join(map(str, places))}"
    if not copies:
        words = f"{words}, or set SCGPT_LOCAL_DATA to a folder that holds {name}"
    return False, words


def bring(root: Path, names: Sequence[str]) -> int:
    """Fetch what is named into `results/raw/NAME`, where the workflow looks for it.

    Returns
    -------
    0, or 2 if something could not be fetched; the rest is fetched all the same.

    Raises
    ------
    ConfigError
        If a name is not known, or is not downloaded.
    """
    config = load(root)
    if not names:
        msg = "name what to fetch; 'scgpt data list' shows what there is"
        raise ConfigError(msg)
    catalogue = Catalogue(config, _public_scale(config))
    for name in names:
        resource = _resource(config, name)
        if _is_own(resource):
            msg = f"'{name}' is not downloaded: it is {_own_file(root, resource)[1]}"
            raise ConfigError(msg)
        if not resource.files:
            msg = f"'{name}' is made here; there is nothing to fetch"
            raise ConfigError(msg)
    failed = 0
    for name in names:
        folder = root / catalogue.folder(name)
        try:
            fetch_step.run(
                json.loads(catalogue.fetch_spec(name)),
                folder=folder,
                record=root / catalogue.record(name),
                lock=root / LOCK,
            )
        except ScgptError as problem:
            print(f"error: {problem}", file=sys.stderr)
            failed += 1
        else:
            print(f"{name}: complete in {folder}")
    return 2 if failed else 0


def examine(root: Path, names: Sequence[str]) -> int:
    """Verify the files that are here, or those named, against their digests.

    Returns
    -------
    0 if all is in order, 1 otherwise.
    """
    config = load(root)
    chosen = {name: _resource(config, name) for name in names}
    if not names:
        chosen = {name: block for name, block in _fetched(config) if _is_begun(root, name)}
    n_wrong = 0
    for name, resource in chosen.items():
        if _is_own(resource):
            is_here, words = _own_file(root, resource)
            print(f"{'ok' if is_here else 'missing':10} {name}: {words}")
            n_wrong += not is_here
        elif not resource.files:
            print(f"{'ok':10} {name}: made here; nothing is downloaded for it")
        for finding in check(resource.files, root / "results/raw" / name, root / LOCK):
            print(f"{finding.status:10} {finding.key}: {finding.message}")
            n_wrong += not finding.is_ok
    if not chosen:
        print("nothing has been fetched yet; see 'scgpt data list'")
    return 1 if n_wrong else 0


def load(root: Path) -> Config:
    """Return the configuration in `root/config`.

    Raises
    ------
    ConfigError
        If there is none, or it is not valid.
    """
    merged: dict[str, Any] = {}
    for path in sorted((root / CONFIG).glob("*.yaml")):
        try:
            merged |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            msg = f"{path}: not valid YAML ({' '.join(str(error).split())})"
            raise ConfigError(msg) from error
    if not merged:
        msg = f"{root / CONFIG}: no configuration there; run this in the project, or give --root"
        raise ConfigError(msg)
    return parse_config(merged)


def _fetched(config: Config) -> Iterator[tuple[str, Resource]]:
    for part in PARTS:
        yield from ((name, r) for name, r in getattr(config, part).items() if r.files)


def _is_begun(root: Path, name: str) -> bool:
    folder = root / "results/raw" / name
    return folder.is_dir() and any(folder.iterdir())


def _resource(config: Config, name: str) -> Resource:
    for part in PARTS:
        if name in getattr(config, part):
            return getattr(config, part)[name]
    known = ", ".join(name for name, _ in _fetched(config))
    msg = f"'{name}' is not in the catalogue. Known names: {known}"
    raise ConfigError(msg)


def _public_scale(config: Config) -> str:
    for name, scale in config.scales.items():
        if scale.source == "public":
            return name
    msg = "no scale takes its downloads from the public sources (scales.NAME.source: public)"
    raise ConfigError(msg)
