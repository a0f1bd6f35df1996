"""What a file is by its bytes, whatever its name and the server say."""

from __future__ import annotations

import bz2
import gzip
import html
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING

from scgpt.fetch.policy import Refused

if TYPE_CHECKING:
    from pathlib import Path

HEAD_BYTES = 4096

_KIND_OF_SUFFIX = {
    **dict.fromkeys(["h5ad", "h5", "hdf5", "loom", "h5mu"], "HDF5"),
    **dict.fromkeys(["zip", "npz"], "ZIP"),
    **dict.fromkeys(["gz", "tgz", "bgz"], "gzip"),
    **dict.fromkeys(["csv", "tsv", "txt", "gmt", "gaf", "obo", "bed"], "text"),
    **dict.fromkeys(["mtx_rows", "mtx_cols"], "text"),
    **dict.fromkeys(["pickle", "pkl"], "pickle"),
    **dict.fromkeys(["pt", "pth", "ckpt"], "PyTorch"),
    **{"tar": "tar", "bz2": "bzip2", "xz": "xz", "json": "JSON", "mtx": "Matrix Market"},
    **{"npy": "NumPy", "parquet": "Parquet", "safetensors": "safetensors", "rds": "RDS"},
}
_MAGIC = {
    "HDF5": (b"\x89HDF\r\n\x1a\n",),
    "ZIP": (b"PK\x03\x04", b"PK\x05\x06"),
    "gzip": (b"\x1f\x8b\x08",),
    "bzip2": (b"BZh",),
    "xz": (b"\xfd7zXZ\x00",),
    "NumPy": (b"\x93NUMPY",),
    "Parquet": (b"PAR1",),
    "Matrix Market": (b"%%MatrixMarket",),
    "pickle": (b"\x80",),
    "PyTorch": (b"PK\x03\x04", b"\x80"),
    "RDS": (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"X\n", b"A\n"),
}
_ARCHIVES = ("ZIP", "gzip", "bzip2", "xz", "tar")
KINDS = (*_MAGIC, "tar", "text", "JSON", "safetensors", "archive", "any")
_WEB_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<body|<script|<!--)", re.IGNORECASE)
_XML_ERROR = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<error\b", re.IGNORECASE)
_OPENERS = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
_DAMAGED = (
    EOFError,
    ValueError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def kind_of(name: str) -> str:
    """Return the kind of content the suffix of `name` promises; `any` if it promises none."""
    return _KIND_OF_SUFFIX.get(name.rpartition(".")[2].lower(), "any")


def is_kind(head: bytes, kind: str) -> bool:
    """Return whether a file that begins with `head` can be of `kind`."""
    if _is_error_page(head):
        return False
    if kind == "any":
        return True
    if kind == "archive":
        return any(is_kind(head, archive) for archive in _ARCHIVES)
    if kind == "tar":
        return head[257:262] == b"ustar"
    if kind == "safetensors":
        return len(head) > 8 and head[8:9] == b"{"
    if kind == "JSON":
        return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    if kind == "text":
        return b"\x00" not in head and not _looks_binary(head) and not re.match(rb'\s*\{\s*"', head)
    return head.startswith(_MAGIC[kind])


def content(head: bytes) -> str:
    """Return what a file that begins with `head` is, in words."""
    if not head:
        return "an empty file"
    if _WEB_PAGE.match(_without_bom(head)):
        title = re.search(rb"<title[^>]*>(.*?)</title>", head, re.IGNORECASE | re.DOTALL)
        words = html.unescape(title[1].decode("utf-8", "replace")) if title else ""
        words = " ".join(words.split())[:80]
        return f"a web page ('{words}')" if words else "a web page"
    if _XML_ERROR.match(_without_bom(head)):
        code = re.search(rb"<code>(.*?)</code>", head, re.IGNORECASE)
        return f"an XML error ({code[1].decode('utf-8', 'replace')})" if code else "an XML error"
    if head.startswith(_LFS_POINTER):
        return "a git-lfs pointer, not the file it points to"
    for kind in ("HDF5", *_ARCHIVES, "NumPy", "Parquet", "Matrix Market", "JSON", "text"):
        if is_kind(head, kind):
            return f"{kind} data"
    return f"unknown binary data ({head[:4].hex(' ')} ...)"


def _is_error_page(head: bytes) -> bool:
    start = _without_bom(head)
    return bool(
        not head
        or _WEB_PAGE.match(start)
        or _XML_ERROR.match(start)
        or head.startswith(_LFS_POINTER)
    )


def _without_bom(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf")


def _looks_binary(head: bytes) -> bool:
    return any(head.startswith(_MAGIC[kind]) for kind in ("gzip", "ZIP", "bzip2", "xz", "HDF5"))


def check_content(path: Path, name: str, kind: str | None = None) -> None:
    """Check that the file at `path` can be what `name` promises, also inside a compressed one.

    Parameters
    ----------
    path
        The file as downloaded.
    name
        The name it is meant for; its suffixes say what to expect (`x.h5ad.gz`: HDF5 in gzip).
    kind
        Kind of content where the name does not tell, one of `KINDS`.

    Raises
    ------
    Refused
        With what was found and what was expected.
    """
    expected = kind or kind_of(name)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not is_kind(head, expected):
        promised = f"; expected {expected} data" if expected != "any" else ""
        msg = f"what arrived is {content(head)}{promised}"
        raise Refused(msg)
    if expected == "gzip" and kind is None:
        inner_name = re.sub(r"\.tgz$", ".tar.gz", name, flags=re.IGNORECASE).rpartition(".")[0]
        try:
            inner = zlib.decompressobj(31).decompress(head, HEAD_BYTES)
        except zlib.error as error:
            msg = f"the gzip data are damaged ({error})"
            raise Refused(msg) from error
        if inner and not is_kind(inner, kind_of(inner_name)):
            msg = f"inside the gzip is {content(inner)}; expected {kind_of(inner_name)} data"
            raise Refused(msg)


def check_whole(path: Path, name: str) -> None:
    """Check that a file is not cut off, as far as its format can tell.

    For files whose digest nobody published: what is recorded as right at the first download must
    at least be complete, even where the server did not say how long it is.

    Parameters
    ----------
    path
        The file as downloaded.
    name
        The name it is meant for.

    Raises
    ------
    Refused
        If the end is missing.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    opener = next((_OPENERS[kind] for kind in _OPENERS if is_kind(head, kind)), None)
    try:
        if is_kind(head, "HDF5"):
            _check_hdf5_end(head, path.stat().st_size)
        elif is_kind(head, "ZIP"):
            zipfile.ZipFile(path).close()
        elif opener is not None:
            with opener(path) as stream:
                while stream.read(1 << 20):
                    pass
        elif is_kind(head, "tar"):
            with tarfile.open(path) as archive:
                archive.getmembers()
        elif kind_of(name) == "JSON":
            json.loads(path.read_bytes())
    except _DAMAGED as error:
        msg = f"the file is damaged or cut off ({str(error) or type(error).__name__})"
        raise Refused(msg) from error


def _check_hdf5_end(head: bytes, size: int) -> None:
    # HDF5 file format specification 3.0, section II.A: the superblock holds the end-of-file
    # address behind two others; versions 0 and 1 begin differently from 2 and 3.
    version = head[8]
    width, start = (head[13], 24 + 4 * version) if version <= 1 else (head[9], 12)
    if width not in (2, 4, 8):
        msg = "its HDF5 header is not readable"
        raise ValueError(msg)
    end = int.from_bytes(head[start + 2 * width : start + 3 * width], "little")
    if end > size:
        msg = f"its HDF5 header promises {end} bytes, it has {size}"
        raise EOFError(msg)
