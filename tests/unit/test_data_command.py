"""`scgpt data list | fetch | check`: what a user sees, on a small project of their own."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from scgpt.cli import main

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from fault_server import running

BODY = b"gene,n\nKLF1,3\n"


@pytest.fixture
def server():
    with running() as each:
        yield each


@pytest.fixture
def project(root, tmp_path, server):
    """Return a project whose catalogue has one data set on the server, and one that is gone."""
    folder = tmp_path / "project"
    (folder / "config").mkdir(parents=True)
    merged = {}
    for path in (root / "config").glob("*.yaml"):
        merged |= yaml.safe_load(path.read_text())
    block = merged["datasets"]["adamson"]
    good = {"a.csv": {"urls": [server.add("/a.csv", BODY)]}}
    gone = {"b.csv": {"urls": [server.base + "/b.csv"]}}
    merged["datasets"] |= {
        "mine": block | {"title": "Mine", "files": good, "notes": ["Read this."]},
        "gone": block | {"title": "Gone", "files": gone},
    }
    (folder / "config/all.yaml").write_text(yaml.safe_dump(merged))
    return folder


def scgpt(project, *arguments):
    return main(["data", *arguments, "--root", str(project)])


def test_list_shows_one_line_each(project, capsys):
    assert scgpt(project, "list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "not here, 1 file " in lines["mine"]
    assert "made here" in lines["pbmc68k"]
    assert "not here, a file of your own" in lines["norman_slice"]
    assert "checkpoint" in lines["scgpt_human"]
    assert "retrieved by a query" in lines["census_pancreas"]


def test_fetch_brings_records_and_is_listed(project, capsys):
    assert scgpt(project, "fetch", "mine") == 0
    path = project / "results/raw/mine/a.csv"
    assert path.read_bytes() == BODY
    digest = hashlib.sha256(BODY).hexdigest()
    record = json.loads((project / "results/raw/mine.json").read_text())
    assert record["files"]["a.csv"]["sha256"] == digest
    assert not record["twin"]
    lock = json.loads((project / "config/downloads.lock").read_text())
    assert lock["files"]["mine/a.csv"]["sha256"] == digest
    capsys.readouterr()
    scgpt(project, "list")
    assert "here, 14 bytes" in capsys.readouterr().out
    scgpt(project, "list", "mine")
    shown = capsys.readouterr().out
    assert "a.csv: here, 14 bytes, sha256 " + digest[:12] in shown
    assert "note: Read this." in shown
    assert "/a.csv" in shown


def test_second_fetch_asks_nobody(project, server):
    scgpt(project, "fetch", "mine")
    scgpt(project, "fetch", "mine")
    assert server.n_requests("/a.csv") == 1


def test_one_that_fails_does_not_stop_the_others(project, capsys):
    assert scgpt(project, "fetch", "gone", "mine") == 2
    shown = capsys.readouterr()
    assert "error: gone/b.csv: no source delivered the file" in shown.err
    assert "HTTP 404 (no such file)" in shown.err
    assert "Traceback" not in shown.err
    assert (project / "results/raw/mine.json").is_file()
    assert not (project / "results/raw/gone.json").exists()


def test_check_finds_a_changed_file(project, capsys):
    assert scgpt(project, "check") == 0
    assert "nothing has been fetched yet" in capsys.readouterr().out
    scgpt(project, "fetch", "mine")
    assert scgpt(project, "check") == 0
    assert "ok         mine/a.csv: 14 bytes" in capsys.readouterr().out
    (project / "results/raw/mine/a.csv").write_bytes(BODY.replace(b"3", b"4"))
    assert scgpt(project, "check", "mine") == 1
    assert "wrong      mine/a.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetch",), "name what to fetch"),
        (("fetch", "pbmc68k"), "'pbmc68k' is made here; there is nothing to fetch"),
        (("fetch", "nothing"), "'nothing' is not in the catalogue. Known names: adamson"),
        (("list", "nothing"), "'nothing' is not in the catalogue"),
    ],
)
def test_mistakes_are_explained(project, capsys, arguments, message):
    assert scgpt(project, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_the_users_own_is_looked_for(project, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SCGPT_LOCAL_DATA", raising=False)
    name = "perturb_norman_mcfaline_devel/norman19_devel_gears_schema.h5ad"
    assert scgpt(project, "fetch", "norman_slice") == 2
    shown = capsys.readouterr().err
    assert "'norman_slice' is not downloaded: it is a file of your own, not here; put it" in shown
    assert f"{project / name}, or set SCGPT_LOCAL_DATA to a folder that holds {name}" in shown
    assert scgpt(project, "check", "norman_slice") == 1
    assert "missing    norman_slice: a file of your own, not here" in capsys.readouterr().out
    monkeypatch.setenv("SCGPT_LOCAL_DATA", str(tmp_path / "copies"))
    path = tmp_path / "copies" / name
    scgpt(project, "list", "norman_slice")
    assert f"put it at {project / name} or {path}" in capsys.readouterr().out
    path.parent.mkdir(parents=True)
    path.touch()
    assert scgpt(project, "check", "norman_slice") == 0
    assert f"norman_slice: a file of your own, here: {path}" in capsys.readouterr().out
    scgpt(project, "list")
    assert "here, a file of your own" in capsys.readouterr().out


def test_check_says_that_nothing_is_downloaded(project, capsys):
    assert scgpt(project, "check", "pbmc68k") == 0
    assert "pbmc68k: made here; nothing is downloaded for it" in capsys.readouterr().out


def test_folder_without_configuration_is_explained(tmp_path, capsys):
    assert scgpt(tmp_path, "list") == 2
    assert "no configuration there" in capsys.readouterr().err


def test_local_copy_is_taken_offline(project, tmp_path, monkeypatch, capsys):
    (tmp_path / "copies/gone").mkdir(parents=True)
    (tmp_path / "copies/gone/b.csv").write_bytes(BODY)
    monkeypatch.setenv("SCGPT_OFFLINE", "1")
    monkeypatch.setenv("SCGPT_LOCAL_DATA", str(tmp_path / "copies"))
    assert scgpt(project, "fetch", "gone") == 0
    assert "gone: complete in" in capsys.readouterr().out


def test_what_needs_a_query_says_how_to_get_it(project, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    assert scgpt(project, "fetch", "census_pancreas") == 2
    assert "pip install -r envs/census.txt" in capsys.readouterr().err
    folder = project / "results/raw/census_pancreas"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cells.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    scgpt(project, "fetch", "census_pancreas")
    assert "pip install" not in capsys.readouterr().err
