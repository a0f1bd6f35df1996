"""The lock file: what every file was at its first download, enforced ever after."""

from __future__ import annotations

import errno
import json
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from scgpt.errors import DownloadError
from scgpt.fetch.verify import Expected, Found, expected_of
from scgpt.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from filelock import BaseFileLock

    from scgpt.plan.config import FileSpec

_FORMAT = 1
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class Record:
    """Digests recorded in one JSON file, one entry per file, safe with several processes.

    Parameters
    ----------
    path
        The lock file; it need not exist.
    enforce_published
        False in a rehearsal: what the configuration pins belongs to the real files.
    """

    def __init__(self, path: Path, *, enforce_published: bool = True):
        self.path = path
        self._enforce_published = enforce_published

    def expected(self, key: str, name: str, spec: FileSpec) -> Expected:
        """Return all that is known of a file: pinned by the configuration, or recorded here.

        Raises
        ------
        DownloadError
            If the two contradict each other.
        """
        pinned = expected_of(name, spec)
        if not self._enforce_published:
            pinned = Expected(name=name, kind=pinned.kind)
        entry = self._read().get(key)
        if entry is None:
            return pinned
        for field in ("sha256", "size"):
            wanted = getattr(pinned, field)
            if wanted is not None and wanted != entry[field]:
                msg = (
                    f"{key}: the configuration expects {field} {wanted}, but {self.path} recorded "
                    f"{entry[field]}; if the configuration is right, remove the entry '{key}' "
                    f"from {self.path}"
                )
                raise DownloadError(msg)
        recorded = replace(pinned, sha256=entry["sha256"], size=entry["size"])
        return recorded if pinned.sha256 else replace(recorded, origin=str(self.path))

    def has(self, key: str) -> bool:
        """Return whether a file is recorded."""
        return key in self._read()

    def entry(self, key: str) -> dict[str, Any] | None:
        """Return sha256, size and url of a file as recorded, None if it is not."""
        return self._read().get(key)

    def add(self, key: str, found: Found, url: str) -> None:
        """Record a file; an entry that is there already must agree.

        Raises
        ------
        DownloadError
            If another process has recorded something else, or the file cannot be written.
        """
        entry = {"sha256": found.sha256, "size": found.size, "url": url}
        if self._agrees(self._read().get(key), entry, key):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(self.path):
                files = self._read()
                if not self._agrees(files.get(key), entry, key):
                    write_json(self.path, {"format": _FORMAT, "files": files | {key: entry}})
        except OSError as error:
            if isinstance(error, DownloadError):
                raise
            msg = (
                f"{key}: its digest cannot be recorded in {self.path} ({error.strerror}); make the "
                f"file writable, or pin sha256 {found.sha256} in the configuration"
            )
            raise DownloadError(msg) from error

    def _agrees(self, old: dict[str, Any] | None, new: dict[str, Any], key: str) -> bool:
        if old is None:
            return False
        if old["sha256"] == new["sha256"]:
            return True
        msg = (
            f"{key}: sha256 is {new['sha256']}, but {self.path} recorded {old['sha256']} in the "
            f"meantime; the source delivers changing content"
        )
        raise DownloadError(msg)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        if not text:  # made by a process that is about to write its first entry
            return {}
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                msg = f"format {content['format']!r}, expected {_FORMAT}"
                raise ValueError(msg)
            return {
                key: {"sha256": str(e["sha256"]), "size": int(e["size"]), "url": str(e["url"])}
                for key, e in content["files"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            msg = (
                f"{self.path}: not a readable lock file ({error!r}); restore it from version "
                f"control, or delete it to record every file anew"
            )
            raise DownloadError(msg) from error


@contextmanager
def exclusive(
    path: Path, *, temporary: bool = False, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock on the file at `path`; the kernel frees it if the process dies.

    The holder may replace or remove the file; who waited then starts again with the new one.

    Parameters
    ----------
    path
        File to lock; made if needed.
    temporary
        Remove the file at the end.
    on_wait
        Called once if another process holds the lock.
    """
    path.open("a").close()  # filelock waits for ever where a file cannot be made
    # A lock that is a mere file, the way out of filelock, would outlive a killed process.
    lock = FileLock(path, fallback_to_soft=False)
    _acquire(lock, on_wait)
    try:
        yield
    finally:
        if temporary:
            path.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: BaseFileLock, on_wait: Callable[[], None] | None) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if on_wait is not None:
            on_wait()
        lock.acquire()
    except OSError as error:
        # Some cluster file systems are mounted without locks. Snakemake runs one job per output,
        # so going on is better than not being able to download there at all.
        if error.errno not in _NO_LOCKS:
            raise
