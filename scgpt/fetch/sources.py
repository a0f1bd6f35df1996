"""Where a file can come from: one written form per kind of source, and the mirror that maps them.

Written forms (`urls` of a file in the configuration)
-----------------------------------------------------
``https://...``, ``http://...``, ``file:///...``
    Taken as they are. This covers figshare, Dataverse, Zenodo, 10x and git-hosted raw files.
``s3://bucket/key``
    A public object, read over HTTPS.
``geo:GSE154763:FILE``, ``geo:GSM2406675:FILE``
    A supplementary file of a GEO record; two addresses are tried.
``https://drive.google.com/file/d/ID`` (also ``/uc?id=ID``, ``/open?id=ID``)
    A public Google Drive file.
``https://drive.google.com/drive/folders/ID#FILE``
    A file in a public Google Drive folder.
``ANY#MEMBER``, ``ANY#INNER.zip#MEMBER``
    A member of an archive, or of an archive inside it; ``*`` for a part that is not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

from scgpt.errors import DownloadError

if TYPE_CHECKING:
    from pathlib import Path

Transport = Literal["http", "file", "drive", "drive-folder"]

_GEO = re.compile(r"geo:(GSE|GSM|GPL)(\d+):([^/:]+)")
_GEO_FOLDER = {"GSE": "series", "GSM": "samples", "GPL": "platforms"}
_DRIVE_HOSTS = {"drive.google.com", "docs.google.com", "drive.usercontent.google.com"}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Source:
    """One place to get one file.

    Parameters
    ----------
    written
        The address as written in the configuration; what messages show.
    transport
        How it is fetched.
    address
        What the transport needs: a URL, a path (``file``) or an identifier (``drive``).
    entry
        Name of the file in a Google Drive folder.
    members
        Path through nested archives; empty if the source is the file itself.
    """

    written: str
    transport: Transport
    address: str
    entry: str = ""
    members: tuple[str, ...] = ()

    @property
    def is_remote(self) -> bool:
        """Whether it needs a network."""
        return self.transport != "file"

    @property
    def identity(self) -> str:
        """What must be equal for a partial file to be continued."""
        return shown("#".join([self.address, self.entry] if self.entry else [self.address]))

    def container(self) -> Source:
        """Return the source of the archive this source is a member of."""
        written = self.written.split("#")
        return replace(
            self, written="#".join(written[: len(written) - len(self.members)]), members=()
        )

    def archive_name(self) -> str:
        """Return the file name under which the archive of this source is kept."""
        written = self.container().written
        text = written.partition("://")[2] or written
        return re.sub(r"[^A-Za-z0-9.-]+", "_", shown(text)).strip("._-")


@dataclass(frozen=True)
class Mirror:
    """A server that answers for every other one: `base/HOST/PATH?QUERY`.

    Parameters
    ----------
    base
        `http://host:port` of the mirror.
    rehearsal
        Whether what it serves stands in for the real files: see `parse_mirror`.
    """

    base: str
    rehearsal: bool = False

    def map(self, source: Source) -> Source:
        """Return `source` as the mirror serves it; local files stay as they are."""
        if source.transport == "file":
            return source
        if source.transport == "drive":
            path = f"drive.google.com/uc?id={source.address}"
        elif source.transport == "drive-folder":
            path = f"drive.google.com/drive/folders/{source.address}/{quote(source.entry)}"
        else:
            parts = urlsplit(source.address)
            path = parts.netloc.rpartition("@")[2] + parts.path
            path += f"?{parts.query}" if parts.query else ""
        return replace(source, transport="http", address=f"{self.base}/{path}", entry="")


def parse_mirror(text: str | None) -> Mirror | None:
    """Read the value of `SCGPT_MIRROR`.

    ``http://host:port`` (or https) is an ordinary mirror: every checksum counts as ever.
    ``rehearsal+http://127.0.0.1:port`` serves stand-ins: published checksums and the lock file are
    neither enforced nor written, a lock file of its own is used instead, and the folders are
    marked so that nothing in them is later taken for the real data. Only loopback addresses can
    be used for a rehearsal.

    Raises
    ------
    DownloadError
        If the value has another form.
    """
    if not text:
        return None
    rehearsal = text.startswith("rehearsal+")
    base = text.removeprefix("rehearsal+").rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        msg = (
            f"mirror '{text}' is not understood; expected http://HOST:PORT, "
            f"or rehearsal+http://127.0.0.1:PORT for stand-in files (SCGPT_MIRROR)"
        )
        raise DownloadError(msg)
    if rehearsal and parts.hostname not in _LOOPBACK:
        msg = (
            f"mirror '{text}': a rehearsal does not enforce published checksums, so its server "
            f"must be on this machine (127.0.0.1); use a plain http:// mirror otherwise"
        )
        raise DownloadError(msg)
    return Mirror(base, rehearsal)


def parse_sources(written: str, mirror: Mirror | None = None) -> list[Source]:
    """Return the sources that one written address stands for, in the order to try them.

    Raises
    ------
    DownloadError
        If the form is unknown.
    """
    url, *members = [unquote(part) if i else part for i, part in enumerate(written.split("#"))]
    found = [
        replace(source, written=written, members=(*source.members, *members))
        for source in _parse(url, written)
    ]
    found = [_enter_folder(source) for source in found]
    return [mirror.map(source) for source in found] if mirror else found


def _parse(url: str, written: str) -> list[Source]:
    parts = urlsplit(url)
    if parts.scheme == "geo":
        return [Source(url, "http", address) for address in _geo_addresses(url)]
    if parts.scheme == "s3":
        return [Source(url, "http", _s3_address(url))]
    if parts.scheme == "file":
        return [Source(url, "file", unquote(parts.path))]
    if parts.scheme in ("http", "https") and parts.hostname in _DRIVE_HOSTS:
        return [_drive(url)]
    if parts.scheme in ("http", "https") and parts.hostname:
        return [Source(url, "http", url)]
    msg = (
        f"'{shown(written)}' is not a source this version can read; expected https, http, file, "
        f"s3, geo:ACCESSION:FILE or a Google Drive link"
    )
    raise DownloadError(msg)


def _geo_addresses(url: str) -> list[str]:
    match = _GEO.fullmatch(unquote(url))
    if match is None:
        msg = f"'{url}' is not a GEO source; expected geo:GSE154763:FILE"
        raise DownloadError(msg)
    kind, number, name = match.groups()
    accession, stub = kind + number, f"{kind}{number[:-3]}nnn"
    query = f"acc={accession}&format=file&file={quote(name, safe='')}"
    return [
        f"https://ftp.ncbi.nlm.nih.gov/geo/{_GEO_FOLDER[kind]}/{stub}/{accession}/suppl/{quote(name)}",
        f"https://www.ncbi.nlm.nih.gov/geo/download/?{query}",
    ]


def _s3_address(url: str) -> str:
    parts = urlsplit(url)
    if not parts.netloc or parts.path in ("", "/") or parts.path.endswith("/"):
        msg = f"'{url}' is not one S3 object; expected s3://BUCKET/KEY"
        raise DownloadError(msg)
    # A dot in the bucket name breaks the certificate of the virtual-host form.
    if "." in parts.netloc:
        return f"https://s3.amazonaws.com/{parts.netloc}{parts.path}"
    return f"https://{parts.netloc}.s3.amazonaws.com{parts.path}"


def _drive(url: str) -> Source:
    parts = urlsplit(url)
    folder = re.search(r"/folders/([\w-]+)", parts.path)
    if folder:
        return Source(url, "drive-folder", folder[1])
    file = re.search(r"/file/d/([\w-]+)", parts.path)
    identifier = file[1] if file else parse_qs(parts.query).get("id", [""])[0]
    if not re.fullmatch(r"[\w-]+", identifier):
        msg = f"'{url}': no file id found; expected https://drive.google.com/file/d/ID"
        raise DownloadError(msg)
    return Source(url, "drive", identifier)


def _enter_folder(source: Source) -> Source:
    # The first part behind '#' names the file in the folder; only the rest is inside an archive.
    if source.transport != "drive-folder":
        return source
    if not source.members:
        msg = f"'{source.written}' is a folder: add '#' and the name of the file in it"
        raise DownloadError(msg)
    return replace(source, entry=source.members[0], members=source.members[1:])


def local_sources(folder: Path, group: str, name: str) -> list[Source]:
    """Return the copies of a file that a user put into `folder`: `GROUP/NAME`, then `NAME`."""
    candidates = [folder / group / name, folder / name]
    return [Source(f"{path}", "file", f"{path}") for path in candidates if path.is_file()]


def shown(url: str) -> str:
    """Return `url` without a user name and password, as it may be printed and recorded."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def check_name(name: str) -> str:
    """Return `name` if it can be the name of a file in the folder.

    Raises
    ------
    DownloadError
        If it is hidden, has a folder in it, or is a name that partial files use.
    """
    plain = PurePosixPath(name).name == name and "\\" not in name
    if not plain or name.startswith(".") or name.endswith((".part", ".part.info")):
        msg = f"'{name}' cannot be the name of a downloaded file; expected a plain file name"
        raise DownloadError(msg)
    return name
