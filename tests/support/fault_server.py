"""A real web server on 127.0.0.1 that misbehaves as it is told to, once per request."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What goes wrong with one request; the default is nothing.

    `status` with `headers` and `page` answers that instead of the file. `cut` closes the
    connection after so many bytes of the answer, `promise` changes its Content-Length, `drip`
    sends one byte per so many seconds, `pause` waits before the answer, `stop` falls silent after
    so many bytes until the client is gone.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    page: bytes = b""
    cut: int | None = None
    promise: int | None = None
    drip: float | None = None
    stop: int | None = None
    pause: float = 0.0


@dataclass
class Served:
    """One file and how its server treats it."""

    body: bytes
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    ranges: bool = True
    validator: str = "etag"  # etag | date | weak | none
    honour_if_range: bool = True
    range_shift: int = 0  # sends another range than the one asked for
    length: bool = True  # False: no Content-Length, the end of the connection is the end
    chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class FaultServer(ThreadingHTTPServer):
    """Serves `files` by path (with query) and keeps a log of the requests."""

    daemon_threads = True
    # A cut or refused client is the point here, not an event to report.
    handle_error = staticmethod(lambda *_: None)

    def __init__(self, handler=None):
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.files: dict[str, Served] = {}
        self.log: list[tuple[str, dict[str, str]]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, path: str, body: bytes, *faults: Fault, **options) -> str:
        """Serve `body` at `path`, with one fault for each of the first requests."""
        self.files[path] = Served(body, list(faults), **options)
        return self.base + path

    def n_requests(self, path: str) -> int:
        return sum(logged == path for logged, _ in self.log)

    def ranges(self, path: str) -> list[str]:
        """Return the Range header of every request, '' where there was none."""
        return [headers.get("Range", "") for logged, headers in self.log if logged == path]


@contextmanager
def running(handler=None):
    server = FaultServer(handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = ""  # of the site it stands for, if it stands for several

    def log_message(self, *_):
        pass

    def do_GET(self):
        address = self.host + self.path
        self.server.log.append((address, dict(self.headers)))
        served = self.server.files.get(address)
        if served is None:
            self._page(404, {}, b"<html><title>Not Found</title></html>")
            return
        fault = served.faults.pop(0) if served.faults else served.always or Fault()
        time.sleep(fault.pause)
        if fault.status is not None:
            self._page(fault.status, fault.headers, fault.page)
            return
        self._file(served, fault)

    def _page(self, status, headers, page):
        self.send_response(status)
        for name, value in {"Content-Type": "text/html", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def _file(self, served, fault):
        start = self._start_of_range(served)
        body = served.body[start:]
        if start and not body:
            self._page(416, {"Content-Range": f"bytes */{len(served.body)}"}, b"")
            return
        self.send_response(206 if start else 200)
        for name, value in (validators(served) | served.headers).items():
            self.send_header(name, value)
        if start:
            end = len(served.body) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(served.body)}")
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif served.length:
            promised = len(body) if fault.promise is None else fault.promise
            self.send_header("Content-Length", str(promised))
        self.end_headers()
        self._send(body, served, fault)

    def _send(self, body, served, fault):
        if fault.drip is not None:
            for position in range(len(body)):
                self.wfile.write(body[position : position + 1])
                time.sleep(fault.drip)
        if fault.stop is not None:
            self.wfile.write(body[: fault.stop])
            self.rfile.read(1)  # returns when the client closes
            return
        body = body if fault.cut is None else body[: fault.cut]
        for begin in range(0, len(body), 1 << 16):
            block = body[begin : begin + (1 << 16)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if served.chunked else block)
        if served.chunked and fault.cut is None:
            self.wfile.write(b"0\r\n\r\n")
        if fault.cut is not None or fault.promise is not None or not served.length:
            self.close_connection = True

    def _start_of_range(self, served):
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None or not served.ranges:
            return 0
        condition = self.headers.get("If-Range")
        known = validators(served).values()
        if served.honour_if_range and condition is not None and condition not in known:
            return 0
        return int(match[1]) + served.range_shift


def validators(served) -> dict[str, str]:
    digest = hashlib.md5(served.body).hexdigest()
    if served.validator == "etag":
        return {"ETag": f'"{digest}"'}
    if served.validator == "weak":
        return {"ETag": f'W/"{digest}"'}
    if served.validator == "date":
        day = int(digest, 16) % 28 + 1
        return {"Last-Modified": f"Mon, {day:02} Jan 2024 00:00:00 GMT"}
    return {}
