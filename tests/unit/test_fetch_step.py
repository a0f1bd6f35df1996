"""The step `fetch`: what came is recorded; twins are made anew; what needs a query asks once."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from scgpt.errors import DataError, DownloadError
from scgpt.fetch import census
from scgpt.files import read_json
from scgpt.steps import fetch, twin

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from fault_server import running

BODY = b"gene,n\nKLF1,3\n"
SHA256 = hashlib.sha256(BODY).hexdigest()


class Place:
    """The paths of one run of the step, and the run."""

    def __init__(self, root):
        self.root, self.folder, self.record = root, root / "raw/mine", root / "raw/mine.json"
        self.lock = root / "downloads.lock"

    def run(self, url, **more):
        options = {"twin": more.pop("twin", None)}
        spec = {"resource": "mine", "files": {"a.csv": {"urls": [url]}}, **more}
        fetch.run(spec, folder=self.folder, record=self.record, lock=self.lock, **options)
        return read_json(self.record)


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("SCGPT_OFFLINE", "SCGPT_LOCAL_DATA", "SCGPT_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path)


@pytest.fixture
def server():
    with running() as each:
        yield each


def test_record_says_what_came_from_where(place, server):
    url = server.add("/a.csv", BODY)
    entry = {"sha256": SHA256, "size": len(BODY), "url": url}
    found = place.run(url)
    assert not found["twin"]
    assert {key: found["files"]["a.csv"][key] for key in entry} == entry
    assert "mine/a.csv" in read_json(place.lock)["files"]


def test_failure_leaves_no_record(place, server):
    with pytest.raises(DownloadError, match="404"):
        place.run(server.base + "/gone.csv")
    assert not place.record.exists()
    assert not (place.folder / "a.csv").exists()


def test_twin_is_fetched_from_the_public_address_and_replaces_what_was_there(place, tmp_path):
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin/a.csv").write_bytes(BODY)
    place.folder.mkdir(parents=True)
    (place.folder / "a.csv").write_bytes(b"an earlier twin")
    (place.folder / "old.csv").write_bytes(b"of an earlier block")
    found = place.run("https://example.org/deep/all.zip#in/a.csv", twin=tmp_path / "twin")
    assert found["twin"]
    assert found["files"]["a.csv"]["url"] == "https://example.org/deep/all.zip#in/a.csv"
    assert (place.folder / "a.csv").read_bytes() == BODY
    assert not (place.folder / "old.csv").exists()
    assert not (place.folder / ".archives").exists()
    assert not place.lock.exists()


def retrieved(monkeypatch):
    """Let the query be answered with `BODY`; return the list of what was asked."""
    asked = []

    def retrieve(folder, **params):
        asked.append(params)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.csv").write_bytes(BODY)

    monkeypatch.setattr(census, "retrieve", retrieve)
    return asked


QUERY = {"retrieve": "scgpt.fetch.census:retrieve", "params": {"organ": "lung"}}


def test_query_is_asked_once_and_its_file_is_recorded(place, monkeypatch):
    asked = retrieved(monkeypatch)
    found = place.run("s3://bucket/soma#a.csv", **QUERY)
    place.run("s3://bucket/soma#a.csv", **QUERY)
    assert asked == [{"organ": "lung"}]
    assert found["files"]["a.csv"]["sha256"] == SHA256
    assert found["files"]["a.csv"]["url"] == "s3://bucket/soma#a.csv"
    (place.folder / "a.csv").write_bytes(BODY.replace(b"3", b"4"))
    with pytest.raises(DownloadError, match="sha256"):
        place.run("s3://bucket/soma#a.csv", **QUERY)


def test_copy_made_by_hand_spares_the_query(place, tmp_path, monkeypatch):
    asked = retrieved(monkeypatch)
    (tmp_path / "copies/mine").mkdir(parents=True)
    (tmp_path / "copies/mine/a.csv").write_bytes(BODY)
    monkeypatch.setenv("SCGPT_LOCAL_DATA", str(tmp_path / "copies"))
    assert place.run("s3://bucket/soma#a.csv", **QUERY)["files"]["a.csv"]["sha256"] == SHA256
    assert asked == []


def test_twin_that_forgets_a_file_is_refused(tmp_path):
    spec = {
        "resource": "trrust",
        "twin": "scgpt.twins.knowledge:trrust",
        "params": {},
        "files": ["trrust_rawdata.human.tsv"],
        "seed": 0,
    }
    paths = {"folder": tmp_path / "twin", "record": tmp_path / "twin.json"}
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin/old.tsv").write_text("x")
    twin.run(spec, **paths)
    assert set(read_json(tmp_path / "twin.json")["files"]) == set(spec["files"])
    assert not (tmp_path / "twin/old.tsv").exists()
    (tmp_path / "twin.json").unlink()
    with pytest.raises(DataError, match=r"did not write mouse\.tsv, which the catalogue names"):
        twin.run(spec | {"files": [*spec["files"], "mouse.tsv"]}, **paths)
    assert not (tmp_path / "twin.json").exists()
