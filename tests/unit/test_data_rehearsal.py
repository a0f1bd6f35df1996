"""The server that stands for every public one: what it serves, and that fetching finds it."""

from __future__ import annotations

import os

import pytest

from scgpt.errors import DataError, DownloadError
from scgpt.fetch.fetch import fetch
from scgpt.plan.config import FileSpec
from scgpt.twins.server import alone, serving

PAGE = "https://example.org/download"
SOURCES = [
    f"{PAGE}/a.csv",
    f"{PAGE}?file=a&key=%5Fx",
    "geo:GSE154763:a.csv",
    "s3://bucket/key/a.csv",
    "https://drive.google.com/file/d/1rDAxDtvWx1GpJa",
    "https://drive.google.com/drive/folders/1Qd42YNab#a.csv",
    f"{PAGE}/all.tar.gz#inside/a.csv",
    f"{PAGE}/all.tar.gz?rlkey=1&dl=1#a.csv",
    f"{PAGE}/files/43939560#outer/inner.zip#deep/a.csv",
    "https://drive.google.com/drive/folders/1Qd42YNab#all.zip#inside/a.csv",
]


@pytest.fixture
def twin(tmp_path):
    folder = tmp_path / "twin"
    folder.mkdir()
    (folder / "a.csv").write_text("gene,n\nKLF1,3\n")
    return folder


@pytest.mark.parametrize("source", SOURCES)
def test_every_form_of_source_delivers_the_twin(twin, tmp_path, source):
    files = {"a.csv": FileSpec(urls=[source], sha256="0" * 64, size=1)}
    with alone(), serving(files, twin) as mirror:
        got = fetch(files, tmp_path / "raw", lock=tmp_path / "lock", mirror=mirror, progress=False)
    assert got["a.csv"].read_bytes() == (twin / "a.csv").read_bytes()


def test_members_of_one_archive_are_served_together(twin, tmp_path):
    (twin / "b.csv").write_text("x\n")
    base = f"{PAGE}/both.zip"
    files = {
        "a.csv": FileSpec(urls=[f"{base}#in/a.csv", f"{base}#a.csv"]),
        "b.csv": FileSpec(urls=[f"{base}#in/b.csv"]),
    }
    with alone(), serving(files, twin) as mirror:
        fetch(files, tmp_path / "raw", lock=tmp_path / "lock", mirror=mirror, progress=False)
    assert (tmp_path / "raw/b.csv").read_text() == "x\n"
    assert len(list((tmp_path / ".archives").glob("*both.zip"))) == 1


def test_what_is_not_in_the_catalogue_is_not_served(twin, tmp_path):
    files = {"a.csv": FileSpec(urls=[f"{PAGE}/a.csv"])}
    other = {"a.csv": FileSpec(urls=[f"{PAGE}/other.csv"])}
    with (
        alone(),
        serving(files, twin) as mirror,
        pytest.raises(DownloadError, match="404"),
    ):
        fetch(other, tmp_path / "raw", lock=tmp_path / "lock", mirror=mirror, progress=False)


def test_missing_twin_file_is_named(twin):
    files = {"c.csv": FileSpec(urls=[f"{PAGE}/c.csv"])}
    with pytest.raises(DataError, match="no file c.csv"), serving(files, twin):
        pass


def test_settings_for_real_downloads_do_not_reach_a_rehearsal(monkeypatch):
    monkeypatch.setenv("SCGPT_OFFLINE", "1")
    monkeypatch.setenv("SCGPT_LOCAL_DATA", "/nowhere")
    monkeypatch.setenv("no_proxy", "example.org")
    with alone():
        assert "SCGPT_OFFLINE" not in os.environ
        assert "SCGPT_LOCAL_DATA" not in os.environ
        assert os.environ["NO_PROXY"] == "127.0.0.1"
    assert os.environ["SCGPT_OFFLINE"] == "1"
    assert os.environ["no_proxy"] == "example.org"
