"""The file on its way: `NAME.part` beside the destination, and what is needed to continue it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO

from scgpt.errors import DownloadError, ScgptError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class DiskProblem(DownloadError):
    """The disk is full or failing; neither a retry nor another source would help."""


# EFBIG is what a file-size limit of the shell or the batch system gives.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a partial file come from.

    Parameters
    ----------
    identity
        The source, as in `Source.identity`.
    validator
        Entity tag or date of the version on the server; empty if it told none.
    total
        Size of the whole file, if known.
    resumable
        False if byte positions here are not byte positions there (a decoded transfer).
    """

    identity: str
    validator: str = ""
    total: int | None = None
    resumable: bool = True


class Partial:
    """A partial file and the note beside it, kept over crashes and kills.

    Parameters
    ----------
    destination
        Where the file will stand once it is complete and verified.
    """

    def __init__(self, destination: Path):
        self.destination = destination
        self.path = destination.with_name(destination.name + ".part")
        self.note = destination.with_name(destination.name + ".part.info")
        self.staging = destination.with_name(f".{destination.name}.staging")
        # Bytes of an earlier run count as two pieces: nobody saw them arrive in one.
        self._n_pieces = 2 if self.size else 0

    @property
    def size(self) -> int:
        """Bytes held."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def held(self) -> int:
        """Bytes held, with those that another program keeps in the staging folder."""
        staged = self.staging.iterdir() if self.staging.is_dir() else ()
        return self.size + sum(path.stat().st_size for path in staged if path.is_file())

    @property
    def is_patched(self) -> bool:
        """Whether the bytes arrived in more than one piece, so that a fresh start may mend them."""
        return self._n_pieces > 1

    def origin(self) -> Origin | None:
        """Return where the held bytes come from; None if nobody knows."""
        try:
            return Origin(**json.loads(self.note.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def resumable(self, identity: str, *, has_digest: bool) -> tuple[int, str]:
        """Return how many held bytes can be kept, and the validator of their version.

        Without a digest to find a wrong mixture out at the end, bytes are only kept if they come
        from the same source and the server can tell whether the file has changed.
        """
        origin = self.origin()
        if not self.size or (origin is not None and not origin.resumable):
            return 0, ""
        same = origin is not None and origin.identity == identity
        if same and origin.validator:
            return self.size, origin.validator
        return (self.size, "") if has_digest else (0, "")

    def begin(self, origin: Origin) -> None:
        """Start again from nothing, with bytes from `origin`."""
        self.discard()
        with disk_errors_explained(self.destination):
            self.note.parent.mkdir(parents=True, exist_ok=True)
            self.note.write_text(json.dumps(asdict(origin)), encoding="utf-8")
            self.path.touch()
        self._n_pieces = 0

    @contextmanager
    def writer(self) -> Iterator[BinaryIO]:
        """Open for appending, unbuffered: what a killed process wrote is what the file holds."""
        self._n_pieces += 1
        with self.path.open("ab", buffering=0) as file:
            yield file

    def append(self, file: BinaryIO, block: bytes) -> None:
        """Append all of `block`.

        Raises
        ------
        DiskProblem
            If there is no room.
        """
        view = memoryview(block)
        with disk_errors_explained(self.destination):
            while view:
                view = view[file.write(view) :]

    def discard(self) -> None:
        """Forget the held bytes."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def adopt(self, path: Path) -> None:
        """Take over a complete file that another program made in the staging folder."""
        self.discard()
        path.replace(self.path)
        self.clear_staging()

    def clear_staging(self) -> None:
        """Remove the staging folder."""
        if self.staging.is_dir():
            shutil.rmtree(self.staging)

    def publish(self) -> None:
        """Make the complete, verified file appear under its name."""
        with disk_errors_explained(self.destination):
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self.path.replace(self.destination)
        self.note.unlink(missing_ok=True)
        self.clear_staging()


@contextmanager
def disk_errors_explained(destination: Path, *, only_full: bool = False) -> Iterator[None]:
    """Turn the system's errors of a disk into advice.

    Parameters
    ----------
    destination
        The file being made.
    only_full
        Let other errors pass: for code that also uses the network, whose errors look alike.

    Raises
    ------
    DiskProblem
        If the disk, the quota or the file-size limit is exhausted, or writing fails.
    """
    try:
        yield
    except ScgptError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            msg = (
                f"{destination}: no room left on the disk ({error.strerror}); free some space or "
                f"choose another folder, then run again (a download continues where it stopped)"
            )
            raise DiskProblem(msg) from error
        if only_full:
            raise
        msg = f"{destination}: cannot be written ({error.strerror or error})"
        raise DiskProblem(msg) from error


def need_space(destination: Path, n_bytes: int | None, spare: int) -> None:
    """Check before the transfer that `n_bytes` more fit on the disk.

    Raises
    ------
    DiskProblem
        With the bytes needed and the bytes free.
    """
    if not n_bytes or n_bytes < 0:
        return
    free = shutil.disk_usage(destination.parent).free
    if free < n_bytes + spare:
        msg = (
            f"{destination}: needs {readable(n_bytes)} and {readable(spare)} to spare, but only "
            f"{readable(free)} are free on this disk; free some space or choose another folder"
        )
        raise DiskProblem(msg)


def readable(n_bytes: int | None) -> str:
    """Return a size for people: `1.5 GB`; `unknown size` for None."""
    if n_bytes is None:
        return "unknown size"
    value, unit = float(n_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{n_bytes} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
