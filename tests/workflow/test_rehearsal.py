"""The paper's plan on stand-ins: every download of it runs here, offline, before it runs anywhere.

The sets chosen for the run cover an archive in an archive, members of a tarball, Google Drive, a
pickle, a knowledge base, and a checkpoint that is fine-tuned on a fetched set; every set by itself
is tested in `contracts`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from scgpt.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

BASE = "results/rehearsal"
SCORES = f"{BASE}/annotation/multiple_sclerosis/split_1/scgpt/seed-0/metrics.tsv"
TARGETS = [
    SCORES,
    f"{BASE}/datasets/multiple_sclerosis.h5ad",
    f"{BASE}/datasets/pbmc10k.h5ad",
    f"{BASE}/datasets/perirhinal_cortex.h5ad",
    f"{BASE}/knowledge/gene2go.tsv",
]
# Settings of a user's machine that would stop a download must not stop a rehearsal.
HOSTILE = {
    "SCGPT_OFFLINE": "1",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
}


def snakemake(folder: Path, *arguments: str, **environment: str) -> str:
    command = [
        *(sys.executable, "-m", "snakemake", "--cores", "2", "--directory", str(folder)),
        *("--snakefile", str(folder / "Snakefile"), "--config", "scale=rehearsal", *arguments),
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(text: str) -> dict[str, int]:
    if "Nothing to be done" in text:
        return {}
    table = text.split("Job stats:")[1].split("total")[0]
    return {name: int(n) for name, n in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """Return a copy of the project in which the targets were made."""
    folder = tmp_path_factory.mktemp("project")
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    snakemake(folder, "--", *TARGETS, **HOSTILE)
    return folder


def test_whole_plan_of_the_paper_builds_on_stand_ins(project):
    rehearsal = planned(snakemake(project, "-n", "-F", "--", "all", "datasets"))
    paper = ("-n", "-F", "--config", "scale=paper", "--", "all", "datasets")
    paper = planned(snakemake(project, *paper))
    assert rehearsal["dataset"] >= 15
    n_fetched = rehearsal.pop("fetch_twin")
    assert rehearsal.pop("twin") == n_fetched
    assert {**rehearsal, "fetch": n_fetched} == paper


def test_every_file_came_from_its_real_address(project):
    record = read_json(project / f"{BASE}/raw/multiple_sclerosis.json")
    assert record["twin"]
    urls = [entry["url"] for entry in record["files"].values()]
    assert all(url.startswith("https://figshare.com/ndownloader/files/43939560#") for url in urls)
    log = (project / f"{BASE}/raw/multiple_sclerosis.log").read_text()
    assert "fetching https://figshare.com/ndownloader/files/43939560" in log
    record = read_json(project / f"{BASE}/raw/perirhinal_cortex.json")
    assert "drive.google.com" in record["files"]["PerirhinalCortex.h5ad"]["url"]


def test_fetched_checkpoint_is_fine_tuned_on_the_fetched_set(project):
    record = read_json((project / SCORES).with_name("run.json"))
    assert record["params"]["init"] == "checkpoint"
    scores = (project / SCORES).read_text()
    assert "macro_f1" in scores
    urls = read_json(project / f"{BASE}/raw/scgpt_human.json")["files"]
    assert urls["best_model.pt"]["url"].startswith("https://drive.google.com/file/d/")


def test_stand_ins_stay_apart_from_real_files(project):
    assert not (project / "results/raw").exists()
    assert not (project / "config/downloads.lock").exists()
    assert not (project / "config/downloads.lock.rehearsal").exists()
    card = read_json(project / f"{BASE}/datasets/pbmc10k.json")
    assert card["twin"]
    assert "simulated" in card["source"]
    assert not any("expected" in warning for warning in card["warnings"])


def test_second_run_does_nothing(project):
    assert planned(snakemake(project, "-n", "--", *TARGETS)) == {}


def test_edit_of_one_twin_makes_that_set_anew(project):
    path = project / "scgpt/data/twins/knowledge.py"
    text = path.read_text()
    path.write_text(
        text.replace("import annotations\n", "import annotations\n\nEDITED = True\n", 1)
    )
    try:
        jobs = planned(snakemake(project, "-n", "--", *TARGETS))
    finally:
        path.write_text(text)
    assert jobs == {"twin": 1, "fetch_twin": 1, "knowledge": 1}
