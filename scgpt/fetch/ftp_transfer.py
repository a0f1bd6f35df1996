"""Transfer over FTP: anonymous, passive, resumed with REST."""

from __future__ import annotations

import ftplib
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from scgpt.errors import DownloadError
from scgpt.fetch.partial import Origin, need_space
from scgpt.fetch.policy import Refused, SpeedGuard, Temporary

if TYPE_CHECKING:
    from scgpt.fetch.meter import Meter
    from scgpt.fetch.partial import Partial
    from scgpt.fetch.policy import Policy
    from scgpt.fetch.sources import Source
    from scgpt.fetch.verify import Expected

_BLOCK = 1 << 16


def transfer_ftp(
    source: Source, partial: Partial, expected: Expected, policy: Policy, meter: Meter
) -> None:
    """Bring `partial` to the whole file, continuing the bytes it holds where that is safe.

    Raises
    ------
    Temporary
        If the connection broke or stalled, or the server is busy.
    Refused
        If the server does not have the file, or offers another one.
    DownloadError
        If the disk is full.
    """
    parts = urlsplit(source.address)
    server = ftplib.FTP(timeout=policy.read_timeout)
    try:
        server.connect(parts.hostname, parts.port or ftplib.FTP_PORT, policy.connect_timeout)
        server.sock.settimeout(policy.read_timeout)
        server.timeout = policy.read_timeout
        server.login(unquote(parts.username or "anonymous"), unquote(parts.password or "guest@"))
        server.voidcmd("TYPE I")
        _retrieve(server, unquote(parts.path), source, partial, expected, policy, meter)
    except DownloadError:
        raise
    except ftplib.error_perm as error:
        msg = f"FTP {error}"
        raise Refused(msg) from error
    except ftplib.Error as error:
        msg = f"FTP {error} ({partial.size} bytes received)"
        raise Temporary(msg) from error
    except TimeoutError as error:
        msg = f"no answer within the time limit ({partial.size} bytes received)"
        raise Temporary(msg) from error
    except (OSError, EOFError) as error:
        msg = f"connection failed ({error or 'closed'}; {partial.size} bytes received)"
        raise Temporary(msg) from error
    finally:
        server.close()


def _retrieve(
    server: ftplib.FTP,
    path: str,
    source: Source,
    partial: Partial,
    expected: Expected,
    policy: Policy,
    meter: Meter,
) -> None:
    total = server.size(path)
    if expected.size is not None and total is not None and total != expected.size:
        msg = f"offers {total} bytes, expected {expected.size} bytes"
        raise Refused(msg)
    validator = _modified(server, path)
    held, version = partial.resumable(source.identity, has_digest=expected.has_digest)
    if held and ((version and version != validator) or (total is not None and held > total)):
        held = 0
    if not held:
        partial.begin(Origin(source.identity, validator, total))
    need_space(partial.destination, total and total - held, policy.spare_bytes)
    if held != total:
        meter.start(held, total)
        _store(server, path, held, partial, policy, meter)
    if total is not None and partial.size != total:
        msg = f"connection closed after {partial.size} of {total} bytes"
        raise Temporary(msg)


def _store(
    server: ftplib.FTP, path: str, held: int, partial: Partial, policy: Policy, meter: Meter
) -> None:
    guard = SpeedGuard(policy)
    try:
        connection = server.transfercmd(f"RETR {path}", rest=held or None)
    except ftplib.error_perm as error:
        if not held or str(error).startswith("550"):
            raise
        partial.discard()
        msg = "the server cannot continue a file; starting again from the first byte"
        raise Temporary(msg, wait=0.0) from error
    with connection, partial.writer() as file:
        while block := connection.recv(_BLOCK):
            partial.append(file, block)
            meter.add(len(block))
            guard.add(len(block))
    server.voidresp()


def _modified(server: ftplib.FTP, path: str) -> str:
    try:
        return server.voidcmd(f"MDTM {path}")
    except ftplib.error_perm:
        return ""
