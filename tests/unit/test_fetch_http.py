"""Downloads over HTTP from a server that misbehaves: right file or a clear error, never half."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import io
import json
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from scgpt.errors import DownloadError
from scgpt.fetch.fetch import fetch
from scgpt.fetch.policy import Policy
from scgpt.plan.config import FileSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from fault_server import Fault, running


def hdf5(seed: int, n_values: int = 300_000) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = np.random.default_rng(seed).integers(0, 256, n_values, dtype="uint8")
    return buffer.getvalue()


BODY, OTHER = hdf5(0), hdf5(1)
SHA256 = hashlib.sha256(BODY).hexdigest()
PAGE = b"<!DOCTYPE html><html><head><title>Quota exceeded</title></head><body></body></html>"
NAME = "cells.h5ad"


@pytest.fixture
def server():
    with running() as found:
        yield found


class Desk:
    """Fetches one file into a fresh folder, with waits that are noted and not slept."""

    def __init__(self, folder):
        self.folder, self.lock = folder / "raw" / "ms", folder / "downloads.lock"
        self.waits = []

    def fetch(self, *urls, name=NAME, limits=None, **known):
        policy = Policy(
            sleep=self.waits.append,
            jitter=lambda: 0.5,
            **{"progress_bytes": 1000, "read_timeout": 5.0, "spare_bytes": 0} | (limits or {}),
        )
        spec = FileSpec(urls=list(urls), **known)
        found = fetch({name: spec}, self.folder, lock=self.lock, policy=policy, progress=False)
        return found[name].read_bytes()

    def fails(self, *urls, match, **options):
        """Expect an error that matches, and no file that could be taken for data."""
        with pytest.raises(DownloadError, match=match) as caught:
            self.fetch(*urls, **options)
        assert not (self.folder / options.get("name", NAME)).exists()
        assert not self.lock.exists()
        return str(caught.value)

    def left(self):
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}, {"size": len(BODY)}])
@pytest.mark.parametrize("options", [{}, {"chunked": True}, {"validator": "none"}])
def test_delivers_the_file_and_leaves_nothing_else(server, desk, known, options):
    url = server.add("/f", BODY, **options)
    assert desk.fetch(url, **known) == BODY
    assert desk.left() == [NAME]
    entry = json.loads(desk.lock.read_text())["files"]["ms/cells.h5ad"]
    assert entry == {"sha256": SHA256, "size": len(BODY), "url": url}


@pytest.mark.parametrize("validator", ["etag", "date"])
@pytest.mark.parametrize("chunked", [False, True])
def test_cut_connection_is_continued(server, desk, validator, chunked):
    url = server.add(
        "/f", BODY, Fault(cut=70_000), Fault(cut=70_000), validator=validator, chunked=chunked
    )
    assert desk.fetch(url) == BODY
    first, second, third = server.ranges("/f")
    assert first == ""
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in (second, third)]
    assert 0 < starts[0] <= 70_000 < starts[1] <= 140_000
    assert all("If-Range" in headers for _, headers in server.log[1:])


@pytest.mark.parametrize("validator", ["none", "weak"])
def test_without_validator_only_a_digest_allows_continuing(server, desk, validator):
    url = server.add("/f", BODY, Fault(cut=70_000), validator=validator)
    assert desk.fetch(url) == BODY
    assert server.ranges("/f") == ["", ""]
    url = server.add("/g", BODY, Fault(cut=70_000), validator=validator)
    assert desk.fetch(url, name="other.h5ad", sha256=SHA256) == BODY
    assert server.ranges("/g") == ["", "bytes=70000-"]


def test_server_that_ignores_ranges_starts_again(server, desk):
    url = server.add("/f", BODY, Fault(cut=70_000), ranges=False)
    assert desk.fetch(url) == BODY
    assert server.ranges("/f") == ["", "bytes=70000-"]


def test_file_that_changes_between_parts_is_not_mixed(server, desk):
    url = server.add("/f", BODY, Fault(cut=70_000), Fault(status=403))
    desk.fails(url, match="403")
    assert (desk.folder / "cells.h5ad.part").stat().st_size == 70_000
    server.add("/f", OTHER)
    assert desk.fetch(url) == OTHER
    assert server.ranges("/f")[-1] == "bytes=70000-"


def test_changed_file_is_found_although_if_range_is_ignored(server, desk):
    url = server.add("/f", BODY, Fault(cut=70_000), Fault(status=403))
    desk.fails(url, match="403")
    server.add("/f", OTHER, honour_if_range=False)
    assert desk.fetch(url) == OTHER
    assert server.ranges("/f")[-2:] == ["bytes=70000-", ""]


def test_answer_with_another_range_is_not_appended(server, desk):
    url = server.add("/f", BODY, Fault(cut=70_000), range_shift=-10)
    assert desk.fetch(url) == BODY
    assert server.ranges("/f") == ["", "bytes=70000-", ""]


def test_wrong_mixture_is_found_by_its_digest_and_fetched_once_more(server, desk):
    url = server.add("/f", OTHER, Fault(cut=70_000), Fault(status=403), validator="none")
    desk.fails(url, match="403", sha256=SHA256)
    server.add("/f", BODY, validator="none")
    assert desk.fetch(url, sha256=SHA256) == BODY
    assert server.ranges("/f")[-2:] == ["bytes=70000-", ""]


def test_partial_longer_than_the_file_starts_again(server, desk):
    url = server.add("/f", BODY, Fault(cut=200_000), Fault(status=403))
    desk.fails(url, match="403")
    small = hdf5(2, 1000)
    server.add("/f", small, honour_if_range=False)
    assert desk.fetch(url) == small


def test_complete_partial_of_a_killed_run_is_not_fetched_again(server, desk):
    url = server.add("/f", BODY)
    desk.folder.mkdir(parents=True)
    (desk.folder / "cells.h5ad.part").write_bytes(BODY)
    assert desk.fetch(url, sha256=SHA256) == BODY
    assert server.ranges("/f") == [f"bytes={len(BODY)}-"]  # answered 416: complete


def test_damaged_partial_note_means_a_fresh_start(server, desk):
    url = server.add("/f", BODY)
    desk.folder.mkdir(parents=True)
    (desk.folder / "cells.h5ad.part").write_bytes(OTHER[:5000])
    (desk.folder / "cells.h5ad.part.info").write_text("{half a no")
    assert desk.fetch(url) == BODY
    assert server.ranges("/f") == [""]


def test_wrong_hash_tells_found_expected_and_what_to_do(server, desk):
    url = server.add("/f", OTHER)
    message = desk.fails(url, sha256=SHA256, match="sha256 is")
    assert hashlib.sha256(OTHER).hexdigest() in message
    assert SHA256 in message
    assert "change its size and digest in the configuration" in message
    assert server.n_requests("/f") == 1
    assert desk.left() == []


def test_wrong_file_in_pieces_is_fetched_once_more_and_no_more(server, desk):
    faults = [Fault(cut=70_000)] + [Fault()] + [Fault(cut=70_000)] + [Fault()] * 5
    url = server.add("/f", OTHER, *faults)
    desk.fails(url, sha256=SHA256, match=f"expected {SHA256}")
    assert server.n_requests("/f") == 4


def test_web_page_with_status_200_is_never_data(server, desk):
    url = server.add("/f", PAGE)
    message = desk.fails(url, match="a web page")
    assert "('Quota exceeded'); expected HDF5 data" in message
    assert desk.left() == []


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("t.csv", PAGE),
        ("t.tsv.gz", gzip.compress(PAGE, mtime=0)),
        ("t.zip", b'{"message": "not found"}'),
        ("t.csv", b'{"message": "not found"}'),
        ("t.json", PAGE),
        ("t.mtx", b"1 2 3\n"),
        ("t.bin", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
        ("t.npz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ("t.h5ad.gz", gzip.compress(b"gene,cell\n", mtime=0)),
        ("t.h5ad", b""),
        ("t.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + b"\xff" * 100),
    ],
)
def test_content_must_be_what_the_name_promises(server, desk, name, body):
    url = server.add("/f", body)
    desk.fails(url, name=name, match="what arrived is|inside the gzip is|damaged")
    assert desk.left() == []


@pytest.mark.parametrize(("status", "words"), [(403, "refused"), (404, "no such file"), (410, "")])
def test_final_answers_are_not_repeated(server, desk, status, words):
    url = server.add("/f", BODY, always=Fault(status=status, page=PAGE))
    desk.fails(url, match=rf"HTTP {status} \(.*{words}")
    assert server.n_requests("/f") == 1
    assert desk.waits == []


@pytest.mark.parametrize("status", [202, 429, 500, 503])
def test_passing_trouble_is_waited_out_with_growing_pauses(server, desk, status):
    url = server.add("/f", BODY, *[Fault(status=status)] * 3)
    assert desk.fetch(url) == BODY
    assert desk.waits == [1.0, 2.0, 4.0]


def test_jitter_spreads_the_waits():
    policy = Policy(jitter=lambda: 0.0)
    assert [policy.wait(n) for n in (1, 2, 3, 20)] == [0.5, 1.0, 2.0, 60.0]
    waits = {Policy().wait(3) for _ in range(20)}
    assert len(waits) > 10
    assert all(2.0 <= wait <= 6.0 for wait in waits)


def test_trouble_that_lasts_is_given_up(server, desk):
    url = server.add("/f", BODY, always=Fault(status=503))
    desk.fails(url, match=r"HTTP 503 .*given up after 4 attempts", limits={"attempts": 4})
    assert server.n_requests("/f") == 4


def test_progress_starts_the_count_of_attempts_again(server, desk):
    url = server.add("/f", BODY, *[Fault(cut=50_000)] * 5)
    assert desk.fetch(url, limits={"attempts": 2}) == BODY


def test_endless_restarts_are_not_progress(server, desk):
    url = server.add("/f", BODY, ranges=False, always=Fault(cut=100_000))
    desk.fails(
        url, match="closed before the end; 100.0 kB received.*given up", limits={"attempts": 3}
    )
    assert server.n_requests("/f") == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(server, desk, form):
    value = "17" if form == "seconds" else email.utils.formatdate(time.time() + 17, usegmt=True)
    url = server.add("/f", BODY, Fault(status=429, headers={"Retry-After": value}))
    assert desk.fetch(url) == BODY
    assert desk.waits == [pytest.approx(17, abs=1.5)]


def test_retry_after_beyond_patience_gives_up(server, desk):
    url = server.add("/f", BODY, Fault(status=429, headers={"Retry-After": "86400"}))
    desk.fails(url, match="asks to wait 86400 s: run again later")
    assert desk.waits == []


def test_slow_drip_is_broken_off_and_continued(server, desk):
    url = server.add("/f", BODY, Fault(drip=0.02))
    limits = {"stall_window": 0.3, "min_speed": 10_000.0}
    assert desk.fetch(url, limits=limits) == BODY
    assert server.ranges("/f")[1].startswith("bytes=")


def test_drip_for_ever_is_given_up(server, desk):
    url = server.add("/f", BODY, always=Fault(drip=0.02))
    limits = {"stall_window": 0.2, "min_speed": 10_000.0, "attempts": 2}
    desk.fails(url, match=r"stalled: \d+ bytes/s .*given up after 2", limits=limits)


def test_silent_server_times_out(server, desk):
    url = server.add("/f", BODY, Fault(pause=1.0))
    assert desk.fetch(url, limits={"read_timeout": 0.3}) == BODY
    assert len(desk.waits) == 1


@pytest.mark.parametrize("promise", [len(BODY) + 1000, 10**9])
def test_wrong_content_length_is_a_truncated_body(server, desk, promise):
    url = server.add("/f", BODY, always=Fault(promise=promise))
    desk.fails(
        url, match="closed before the end|fewer bytes than it promised", limits={"attempts": 2}
    )


def test_body_without_length_is_checked_for_its_end(server, desk):
    whole = gzip.compress(b"gene,cell\n" * 10_000, mtime=0)
    url = server.add("/f", whole[:-50], length=False)
    desk.fails(url, name="t.csv.gz", match="damaged or cut off")
    server.add("/f", whole, length=False)
    assert desk.fetch(url, name="t.csv.gz") == whole


def test_size_is_checked_before_the_transfer(server, desk):
    url = server.add("/f", BODY)
    desk.fails(
        url, size=len(BODY) + 1, match=rf"offers {len(BODY)} bytes .*expected {len(BODY) + 1}"
    )


def test_more_than_the_expected_size_is_not_taken(server, desk):
    url = server.add("/f", BODY, chunked=True)
    desk.fails(url, size=1000, match="more than the expected 1000 bytes|size is")


def test_redirects_are_followed_but_not_in_circles(server, desk):
    target = server.add("/f", BODY)
    hop = server.add("/hop", b"", always=Fault(status=302, headers={"Location": target}))
    assert desk.fetch(hop) == BODY
    loop = server.add("/loop", b"", always=Fault(status=302, headers={"Location": "/loop"}))
    desk.lock.unlink()
    desk.fails(loop, name="x.h5ad", match="redirects: the address leads in a circle")
    assert server.n_requests("/loop") <= 12


def test_redirect_out_of_http_is_refused(server, desk):
    url = server.add(
        "/f", b"", always=Fault(status=302, headers={"Location": "file:///etc/passwd"})
    )
    desk.fails(url, match="not http")


def test_next_source_after_a_failure_and_all_failures_told(server, desk):
    bad = server.add("/bad", PAGE)
    gone = server.base + "/gone"
    message = desk.fails(bad, gone, match="no source delivered")
    assert f"{bad}: what arrived is a web page" in message
    assert f"{gone}: HTTP 404 (no such file)" in message
    assert f"put it at {desk.folder / NAME}" in message
    assert desk.fetch(bad, gone, server.add("/good", BODY)) == BODY


def test_closed_port_is_told(desk):
    desk.fails("http://127.0.0.1:9/f", match="connection failed.*refused", limits={"attempts": 2})


def test_encoding_on_the_way_is_undone_but_stored_gzip_is_kept(server, desk):
    text = b"gene,cell\n" * 1000
    packed = gzip.compress(text, mtime=0)
    url = server.add("/f", packed, headers={"Content-Encoding": "gzip"})
    assert desk.fetch(url, name="t.csv") == text
    assert desk.fetch(url, name="t.csv.gz") == packed


def test_free_disk_is_checked_first(server, desk):
    url = server.add("/f", BODY)
    desk.fails(
        url, match=r"needs 30\d.\d kB and .* to spare, but only", limits={"spare_bytes": 1 << 62}
    )
    assert desk.left() == []


def test_published_md5_and_git_blob_are_enforced(server, desk):
    class Spec:
        def __init__(self, **known):
            self.urls, self.sha256, self.size = [server.add("/f", BODY)], None, None
            self.__dict__ |= known

    blob = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()
    for field, right in {"md5": hashlib.md5(BODY).hexdigest(), "git_blob": blob}.items():
        name = f"{field}.h5ad"
        files = {name: Spec(**{field: right})}
        assert fetch(files, desk.folder, lock=desk.lock, progress=False)[name].exists()
        wrong = {f"wrong-{name}": Spec(**{field: right[::-1]})}
        with pytest.raises(DownloadError, match=rf"{field} is {right}, expected {right[::-1]}"):
            fetch(wrong, desk.folder, lock=desk.lock, progress=False)
