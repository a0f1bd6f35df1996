"""A server on this machine that stands for every public one: it serves twins at real addresses.

What is served where follows from the sources of the catalogue alone: a file at each of its
addresses, and archives put together from the files that are declared as members of them.
"""

from __future__ import annotations

import os
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote

from scgpt.errors import DataError
from scgpt.fetch.sources import Mirror, parse_sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scgpt.plan.config import FileSpec

_BLOCK = 1 << 16
# What would lead a rehearsal to other files, or keep it from asking this machine.
_VARIABLES = ("SCGPT_OFFLINE", "SCGPT_LOCAL_DATA", "SCGPT_MIRROR")
_TAR = {".tar.gz": "w:gz", ".tgz": "w:gz", ".tar": "w"}
_Tree = dict[str, "Path | _Tree"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Path] = {}


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.server.files.get(unquote(self.path))
        if path is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                self.wfile.write(block)

    def log_message(self, *_: object) -> None:
        """Say nothing: the fetching side tells what it gets."""


@contextmanager
def serving(files: Mapping[str, FileSpec], folder: Path) -> Iterator[str]:
    """Serve `folder` in place of the public sources of `files`.

    Parameters
    ----------
    files
        File name to sources, as in the catalogue.
    folder
        Where the files are.

    Yields
    ------
    The value of ``mirror`` for `scgpt.fetch.fetch.fetch`.

    Raises
    ------
    DataError
        If a file is missing.
    """
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        msg = f"{folder}: no file {', '.join(missing)}; run the step that writes the twin first"
        raise DataError(msg)
    server = _Server()
    base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    with TemporaryDirectory(prefix="scgpt-rehearsal-") as scratch:
        server.files = _addresses(files, folder, base, Path(scratch))
        thread.start()
        try:
            yield f"rehearsal+{base}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@contextmanager
def alone() -> Iterator[None]:
    """Take away the settings of the environment that a rehearsal must not follow."""
    saved = {name: os.environ.pop(name, None) for name in (*_VARIABLES, "NO_PROXY", "no_proxy")}
    os.environ["NO_PROXY"] = "127.0.0.1"
    try:
        yield
    finally:
        del os.environ["NO_PROXY"]
        os.environ.update({name: value for name, value in saved.items() if value is not None})


def _addresses(
    files: Mapping[str, FileSpec], folder: Path, base: str, scratch: Path
) -> dict[str, Path]:
    """Return what is at each path (with query) of the server."""
    mirror = Mirror(base, rehearsal=True)
    plain: dict[str, Path] = {}
    archives: dict[str, _Tree] = {}
    for name, spec in files.items():
        held: set[str] = set()
        for source in (one for url in spec.urls for one in parse_sources(url, mirror)):
            if source.transport == "file":
                continue
            address = unquote(source.address.removeprefix(base))
            if source.members:
                # A pattern stands for a place nobody has seen: served if there is no other.
                if "*" in "#".join(source.members) and address in held:
                    continue
                held.add(address)
                _put(archives.setdefault(address, {}), source.members, folder / name)
            else:
                plain[address] = folder / name
    for number, (address, tree) in enumerate(archives.items()):
        plain[address] = scratch / f"{number}"
        _write_archive(plain[address], address, tree)
    return plain


def _put(tree: _Tree, members: tuple[str, ...], path: Path) -> None:
    first, *rest = members
    first = first.replace("*", "twin")
    if not rest:
        tree[first] = path
        return
    below = tree.setdefault(first, {})
    if isinstance(below, dict):
        _put(below, tuple(rest), path)


def _write_archive(target: Path, address: str, tree: _Tree) -> None:
    """Write an archive of the kind that the address promises; a zip if it promises nothing."""
    members: dict[str, Path] = {}
    for number, (name, content) in enumerate(tree.items()):
        if isinstance(content, dict):
            members[name] = target.with_name(f"{target.name}-{number}")
            _write_archive(members[name], name, content)
        else:
            members[name] = content
    path = address.partition("?")[0]
    mode = next((mode for suffix, mode in _TAR.items() if path.endswith(suffix)), None)
    if mode is not None:
        with tarfile.open(target, mode) as archive:
            for name, content in members.items():
                archive.add(content, arcname=name)
        return
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.write(content, arcname=name)
