"""Transfer over HTTP: resumed by byte range, never mixing two versions of a file."""

from __future__ import annotations

import email.utils
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scgpt.fetch.partial import Origin, need_space, readable
from scgpt.fetch.policy import Refused, SpeedGuard, Temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from scgpt.fetch.meter import Meter
    from scgpt.fetch.partial import Partial
    from scgpt.fetch.policy import Policy, SourceFailed
    from scgpt.fetch.sources import Source
    from scgpt.fetch.verify import Expected

_BLOCK = 1 << 16
# 202: figshare and Dataverse answer so while a file is prepared or a firewall hesitates.
_TRY_AGAIN = {202, 408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
_MEANING = {
    401: "a login is needed",
    403: "access refused",
    404: "no such file",
    410: "removed for good",
    451: "blocked for legal reasons",
}


def transfer_http(
    source: Source, partial: Partial, expected: Expected, policy: Policy, meter: Meter
) -> None:
    """Bring `partial` to the whole file, continuing the bytes it holds where that is safe.

    Raises
    ------
    Temporary
        If the connection broke, stalled, or the server asks to come again.
    Refused
        If the server does not have the file, or offers another one.
    DownloadError
        If the disk is full.
    """
    import requests

    held, validator = partial.resumable(source.identity, has_digest=expected.has_digest)
    origin = partial.origin()
    if held and origin is not None and origin.total == held:
        return
    with network_errors_explained(source, partial, policy), requests.Session() as session:
        session.max_redirects = policy.max_redirects
        with session.get(
            source.address,
            headers=_request_headers(held, validator),
            stream=True,
            timeout=(policy.connect_timeout, policy.read_timeout),
        ) as response:
            _receive(response, source, partial, expected, policy, meter)


@contextmanager
def network_errors_explained(source: Source, partial: Partial, policy: Policy) -> Iterator[None]:
    """Turn the errors of requests into a reason, and into whether trying again may help.

    Raises
    ------
    Temporary
        If the network or the server may recover.
    Refused
        If it will not.
    """
    import requests
    import urllib3

    try:
        yield
    except requests.TooManyRedirects as error:
        msg = f"more than {policy.max_redirects} redirects: the address leads in a circle"
        raise Refused(msg) from error
    except requests.HTTPError as error:
        raise status_problem(error.response) from error
    except requests.exceptions.SSLError as error:
        msg = (
            f"the certificate of {urlsplit(source.written).hostname} is not trusted "
            f"({_reason(error)}); behind a proxy, set REQUESTS_CA_BUNDLE to its certificate"
        )
        raise Refused(msg) from error
    except (requests.Timeout, urllib3.exceptions.ReadTimeoutError) as error:
        msg = f"no answer within the time limit ({readable(partial.held)} received)"
        raise Temporary(msg) from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        msg = f"the address leads to something that is not http ({_reason(error)})"
        raise Refused(msg) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        msg = f"connection failed ({_reason(error)}; {readable(partial.held)} received)"
        raise Temporary(msg) from error


def _request_headers(held: int, validator: str) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "scgpt-reproduction"}
    if held:
        headers["Range"] = f"bytes={held}-"
        if validator:
            headers["If-Range"] = validator
    return headers


def _receive(
    response: requests.Response,
    source: Source,
    partial: Partial,
    expected: Expected,
    policy: Policy,
    meter: Meter,
) -> None:
    held, validator = partial.resumable(source.identity, has_digest=expected.has_digest)
    if response.status_code == 416 and held:
        _range_beyond_end(response, partial, held)
        return
    if response.status_code not in (200, 206) or (response.status_code == 206 and not held):
        raise status_problem(response)
    decode = _is_encoded(response, expected.name)
    if response.status_code == 206:
        total = _check_continuation(response, partial, held, validator)
    else:
        total = None if decode else _length(response)
    if expected.size is not None and total is not None and total != expected.size:
        kind = response.headers.get("Content-Type", "unnamed content").partition(";")[0]
        msg = f"offers {total} bytes of {kind}, expected {expected.size} bytes"
        raise Refused(msg)
    if response.status_code == 200:
        need_space(partial.destination, total, policy.spare_bytes)
        new = Origin(source.identity, _validator(response), total, resumable=not decode)
        partial.begin(new)
    else:
        need_space(partial.destination, total and total - held, policy.spare_bytes)
    meter.start(partial.size, total)
    _store(_blocks(response, decode=decode), partial, expected, policy, meter)
    if total is not None and partial.size != total:
        msg = f"connection closed after {partial.size} of {total} bytes"
        raise Temporary(msg)


def _store(
    blocks: Iterator[bytes], partial: Partial, expected: Expected, policy: Policy, meter: Meter
) -> None:
    guard = SpeedGuard(policy)
    with partial.writer() as file:
        for block in blocks:
            partial.append(file, block)
            meter.add(len(block))
            guard.add(len(block))
            if expected.size is not None and partial.size > expected.size:
                msg = f"sends more than the expected {expected.size} bytes"
                raise Refused(msg)


def _blocks(response: requests.Response, *, decode: bool) -> Iterator[bytes]:
    # read1 returns what has arrived; read would wait for a full block and hide a slow drip.
    while block := response.raw.read1(_BLOCK, decode_content=decode):
        yield block


def _is_encoded(response: requests.Response, name: str) -> bool:
    # Many servers label a stored .gz file as gzip-encoded although nothing was encoded on the way.
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    return encoding != "identity" and not name.lower().endswith((".gz", ".tgz", ".bgz"))


def _check_continuation(
    response: requests.Response, partial: Partial, held: int, validator: str
) -> int | None:
    """Return the total size if the answer continues the held bytes exactly."""
    match = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    now = _validator(response)
    changed = bool(validator and now and validator != now)
    if match is None or int(match[1]) != held or changed:
        partial.discard()
        why = "the file changed on the server" if changed else "the server sent another range"
        msg = f"{why}; starting again from the first byte"
        raise Temporary(msg, wait=0.0)
    return None if match[3] == "*" else int(match[3])


def _range_beyond_end(response: requests.Response, partial: Partial, held: int) -> None:
    match = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", "").strip())
    origin = partial.origin()
    promised = origin.total if origin is not None else None
    if match is not None and int(match[1]) == held and promised in (None, held):
        return
    partial.discard()
    msg = "the server has fewer bytes than it promised or than are held; starting again"
    raise Temporary(msg, wait=0.0)


def status_problem(response: requests.Response) -> SourceFailed:
    """Return the error that an unwelcome HTTP status stands for."""
    code = response.status_code
    meaning = _MEANING.get(code) or response.reason or "no reason given"
    msg = f"HTTP {code} ({meaning})"
    if code in _TRY_AGAIN:
        return Temporary(msg, wait=_retry_after(response))
    return Refused(msg)


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    # With chunks the length header does not count (RFC 9112, section 6.3).
    if not text.isdigit() or "Transfer-Encoding" in response.headers:
        return None
    return int(text)


def _validator(response: requests.Response) -> str:
    # Only a strong entity tag promises equal bytes (RFC 9110, section 8.8.1).
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _reason(error: BaseException) -> str:
    """Return the innermost reason of a nested network error, in one line."""
    while True:
        inner = error.__cause__ or getattr(error, "reason", None)
        inner = inner or next((a for a in error.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    if type(error).__name__ == "IncompleteRead":
        return "closed before the end"
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return re.sub(r"^<[^>]*>:?\s*", "", text)[:200] or type(error).__name__
