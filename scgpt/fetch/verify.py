"""Is this the file: size, digests, content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from scgpt.fetch.partial import readable
from scgpt.fetch.policy import Refused
from scgpt.fetch.sniff import check_content, check_whole

if TYPE_CHECKING:
    from pathlib import Path

    from scgpt.plan.config import FileSpec

_BLOCK = 1 << 20


class Mismatch(Refused):
    """The file has another size or digest than the one that is expected."""


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it arrives.

    Parameters
    ----------
    name
        File name; its suffix tells what the content must look like.
    sha256, md5, git_blob
        Hexadecimal digests; None where nobody published one. `git_blob` is the identifier git
        gives a file's content.
    size
        Bytes.
    kind
        Kind of content where the name does not tell.
    origin
        Who says so, for messages: the configuration or the lock file.
    """

    name: str
    sha256: str | None = None
    md5: str | None = None
    git_blob: str | None = None
    size: int | None = None
    kind: str | None = None
    origin: str = "the configuration"

    @property
    def has_digest(self) -> bool:
        """Whether a wrong byte anywhere would be found."""
        return any((self.sha256, self.md5, self.git_blob))


@dataclass(frozen=True)
class Found:
    """What a file is."""

    sha256: str
    size: int


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def expected_of(name: str, spec: FileSpec) -> Expected:
    """Return what the configuration says of a file; fields a spec does not have are unknown."""
    return Expected(
        name=name,
        sha256=spec.sha256,
        size=spec.size,
        md5=getattr(spec, "md5", None),
        git_blob=getattr(spec, "git_blob", None),
        kind=getattr(spec, "format", None),
    )


def examine(path: Path, expected: Expected) -> Found:
    """Check a file against everything known of it.

    Raises
    ------
    Refused
        With what was found and what was expected, in one line.
    """
    check_content(path, expected.name, expected.kind)
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        msg = (
            f"size is {size} bytes ({readable(size)}), expected {expected.size} "
            f"(from {expected.origin})"
        )
        raise Mismatch(msg)
    found = digests(path, expected)
    for kind, value in found.items():
        wanted = getattr(expected, kind)
        if wanted is not None and value != wanted.lower():
            msg = f"{kind} is {value}, expected {wanted} (from {expected.origin})"
            raise Mismatch(msg)
    if not expected.has_digest:
        check_whole(path, expected.name)
    return Found(found["sha256"], size)


def digests(path: Path, expected: Expected) -> dict[str, str]:
    """Return the SHA-256 of a file and the other digests that are expected of it, in one pass."""
    hashes: dict[str, _Hash] = {"sha256": hashlib.sha256()}
    # MD5 and SHA-1 are what archives publish; they guard against damage, not against forgery.
    if expected.md5 is not None:
        hashes["md5"] = hashlib.md5(usedforsecurity=False)
    if expected.git_blob is not None:
        hashes["git_blob"] = hashlib.sha1(usedforsecurity=False)
        hashes["git_blob"].update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for digest in hashes.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in hashes.items()}
