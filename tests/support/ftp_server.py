"""A real FTP server on 127.0.0.1, as small as anonymous passive downloads allow."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import contextmanager


class FtpServer(socketserver.ThreadingTCPServer):
    """Serves `files` by path; `faults` holds what goes wrong with the next transfers.

    A fault is a number of bytes after which both connections are cut, ``busy`` (answer 421 at
    login), ``stop`` (send one byte and fall silent), or None.
    """

    daemon_threads = True
    allow_reuse_address = True
    handle_error = staticmethod(lambda *_: None)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Session)
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str | None] = []
        self.can_restart = True
        self.has_dates = True
        self.log: list[str] = []

    @property
    def base(self) -> str:
        return f"ftp://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running():
    server = FtpServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Session(socketserver.StreamRequestHandler):
    def handle(self):
        self.start, self.listener = 0, None
        if self.server.faults[:1] == ["busy"]:
            self.server.faults.pop(0)
            self.answer("421 too many users")
            return
        self.answer("220 ready")
        while line := self.rfile.readline():
            self.server.log.append(line.decode().strip())
            verb, _, argument = line.decode().strip().partition(" ")
            method = getattr(self, f"do_{verb.upper()}", None)
            if method is None:
                self.answer("502 not implemented")
            elif method(argument) == "bye":
                return

    def answer(self, text):
        self.wfile.write(f"{text}\r\n".encode())

    def do_USER(self, _):
        self.answer("331 password please")

    def do_PASS(self, _):
        self.answer("230 welcome")

    def do_TYPE(self, _):
        self.answer("200 binary")

    def do_SIZE(self, path):
        known = path in self.server.files
        self.answer(f"213 {len(self.server.files[path])}" if known else "550 no such file")

    def do_MDTM(self, path):
        dated = self.server.has_dates
        date = sum(self.server.files[path]) % 10**6
        self.answer(f"213 20240101{date:06}" if dated else "502 not implemented")

    def do_PASV(self, _):
        self.listener = socket.create_server(("127.0.0.1", 0))
        high, low = divmod(self.listener.getsockname()[1], 256)
        self.answer(f"227 passive (127,0,0,1,{high},{low})")

    def do_REST(self, text):
        if not self.server.can_restart:
            self.answer("501 cannot restart")
            return
        self.start = int(text)
        self.answer("350 restarting")

    def do_RETR(self, path):
        fault = self.server.faults.pop(0) if self.server.faults else None
        body, self.start = self.server.files[path][self.start :], 0
        data, _ = self.listener.accept()
        self.listener.close()
        self.answer("150 here it comes")
        with data:
            if fault == "stop":
                data.sendall(body[:1])
                data.recv(1)
                return None
            data.sendall(body[: fault if isinstance(fault, int) else None])
        if isinstance(fault, int):
            return "bye"
        self.answer("226 done")
        return None

    def do_QUIT(self, _):
        self.answer("221 bye")
        return "bye"
