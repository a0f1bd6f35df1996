"""Obtain one file: the copy that is there, a local copy, or the first source that delivers it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scgpt.errors import DataError, DownloadError
from scgpt.fetch.archives import unpack
from scgpt.fetch.copy_transfer import transfer_copy
from scgpt.fetch.drive_transfer import transfer_drive
from scgpt.fetch.http_transfer import transfer_http
from scgpt.fetch.meter import Meter
from scgpt.fetch.partial import DiskProblem, Partial, readable
from scgpt.fetch.policy import Refused, SourceFailed, with_retries
from scgpt.fetch.record import exclusive
from scgpt.fetch.sources import local_sources, parse_sources, shown
from scgpt.fetch.verify import Mismatch, examine
from scgpt.plan.config import FileSpec

if TYPE_CHECKING:
    from pathlib import Path

    from scgpt.fetch.policy import Policy
    from scgpt.fetch.record import Record
    from scgpt.fetch.sources import Mirror, Source
    from scgpt.fetch.verify import Expected, Found

_TRANSFERS = {
    "http": transfer_http,
    "file": transfer_copy,
    "drive": transfer_drive,
    "drive-folder": transfer_drive,
}
_MARK = ".rehearsal"
_BY_HAND = "placed by hand"
_LOCAL = "local copy"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is the same for all files of one call.

    Parameters
    ----------
    record
        The lock file.
    offline
        Whether no network may be used.
    local
        Folder with copies that a user made by hand.
    mirror
        Server that stands for all others.
    archives
        Folder for archives that files are taken out of.
    policy
        Limits.
    progress
        Whether anything is printed.
    """

    record: Record
    offline: bool
    local: Path | None
    mirror: Mirror | None
    archives: Path
    policy: Policy
    progress: bool


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file to obtain.

    Parameters
    ----------
    name
        File name.
    group
        Data set or model; `group/name` is the key in the lock file.
    spec
        Sources and digests.
    folder
        Where the file will stand.
    kind
        Kind of content where neither name nor spec tell.
    """

    name: str
    group: str
    spec: FileSpec
    folder: Path
    kind: str | None = None

    @property
    def key(self) -> str:
        """Name in the lock file and in messages."""
        return f"{self.group}/{self.name}"

    @property
    def path(self) -> Path:
        """Where the file will stand."""
        return self.folder / self.name


class Undelivered(DownloadError):
    """No source delivered a file.

    Parameters
    ----------
    wanted
        The file.
    reasons
        Why not, a line for every source.
    hint
        What may mend it, where that is known; else empty.
    setup
        What says where a copy of the user's own can stand.
    """

    def __init__(self, wanted: Wanted, reasons: list[str], hint: str, setup: Setup):
        self.reasons, self.hint = reasons, hint
        place = wanted.path if setup.local is None else setup.local / wanted.key
        offline = " Or unset SCGPT_OFFLINE to use the network." if setup.offline else ""
        lines = [f"{wanted.key}: no source delivered the file"]
        lines += [f"  {reason}" for reason in reasons]
        lines += [hint] * bool(hint)
        lines.append(f"To provide it by hand, put it at {place}, and run again.{offline}")
        super().__init__("\n".join(lines))


def obtain(wanted: Wanted, setup: Setup) -> Path:
    """Return the path of the verified, recorded file, fetching it if it is not there yet.

    The caller holds the lock of the folder.

    Raises
    ------
    DownloadError
        If no source delivers it, or the file that is there is another one.
    """
    expected = setup.record.expected(wanted.key, wanted.name, wanted.spec)
    expected = replace(expected, kind=expected.kind or wanted.kind)
    with Meter(wanted.key, enabled=setup.progress) as meter:
        if wanted.path.exists():
            _accept(wanted, expected, setup)
            return wanted.path
        problems: list[tuple[Source, SourceFailed]] = []
        sources = _sources(wanted, setup)
        for number, source in enumerate(sources, start=1):
            try:
                _obtain_from(source, wanted, expected, setup, meter)
                return wanted.path
            except SourceFailed as problem:
                problems.append((source, problem))
                # After the last source the error tells of all of them.
                if number < len(sources) and not setup.offline:
                    meter.say(f"{shown(source.written)}: {problem}")
    reasons = [f"{shown(source.written)}: {problem}" for source, problem in problems]
    # A source with two addresses (GEO) may fail at both for one reason.
    told = list(dict.fromkeys(reasons))
    raise Undelivered(wanted, told, _hint(wanted, problems, setup), setup)


def mark_rehearsal(folder: Path, mirror: Mirror | None) -> None:
    """Keep stand-in files and real ones apart: a folder holds either.

    Raises
    ------
    DownloadError
        If the folder holds stand-ins and this is not a rehearsal, or the other way round.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if mirror is not None and mirror.rehearsal:
        if not is_rehearsal(folder) and any(p.name[0] != "." for p in folder.iterdir()):
            msg = f"{folder}: holds files that are no stand-ins; rehearse in another folder"
            raise DownloadError(msg)
        (folder / _MARK).touch()
    elif is_rehearsal(folder):
        msg = f"{folder}: holds stand-in files of a rehearsal; delete the folder, then run again"
        raise DownloadError(msg)


def is_rehearsal(folder: Path) -> bool:
    """Return whether a folder holds stand-ins."""
    return (folder / _MARK).exists()


def _sources(wanted: Wanted, setup: Setup) -> list[Source]:
    copies = local_sources(setup.local, wanted.group, wanted.name) if setup.local else []
    return copies + [
        source for written in wanted.spec.urls for source in parse_sources(written, setup.mirror)
    ]


def _accept(wanted: Wanted, expected: Expected, setup: Setup) -> None:
    """Accept a file that is there already: from an earlier run, or placed by hand."""
    try:
        found = examine(wanted.path, expected)
    except Refused as problem:
        msg = (
            f"{wanted.path}: {problem}; the file was changed, or placed here by mistake: "
            f"delete it and run again to fetch it anew"
        )
        raise DownloadError(msg) from problem
    setup.record.add(wanted.key, found, _BY_HAND)


def _obtain_from(
    source: Source, wanted: Wanted, expected: Expected, setup: Setup, meter: Meter
) -> None:
    partial = Partial(wanted.path)
    if source.members:
        _take_out(source, partial, setup, meter)
        found = _examined(partial, expected)
    elif source.is_remote and setup.offline:
        msg = "not tried: offline"
        raise Refused(msg)
    else:
        found = _transfer(source, partial, expected, setup.policy, meter)
    is_copy = source.written == source.address and not source.is_remote
    setup.record.add(wanted.key, found, _LOCAL if is_copy else shown(source.written))
    partial.publish()
    meter.say(f"{readable(found.size)} from {shown(source.written)}, sha256 {found.sha256}")


def _transfer(
    source: Source, partial: Partial, expected: Expected, policy: Policy, meter: Meter
) -> Found:
    transfer = _TRANSFERS[source.transport]

    def bring() -> None:
        with_retries(
            lambda: transfer(source, partial, expected, policy, meter),
            policy,
            progress=lambda: partial.held,
            say=meter.say,
        )

    meter.say(f"fetching {shown(source.written)}")
    bring()
    try:
        return _examined(partial, expected)
    except Refused as problem:
        if not partial.is_patched:
            raise
        meter.say(f"{problem}; it came in pieces, so once more from the first byte")
    bring()
    return _examined(partial, expected)


def _examined(partial: Partial, expected: Expected) -> Found:
    """Check a complete partial file; a wrong one is removed at once."""
    try:
        return examine(partial.path, expected)
    except Refused:
        partial.discard()
        raise


def _take_out(source: Source, partial: Partial, setup: Setup, meter: Meter) -> None:
    """Fetch the archive that `source` is a member of, and take the member out of it."""
    container = source.container()
    wanted = Wanted(
        name=source.archive_name(),
        group="archives",
        spec=FileSpec(urls=[container.written]),
        folder=setup.archives,
        kind="archive",
    )
    member = "#".join(source.members)
    lock = setup.archives / f".{wanted.name}.lock"
    partial.clear_staging()

    def tell() -> None:
        meter.say(f"waiting for another process that fetches {wanted.name}")

    try:
        mark_rehearsal(setup.archives, setup.mirror)
        with exclusive(lock, temporary=True, on_wait=tell):
            archive = obtain(wanted, setup)
        policy = setup.policy
        paths = unpack(
            archive,
            partial.staging,
            members=[member],
            max_bytes=policy.max_unpacked,
            max_members=policy.max_members,
        )
    except DiskProblem:
        raise
    except Undelivered as problem:
        # The user can give the file itself: where a copy of the archive could stand is not told.
        msg = f"its archive did not arrive ({'; '.join(problem.reasons)})"
        msg += f". {problem.hint}" * bool(problem.hint)
        raise Refused(msg) from problem
    except (DownloadError, DataError) as problem:
        msg = " ".join(str(problem).split())
        raise Refused(msg) from problem
    partial.adopt(paths[member])


def _hint(wanted: Wanted, problems: list[tuple[Source, SourceFailed]], setup: Setup) -> str:
    if not any(isinstance(problem, Mismatch) for _, problem in problems):
        return ""
    return (
        f"If the publisher has replaced the file and the new one is right, change its size and "
        f"digest in the configuration, or remove '{wanted.key}' from {setup.record.path}."
    )
