"""Fetch the files of a data set or a model: verified, recorded, resumed, never half."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scgpt.errors import DownloadError
from scgpt.fetch.obtain import Setup, Wanted, is_rehearsal, mark_rehearsal, obtain
from scgpt.fetch.partial import DiskProblem, Partial, readable
from scgpt.fetch.policy import Policy, Refused
from scgpt.fetch.record import Record, exclusive
from scgpt.fetch.sources import check_name, parse_mirror, parse_sources, shown
from scgpt.fetch.verify import examine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from scgpt.plan.config import FileSpec

Status = Literal["ok", "missing", "incomplete", "wrong", "unrecorded", "rehearsal", "conflict"]


@dataclass(frozen=True)
class Finding:
    """What `check` found of one file.

    Parameters
    ----------
    key
        `group/name`.
    status
        ok; missing; incomplete (a partial file waits to be continued); wrong (not what was
        recorded or pinned); unrecorded (there, but no digest is known); rehearsal (a stand-in);
        conflict (the configuration contradicts itself, the lock file or this version).
    message
        One line: found, expected, what to do.
    """

    key: str
    status: Status
    message: str

    @property
    def is_ok(self) -> bool:
        """Whether nothing needs to be done."""
        return self.status == "ok"


@dataclass(frozen=True)
class Description:
    """What is known of one file without opening it.

    Parameters
    ----------
    key, path
        Its name in the lock file, and where it stands or will stand.
    is_present
        Whether it stands there.
    size
        Bytes, if known.
    sha256
        Digest, if known.
    known_from
        Who knows them; empty if nobody.
    license
        Licence, where it differs from the data set's.
    sources
        Where it can come from, in this order.
    """

    key: str
    path: Path
    is_present: bool
    size: int | None
    sha256: str | None
    known_from: str
    license: str | None
    sources: tuple[str, ...]


def fetch(
    files: Mapping[str, FileSpec],
    folder: str | Path,
    *,
    lock: str | Path,
    offline: bool = False,
    local: str | Path | None = None,
    mirror: str | None = None,
    archives: str | Path | None = None,
    group: str | None = None,
    policy: Policy | None = None,
    progress: bool = True,
) -> dict[str, Path]:
    """Bring all `files` into `folder` and return their paths.

    A file that is there is verified, not fetched again. A new one is fetched into `NAME.part`,
    checked for content, size and digests, recorded in the lock file at its first download, and
    only then renamed. A broken or killed download is continued by the next call. Sources are tried
    in order; see `scgpt.fetch.sources` for their written forms. Two processes can fetch the
    same files: one waits for the other.

    Parameters
    ----------
    files
        File name to sources and digests.
    folder
        Where the files go.
    lock
        The lock file (JSON); made if needed. Safe for several processes.
    offline
        Use no network. Also ``SCGPT_OFFLINE=1``.
    local
        Folder with copies made by hand, searched for `group/name` and `name` before any source.
        Also ``SCGPT_LOCAL_DATA``.
    mirror
        Server that answers for every remote source: ``http://127.0.0.1:8000`` serves
        ``https://HOST/PATH?QUERY`` at ``/HOST/PATH?QUERY``; ``rehearsal+http://127.0.0.1:8000``
        serves stand-ins, see `scgpt.fetch.sources.parse_mirror`. Also ``SCGPT_MIRROR``.
    archives
        Folder for archives that several data sets are taken out of; by default `.archives` beside
        `folder`.
    group
        Data set or model the files belong to; by default the name of `folder`.
    policy
        Limits; the default suits real servers.
    progress
        Tell on stderr what happens.

    Returns
    -------
    Path of every file, by name.

    Raises
    ------
    DownloadError
        With a line for every file and every source that failed: found, expected, how to mend.
    """
    folder = Path(folder)
    setup = _setup(
        folder,
        lock=lock,
        offline=offline,
        local=local,
        mirror=mirror,
        archives=archives,
        policy=policy,
        progress=progress,
    )
    group = group or folder.name
    wanted = [
        Wanted(name=check_name(name), group=group, spec=spec, folder=folder)
        for name, spec in files.items()
    ]
    problems: list[str] = []
    paths: dict[str, Path] = {}
    with _explained(folder):
        mark_rehearsal(folder, setup.mirror)
        with exclusive(folder / ".fetch.lock", temporary=True, on_wait=_waiting(folder, setup)):
            for one in wanted:
                try:
                    paths[one.name] = obtain(one, setup)
                except DiskProblem:
                    raise
                except DownloadError as problem:
                    problems.append(str(problem))
    if problems:
        raise DownloadError("\n".join(problems))
    return paths


def check(
    files: Mapping[str, FileSpec],
    folder: str | Path,
    lock: str | Path,
    *,
    group: str | None = None,
) -> list[Finding]:
    """Examine what is in `folder` and return one finding per file; changes and fetches nothing.

    Parameters
    ----------
    files
        File name to sources and digests.
    folder
        Where the files should be.
    lock
        The lock file.
    group
        Data set or model the files belong to; by default the name of `folder`.
    """
    folder, record = Path(folder), Record(Path(lock))
    group = group or folder.name
    return [_check_one(name, group, spec, folder, record) for name, spec in files.items()]


def describe(
    files: Mapping[str, FileSpec],
    folder: str | Path,
    lock: str | Path,
    *,
    group: str | None = None,
) -> list[Description]:
    """Return what is known of every file without reading it: for lists and data cards.

    Raises
    ------
    DownloadError
        If the lock file cannot be read, contradicts the configuration, or a source is not
        understood.
    """
    folder, record = Path(folder), Record(Path(lock))
    group = group or folder.name
    descriptions = []
    for name, spec in files.items():
        key, path = f"{group}/{name}", folder / name
        expected = record.expected(key, name, spec)
        sources = [shown(s.written) for url in spec.urls for s in parse_sources(url)]
        is_known = expected.has_digest or expected.size is not None
        size = path.stat().st_size if path.is_file() else expected.size
        descriptions.append(
            Description(
                key=key,
                path=path,
                is_present=path.is_file(),
                size=size,
                sha256=expected.sha256,
                known_from=expected.origin if is_known else "",
                license=spec.license,
                sources=tuple(dict.fromkeys(sources)),
            )
        )
    return descriptions


def recorded(
    files: Iterable[str], lock: str | Path, *, group: str, rehearsal: bool = False
) -> dict[str, dict[str, Any]]:
    """Return sha256, size and source of every file as the lock file has them.

    Raises
    ------
    DownloadError
        If a file is not recorded: it was never fetched.
    """
    lock = Path(lock)
    record = Record(lock.with_name(lock.name + ".rehearsal") if rehearsal else lock)
    entries = {}
    for name in files:
        entry = record.entry(f"{group}/{name}")
        if entry is None:
            msg = f"{group}/{name}: not in {record.path}; fetch it first"
            raise DownloadError(msg)
        entries[name] = entry
    return entries


def _check_one(name: str, group: str, spec: FileSpec, folder: Path, record: Record) -> Finding:
    key, path = f"{group}/{name}", folder / name
    try:
        expected = record.expected(key, check_name(name), spec)
        for url in spec.urls:
            parse_sources(url)
    except DownloadError as problem:
        return Finding(key, "conflict", str(problem))
    if is_rehearsal(folder):
        return Finding(key, "rehearsal", f"{folder} holds stand-ins of a rehearsal; delete it")
    if not path.is_file():
        held = Partial(path).held
        if held:
            total = readable(expected.size)
            message = f"{readable(held)} of {total} fetched; the next fetch continues"
            return Finding(key, "incomplete", message)
        return Finding(key, "missing", f"{path} is not there; fetch it")
    try:
        found = examine(path, expected)
    except Refused as problem:
        return Finding(key, "wrong", f"{path}: {problem}; delete it and fetch it anew")
    if not expected.has_digest:
        message = f"{path}: no digest is known (found sha256 {found.sha256}); fetch records it"
        return Finding(key, "unrecorded", message)
    return Finding(key, "ok", f"{readable(found.size)}, sha256 {found.sha256}")


def _setup(
    folder: Path,
    *,
    lock: str | Path,
    offline: bool,
    local: str | Path | None,
    mirror: str | None,
    archives: str | Path | None,
    policy: Policy | None,
    progress: bool,
) -> Setup:
    """Join the arguments of `fetch` with the environment; arguments win."""
    server = parse_mirror(mirror or os.environ.get("SCGPT_MIRROR"))
    rehearsal = server is not None and server.rehearsal
    lock = Path(lock)
    if rehearsal:
        lock = lock.with_name(lock.name + ".rehearsal")
    local = local or os.environ.get("SCGPT_LOCAL_DATA") or None
    if local is not None and not Path(local).is_dir():
        msg = f"{local}: no such folder; expected one with local copies (SCGPT_LOCAL_DATA)"
        raise DownloadError(msg)
    return Setup(
        record=Record(lock, enforce_published=not rehearsal),
        offline=offline
        or os.environ.get("SCGPT_OFFLINE", "").lower() in ("1", "true", "yes", "on"),
        local=None if local is None else Path(local),
        mirror=server,
        archives=Path(archives) if archives else folder.parent / ".archives",
        policy=policy or Policy(),
        progress=progress,
    )


def _waiting(folder: Path, setup: Setup) -> Callable[[], None]:
    def tell() -> None:
        if setup.progress:
            print(f"{folder}: waiting for another process that fetches it", file=sys.stderr)

    return tell


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn an error of the file system into one line."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        where = error.filename or folder
        msg = f"{where}: {error.strerror or error}; check the folder, its permissions and the disk"
        raise DownloadError(msg) from error
