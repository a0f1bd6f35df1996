"""Unpack archives that may be hostile: nothing outside the folder, nothing without bounds."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from scgpt.errors import DataError, ScgptError
from scgpt.fetch.partial import disk_errors_explained, need_space, readable
from scgpt.fetch.record import exclusive
from scgpt.fetch.sniff import HEAD_BYTES, content, is_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BLOCK = 1 << 20
_OPENERS = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
_SUFFIXES = (".gz", ".bz2", ".xz")
_DAMAGED = (
    EOFError,
    OSError,  # how bz2 and gzip report bad data, without an error number
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,
)


class _Budget:
    """Counts what really comes out, whatever the headers promise."""

    def __init__(self, archive: Path, max_bytes: int, max_members: int):
        self._archive = archive
        self._max_bytes, self._max_members = max_bytes, max_members
        self._n_bytes = self._n_members = 0

    def member(self) -> None:
        self._n_members += 1
        if self._n_members > self._max_members:
            msg = f"{self._archive}: holds more than {self._max_members} members (max_members)"
            raise DataError(msg)

    def fresh(self) -> _Budget:
        """Return a budget of the same bounds of which nothing is used yet."""
        return _Budget(self._archive, self._max_bytes, self._max_members)

    def take(self, n_bytes: int) -> None:
        self._n_bytes += n_bytes
        self.promise(0)

    def promise(self, n_bytes: int) -> None:
        if self._n_bytes + n_bytes > self._max_bytes:
            msg = (
                f"{self._archive}: unpacks to more than {readable(self._max_bytes)} (max_bytes); "
                f"raise the bound only if the archive is known to be that large"
            )
            raise DataError(msg)


class _Counted:
    """A readable stream that charges what is read to the budget."""

    def __init__(self, stream: BinaryIO, budget: _Budget):
        self._stream, self._budget = stream, budget

    def read(self, n_bytes: int) -> bytes:
        block = self._stream.read(n_bytes)
        self._budget.take(len(block))
        return block


def unpack(
    archive: str | Path,
    folder: str | Path,
    *,
    members: Iterable[str] | None = None,
    max_bytes: int,
    max_members: int,
) -> dict[str, Path]:
    """Unpack a zip, tar, tar.gz (bz2, xz) or single compressed file into a new folder.

    The kind is told by content, not by name. The folder appears only when all is unpacked; a
    killed run leaves a hidden folder that the next one removes.

    Parameters
    ----------
    archive
        The archive.
    folder
        Folder to make; it must not exist, or be empty.
    members
        Which members; all by default. ``INNER.zip#MEMBER`` is a member of an archive in the
        archive, to any depth; it comes out under ``INNER/MEMBER``. A ``*`` stands for any part of
        a path that is not known; exactly one member must match.
    max_bytes
        Most bytes that may come out, counted while unpacking, inner archives included.
    max_members
        Most members that may be listed.

    Returns
    -------
    Path of every file, by member name.

    Raises
    ------
    DataError
        If the archive is damaged, larger than the bounds, lacks a member, or holds a path outside
        the folder, a link, a device or an encrypted member. Nothing is left in `folder` then.
    DownloadError
        If the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.unpacking")
    budget = _Budget(archive, max_bytes, max_members)
    wanted = None if members is None else list(members)
    with exclusive(staging.with_suffix(".lock"), temporary=True):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            msg = f"{folder}: exists and is not empty; delete it to unpack {archive.name} again"
            raise DataError(msg)
        shutil.rmtree(staging, ignore_errors=True)
        try:
            with disk_errors_explained(folder, only_full=True):
                names = _unpack(archive, staging, wanted, budget)
            staging.replace(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return {name: folder / path for name, path in names.items()}


def _unpack(
    archive: Path, folder: Path, wanted: list[str] | None, budget: _Budget
) -> dict[str, PurePosixPath]:
    """Unpack into `folder`, following `#` into inner archives; return paths relative to it."""
    if wanted is None:
        return _unpack_one(archive, folder, None, budget)
    inner: dict[str, list[str]] = {}
    for name in wanted:
        outer, _, rest = name.partition("#")
        inner.setdefault(outer, []).extend([rest] if rest else [])
    real = _resolved(archive, inner, folder, budget)
    outermost = _unpack_one(archive, folder, set(real.values()), budget)
    found = {name: outermost[real[name]] for name in wanted if "#" not in name}
    for outer, rests in inner.items():
        if not rests:
            continue
        path, target = folder / outermost[real[outer]], _inner_folder(real[outer])
        below = _unpack(path, folder / target, rests, budget)
        found |= {f"{outer}#{rest}": target / below[rest] for rest in rests}
        if outer not in wanted:
            path.unlink()
    return found


def _resolved(archive: Path, names: Iterable[str], folder: Path, budget: _Budget) -> dict[str, str]:
    """Return the member that each name or pattern stands for."""
    real = {name: name for name in names}
    patterns = [name for name in real if "*" in name]
    if not patterns:
        return real
    with _damage_explained(archive):
        there = [name for name, _ in _members(archive, set(), folder, budget.fresh())]
    for pattern in patterns:
        form = re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
        matches = [name for name in there if form.fullmatch(name)]
        if len(matches) != 1:
            msg = f"{archive}: {len(matches)} members match '{pattern}'; it holds {_listing(there)}"
            raise DataError(msg)
        real[pattern] = matches[0]
    return real


def _inner_folder(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.with_suffix("") if path.suffix else path.with_name(path.name + "-unpacked")


def _unpack_one(
    archive: Path, folder: Path, wanted: set[str] | None, budget: _Budget
) -> dict[str, PurePosixPath]:
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, PurePosixPath] = {}
    seen: list[str] = []
    with _damage_explained(archive):
        for name, stream in _members(archive, wanted, folder, budget):
            seen.append(name)
            if stream is None:
                continue
            if name in found:
                msg = f"{archive}: holds '{name}' twice; it cannot be told which one is meant"
                raise DataError(msg)
            found[name] = path = _safe_path(archive, name)
            _write(folder / path, stream, archive)
    missing = sorted((wanted or set()) - set(found))
    if missing:
        msg = f"{archive}: no member {', '.join(missing)}; it holds {_listing(seen)}"
        raise DataError(msg)
    return found


@contextmanager
def _damage_explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        # Our own advice, and errors of the disk, say nothing about the archive.
        if isinstance(error, ScgptError) or getattr(error, "errno", None) is not None:
            raise
        reason = str(error) or type(error).__name__
        msg = f"{archive}: damaged or cut off ({reason}); delete it and download it again"
        raise DataError(msg) from error


def _members(
    archive: Path, wanted: set[str] | None, folder: Path, budget: _Budget
) -> Iterator[tuple[str, _Counted | None]]:
    """Yield every member's name, and its content if it is wanted."""
    with archive.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if is_kind(head, "ZIP"):
        yield from _zip_members(archive, wanted, folder, budget)
        return
    if is_kind(head, "tar"):
        with archive.open("rb") as stream:
            yield from _tar_members(archive, stream, wanted, budget)
        return
    opener = next((_OPENERS[kind] for kind in _OPENERS if is_kind(head, kind)), None)
    if opener is None:
        msg = f"{archive}: is {content(head)}; expected a zip, tar or gzip archive"
        raise DataError(msg)
    with opener(archive) as stream:
        is_tar = is_kind(stream.read(512), "tar")
    with opener(archive) as stream:
        if is_tar:
            yield from _tar_members(archive, stream, wanted, budget)
        else:
            name = archive.name
            name = archive.stem if name.lower().endswith(_SUFFIXES) else name + ".unpacked"
            yield name, _Counted(stream, budget) if wanted is None or name in wanted else None


def _zip_members(
    archive: Path, wanted: set[str] | None, folder: Path, budget: _Budget
) -> Iterator[tuple[str, _Counted | None]]:
    with zipfile.ZipFile(archive) as file:
        chosen = []
        for info in file.infolist():
            budget.member()
            _check_zip_member(archive, info)
            is_wanted = wanted is None or info.filename in wanted
            if not info.is_dir():
                chosen.append((info, is_wanted))
        promised = sum(info.file_size for info, is_wanted in chosen if is_wanted)
        budget.promise(promised)
        need_space(folder, promised, 0)
        for info, is_wanted in chosen:
            if not is_wanted:
                yield info.filename, None
                continue
            with file.open(info) as stream:
                yield info.filename, _Counted(stream, budget)


def _check_zip_member(archive: Path, info: zipfile.ZipInfo) -> None:
    _safe_path(archive, info.filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        msg = f"{archive}: '{info.filename}' is a link or a device; only files are unpacked"
        raise DataError(msg)
    if info.flag_bits & 0x1:
        msg = f"{archive}: '{info.filename}' is encrypted"
        raise DataError(msg)


def _tar_members(
    archive: Path, stream: BinaryIO, wanted: set[str] | None, budget: _Budget
) -> Iterator[tuple[str, _Counted | None]]:
    # As a stream: every byte passes the budget, also those of headers and unwanted members.
    with tarfile.open(fileobj=_Counted(stream, budget), mode="r|") as file:
        for info in file:
            budget.member()
            _safe_path(archive, info.name)
            if not (info.isreg() or info.isdir()):
                msg = f"{archive}: '{info.name}' is a link or a device; only files are unpacked"
                raise DataError(msg)
            if info.isdir():
                continue
            is_wanted = wanted is None or info.name in wanted
            # A sparse member is larger than what was read for it: its holes count, too.
            sparse = budget if info.issparse() else _Budget(archive, info.size, 0)
            yield info.name, _Counted(file.extractfile(info), sparse) if is_wanted else None


def _safe_path(archive: Path, name: str) -> PurePosixPath:
    """Return the path of a member below the folder.

    Raises
    ------
    DataError
        If it would be anywhere else.
    """
    path = PurePosixPath(name)
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name or drive:
        msg = f"{archive}: member {name!r} would be written outside the folder"
        raise DataError(msg)
    return path


def _write(path: Path, stream: _Counted, archive: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            while block := stream.read(_BLOCK):
                file.write(block)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        msg = f"{archive}: two members claim the path '{path.name}'"
        raise DataError(msg) from error


def _listing(names: list[str]) -> str:
    shown = ", ".join(names[:10]) or "no files"
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
