"""Transfer from Google Drive through gdown, which knows Drive's confirmation pages."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from scgpt.fetch.http_transfer import network_errors_explained
from scgpt.fetch.partial import disk_errors_explained, need_space
from scgpt.fetch.policy import Refused, Temporary

if TYPE_CHECKING:
    from types import TracebackType

    from scgpt.fetch.meter import Meter
    from scgpt.fetch.partial import Partial
    from scgpt.fetch.policy import Policy
    from scgpt.fetch.sources import Source
    from scgpt.fetch.verify import Expected


def transfer_drive(
    source: Source, partial: Partial, expected: Expected, policy: Policy, meter: Meter
) -> None:
    """Bring `partial` to the whole file.

    gdown keeps its own partial file in the staging folder and continues it by byte range.

    Raises
    ------
    Temporary
        If the connection broke or stalled.
    Refused
        If Drive does not hand the file out: not public, removed, or too many downloads.
    DownloadError
        If the disk is full.
    """
    import gdown.exceptions

    with (
        network_errors_explained(source, partial, policy),
        disk_errors_explained(partial.destination, only_full=True),
    ):
        try:
            _download(source, partial, expected, policy, meter)
        except gdown.exceptions.DownloadCancelled as error:
            msg = f"stalled: nothing worth mentioning in {policy.stall_window:.0f} s"
            raise Temporary(msg) from error
        except gdown.exceptions.FileURLRetrievalError as error:
            msg = f"Google Drive: {_one_line(error)}"
            raise Refused(msg) from error
        except gdown.exceptions.DownloadError as error:
            if "byte range" in str(error):  # gdown would try to continue the same bytes for ever
                partial.clear_staging()
            msg = f"Google Drive: {_one_line(error)}"
            raise Temporary(msg) from error
        except (AssertionError, AttributeError, KeyError, TypeError) as error:
            # How gdown fails on an answer that Drive has not given before.
            msg = f"Google Drive: gdown does not understand the answer ({error!r})"
            raise Refused(msg) from error


def _download(
    source: Source, partial: Partial, expected: Expected, policy: Policy, meter: Meter
) -> None:
    import gdown

    limits = (policy.connect_timeout, policy.read_timeout)
    identifier = source.address
    if source.transport == "drive-folder":
        identifier = _find_in_folder(source, limits)
    partial.staging.mkdir(parents=True, exist_ok=True)
    output = partial.staging / partial.destination.name
    with _Watch(partial, expected, policy, meter) as watch:
        gdown.download(
            id=identifier,
            output=str(output),
            quiet=True,
            use_cookies=False,
            resume=True,
            timeout=limits,
            progress=watch.progress,
            cancel=watch.cancel,
        )
    partial.adopt(output)


def _find_in_folder(source: Source, limits: tuple[float, float]) -> str:
    import gdown

    entries = gdown.download_folder(
        id=source.address, skip_download=True, quiet=True, use_cookies=False, timeout=limits
    )
    found = [entry.id for entry in entries if entry.path == source.entry]
    if len(found) != 1:
        names = ", ".join(sorted(entry.path for entry in entries)) or "nothing"
        msg = f"{len(found)} files named '{source.entry}' in this Drive folder; it holds: {names}"
        raise Refused(msg)
    return found[0]


class _Watch:
    """Shows progress, checks what Drive announces, and cancels a transfer that stands still."""

    def __init__(self, partial: Partial, expected: Expected, policy: Policy, meter: Meter):
        self.cancel = threading.Event()
        self._partial, self._expected, self._policy, self._meter = partial, expected, policy, meter
        self._done: int | None = None
        self._last = policy.clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def progress(self, done: int, total: int | None) -> None:
        self._last = self._policy.clock()
        if self._done is None:
            if None not in (total, self._expected.size) and total != self._expected.size:
                msg = f"offers {total} bytes, expected {self._expected.size} bytes"
                raise Refused(msg)
            need_space(self._partial.destination, total and total - done, self._policy.spare_bytes)
            self._meter.start(done, total)
        else:
            self._meter.add(done - self._done)
        self._done = done

    def _watch(self) -> None:
        window = self._policy.stall_window
        while not self._stop.wait(min(1.0, window / 4)):
            if self._policy.clock() - self._last > window:
                self.cancel.set()
                return


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.removeprefix("Failed to retrieve file url: ").partition(" You may still")[0][:300]
