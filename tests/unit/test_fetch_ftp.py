"""Downloads over FTP from a real server that breaks off, is busy, or cannot restart."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from scgpt.errors import DownloadError
from scgpt.fetch.fetch import fetch
from scgpt.fetch.policy import Policy
from scgpt.plan.config import FileSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from ftp_server import running

BODY, OTHER = (b"\x93NUMPY" + np.random.default_rng(i).bytes(300_000) for i in (0, 1))


@pytest.fixture
def server():
    with running() as found:
        found.files["/geo/my file.npy"] = BODY
        yield found


@pytest.fixture
def bring(server, tmp_path):
    def fetch_one(url=server.base + "/geo/my%20file.npy", limits=None, **known):
        policy = Policy(
            sleep=lambda _: None,
            **{"read_timeout": 2.0, "spare_bytes": 0, "attempts": 3} | (limits or {}),
        )
        files = {"x.npy": FileSpec(urls=[url], **known)}
        lock = tmp_path / "downloads.lock"
        return fetch(files, tmp_path / "ms", lock=lock, policy=policy, progress=False)["x.npy"]

    fetch_one.folder = tmp_path / "ms"
    return fetch_one


def verbs(server, verb):
    return [line for line in server.log if line.startswith(verb)]


def test_delivers_the_file(server, bring):
    assert bring().read_bytes() == BODY
    assert [path.name for path in bring.folder.iterdir()] == ["x.npy"]


def test_cut_transfer_is_continued(server, bring):
    server.faults = [100_000, 50_000]
    assert bring().read_bytes() == BODY
    assert verbs(server, "REST") == ["REST 100000", "REST 150000"]


def test_changed_file_is_not_mixed(server, bring):
    server.faults = [100_000] * 9
    with pytest.raises(DownloadError, match="given up"):
        bring(limits={"attempts": 1})
    server.faults = []
    server.files["/geo/my file.npy"] = OTHER
    assert bring().read_bytes() == OTHER
    assert verbs(server, "REST") == []


def test_without_dates_the_file_is_fetched_from_its_first_byte(server, bring):
    server.has_dates, server.faults = False, [100_000]
    assert bring().read_bytes() == BODY
    assert verbs(server, "REST") == []


def test_server_that_cannot_restart_starts_again(server, bring):
    server.can_restart, server.faults = False, [100_000]
    assert bring().read_bytes() == BODY


def test_busy_server_is_asked_again(server, bring):
    server.faults = ["busy", "busy"]
    assert bring().read_bytes() == BODY


def test_silent_server_times_out_and_is_asked_again(server, bring):
    server.faults = ["stop"]
    assert bring(limits={"read_timeout": 0.3}).read_bytes() == BODY


def test_missing_file_is_final(server, bring):
    with pytest.raises(DownloadError, match="FTP 550 no such file"):
        bring(server.base + "/gone")
    assert len(verbs(server, "SIZE")) == 1
    assert list(bring.folder.iterdir()) == []


def test_wrong_size_is_found_before_the_transfer(server, bring):
    with pytest.raises(DownloadError, match="offers 300006 bytes, expected 5"):
        bring(size=5)
    assert verbs(server, "RETR") == []


def test_closed_port_and_unknown_host(bring):
    with pytest.raises(DownloadError, match="refused"):
        bring("ftp://127.0.0.1:9/x", limits={"attempts": 1})
    with pytest.raises(DownloadError, match="connection failed"):
        bring("ftp://no-such-host.invalid/x", limits={"attempts": 1})
