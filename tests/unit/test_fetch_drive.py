"""Downloads from Google Drive: the real gdown, against Drive's pages served on this machine."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scgpt.errors import DownloadError
from scgpt.fetch.fetch import fetch
from scgpt.fetch.policy import Policy
from scgpt.plan.config import FileSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import drive_site
from fault_server import Fault, running

BODY, OTHER = (b"\x93NUMPY" + np.random.default_rng(i).bytes(1_500_000) for i in (0, 1))
SHA256 = hashlib.sha256(BODY).hexdigest()
FILE, FOLDER = "1fileXYZ0123456789abcdefghijk", "1folderXYZ0123456789abcdefgh"
URL = f"https://drive.google.com/file/d/{FILE}/view"
SMALL = f"drive.google.com/uc?id={FILE}"
LARGE = f"drive.usercontent.google.com/download?id={FILE}&confirm=t"
ATTACHED = {"Content-Disposition": 'attachment; filename="x.npy"', "Content-Type": "application/x"}
PAGE = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    found = drive_site.make_certificate(tmp_path_factory.mktemp("certificate"))
    if found is None:
        pytest.skip("making a certificate needs the openssl program")
    return found


@pytest.fixture
def drive(identity, monkeypatch):
    with running(drive_site.site(*identity)) as server:
        for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", server.base)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(identity[1]))
        yield server


@pytest.fixture
def bring(tmp_path):
    def fetch_one(url=URL, limits=None, **known):
        policy = Policy(
            sleep=lambda _: None,
            **{"attempts": 3, "spare_bytes": 0, "read_timeout": 5.0} | (limits or {}),
        )
        files = {"x.npy": FileSpec(urls=[url], **known)}
        lock = tmp_path / "downloads.lock"
        return fetch(files, tmp_path / "ms", lock=lock, policy=policy, progress=False)["x.npy"]

    fetch_one.folder = tmp_path / "ms"
    return fetch_one


def nothing_published(bring):
    return not (bring.folder / "x.npy").exists()


def test_small_file(drive, bring):
    drive.add(SMALL, BODY, headers=ATTACHED)
    assert bring().read_bytes() == BODY
    assert [path.name for path in bring.folder.iterdir()] == ["x.npy"]


def test_large_file_behind_the_confirmation_page(drive, bring):
    drive.add(SMALL, drive_site.confirmation(FILE), headers=PAGE)
    drive.add(LARGE, BODY, headers=ATTACHED)
    assert bring().read_bytes() == BODY


def test_cut_connection_is_continued(drive, bring):
    drive.add(SMALL, drive_site.confirmation(FILE), headers=PAGE)
    drive.add(LARGE, BODY, Fault(cut=1_200_000), headers=ATTACHED)
    assert bring().read_bytes() == BODY
    continued = [text for text in drive.ranges(LARGE) if text]
    assert len(continued) == 1
    assert int(continued[0].removeprefix("bytes=").rstrip("-")) > 0


def test_server_that_ignores_ranges_starts_again(drive, bring):
    drive.add(SMALL, BODY, Fault(cut=1_200_000), headers=ATTACHED, ranges=False)
    assert bring(limits={"attempts": 5}).read_bytes() == BODY


def test_file_in_a_folder_by_name(drive, bring):
    view = f"drive.google.com/embeddedfolderview?id={FOLDER}"
    files = {"args.json": "1argsXYZ0123456789abcdefghijk", "best_model.pt": FILE}
    drive.add(view, drive_site.listing(files), headers=PAGE)
    drive.add(SMALL, BODY, headers=ATTACHED)
    url = f"https://drive.google.com/drive/folders/{FOLDER}"
    assert bring(f"{url}#best_model.pt").read_bytes() == BODY
    (bring.folder / "x.npy").unlink()
    with pytest.raises(DownloadError, match="0 files named 'vocab.json'.*args.json, best_model.pt"):
        bring(f"{url}#vocab.json")


def test_quota_page_is_told_and_not_asked_again(drive, bring):
    reason = "Too many users have viewed or downloaded this file recently."
    drive.add(SMALL, drive_site.refusal(reason), headers=PAGE)
    with pytest.raises(DownloadError, match=f"Google Drive: {reason}"):
        bring()
    assert drive.n_requests(SMALL) == 1
    assert nothing_published(bring)


def test_private_or_removed_file(drive, bring):
    drive.add(SMALL, b"<html><title>Sign in</title></html>", headers=PAGE)
    with pytest.raises(DownloadError, match="Google Drive: Cannot retrieve the public link"):
        bring()
    assert nothing_published(bring)
    with pytest.raises(DownloadError, match="HTTP 404|Cannot retrieve"):
        bring(f"https://drive.google.com/file/d/{FILE}gone")


def test_answer_that_gdown_does_not_know(drive, bring):
    drive.add(SMALL, BODY)  # without a Content-Type
    with pytest.raises(DownloadError, match="gdown does not understand the answer"):
        bring()
    assert nothing_published(bring)


def test_wrong_file_is_not_taken(drive, bring):
    drive.add(SMALL, OTHER, headers=ATTACHED)
    with pytest.raises(DownloadError, match=f"expected {SHA256}"):
        bring(sha256=SHA256)
    with pytest.raises(DownloadError, match=f"offers {len(OTHER)} bytes, expected 5 bytes"):
        bring(size=5)
    assert nothing_published(bring)


def test_transfer_that_stands_still_is_broken_off(drive, bring):
    drive.add(SMALL, BODY, Fault(stop=1_200_000), headers=ATTACHED)
    begin = time.monotonic()
    assert bring(limits={"stall_window": 0.4, "read_timeout": 60.0}).read_bytes() == BODY
    assert time.monotonic() - begin < 30


def test_certificate_that_is_not_trusted(drive, bring, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with pytest.raises(DownloadError, match=r"certificate of drive.google.com is not trusted"):
        bring()
