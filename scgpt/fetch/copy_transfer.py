"""Transfer of a file that is on this machine already: a copy, verified like any download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scgpt.fetch.partial import Origin, need_space
from scgpt.fetch.policy import Refused

if TYPE_CHECKING:
    from scgpt.fetch.meter import Meter
    from scgpt.fetch.partial import Partial
    from scgpt.fetch.policy import Policy
    from scgpt.fetch.sources import Source
    from scgpt.fetch.verify import Expected

_BLOCK = 1 << 20


def transfer_copy(
    source: Source, partial: Partial, expected: Expected, policy: Policy, meter: Meter
) -> None:
    """Copy a local file into `partial`, always from its first byte.

    Raises
    ------
    Refused
        If it is not there, cannot be read, or has the wrong size.
    DownloadError
        If the disk is full.
    """
    path = Path(source.address).expanduser()
    if not path.is_file():
        msg = "no such file"
        raise Refused(msg)
    total = path.stat().st_size
    if expected.size is not None and total != expected.size:
        msg = f"has {total} bytes, expected {expected.size} bytes"
        raise Refused(msg)
    need_space(partial.destination, total, policy.spare_bytes)
    try:
        original = path.open("rb")
    except PermissionError as error:
        msg = "it may not be read: check its permissions"
        raise Refused(msg) from error
    partial.begin(Origin(source.identity, resumable=False))
    meter.start(0, total)
    with original, partial.writer() as file:
        while block := original.read(_BLOCK):
            partial.append(file, block)
            meter.add(len(block))
