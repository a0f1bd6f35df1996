"""The workflow as a user meets it: it builds, runs, does nothing twice, reruns what changed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

KNN = "methods/baselines/knn.py"
LATER = {"table", "figure", "report", "manifest", "all"}


def snakemake(folder: Path, *arguments: str, check: bool = True) -> str:
    command = [
        sys.executable,
        *("-m", "snakemake", "--cores", "2", "--directory", str(folder)),
        *("--snakefile", str(folder / "Snakefile"), *arguments),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert not check or done.returncode == 0, text
    return text


def mini(folder: Path, *arguments: str, **options: bool) -> str:
    return snakemake(folder, "--configfile", "tests/workflow/mini.yaml", *arguments, **options)


def planned(text: str) -> dict[str, int]:
    """Return the jobs of a dry run: rule -> number."""
    if "Nothing to be done" in text:
        return {}
    table = text.split("Job stats:")[1].split("total")[0]
    return {name: int(n) for name, n in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


def copy_project(root: Path, target: Path) -> Path:
    """Copy what git would clone, so that the tests may edit it."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    return target


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """Return a copy of the project in which the mini scale has run to its end."""
    folder = copy_project(root, tmp_path_factory.mktemp("project"))
    mini(folder)
    return folder


@pytest.fixture
def edit(project):
    """Return a function that edits a file of the project until the end of the test."""
    originals = {}

    def change(name, old, new):
        path = project / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        originals.setdefault(path, text)
        path.write_text(text.replace(old, new, 1))

    yield change
    for path, text in originals.items():
        path.write_text(text)


@pytest.mark.parametrize("scale", ["demo", "tiny", "paper"])
def test_plan_of_every_scale_builds(root, tmp_path, scale):
    folder = copy_project(root, tmp_path)
    jobs = planned(snakemake(folder, "-n", "--config", f"scale={scale}"))
    assert jobs["predict"] > jobs["score"] == jobs["task_data"]
    assert jobs["report"] == jobs["manifest"] == 1


def test_run_leaves_a_report_a_manifest_and_whole_records(project):
    results = project / "results/mini"
    manifest = json.loads((results / "manifest.json").read_text())
    assert "results/mini/report.html" in manifest["files"]
    job = results / "annotation/pbmc68k/split_1/scgpt_scratch/seed-0"
    record = json.loads((job / "run.json").read_text())
    assert record["params"]["epochs"] == 1
    assert record["history"]
    assert record["inputs"].keys() == {"data"}
    assert not (job / "scratch").exists()
    control = results / "annotation/pbmc68k/split_1/true_labels/seed-0/run.json"
    assert json.loads(control.read_text())["inputs"].keys() == {"data", "truth"}


def test_second_run_does_nothing(project):
    assert "Nothing to be done" in mini(project)


def test_comments_and_docstrings_rerun_nothing(project, edit):
    for name in (
        "methods/baselines/knn.py",
        "metrics/classification.py",
        "data/preprocess.py",
        "files.py",
    ):
        edit(f"scgpt/{name}", '"""', '"""Edited. ')
        edit(f"scgpt/{name}", "import annotations\n", "import annotations\n\n# a comment\n")
    assert planned(mini(project, "-n")) == {}


def test_metric_edit_reruns_scoring_and_later(project, edit):
    edit(
        "scgpt/metrics/classification.py",
        "import annotations\n",
        "import annotations\n\nEDITED = True\n",
    )
    jobs = planned(mini(project, "-n"))
    assert jobs.keys() == {"score"} | LATER
    assert jobs["score"] == 1


def test_method_edit_reruns_that_method_alone(project, edit):
    edit(
        "scgpt/methods/baselines/knn.py",
        "import annotations\n",
        "import annotations\n\nEDITED = True\n",
    )
    jobs = planned(mini(project, "-n"))
    assert jobs.keys() == {"predict", "score"} | LATER
    assert jobs["predict"] == jobs["score"] == 1


def test_scoring_again_touches_only_what_changed(project):
    job = project / "results/mini/annotation/pbmc68k/split_1"
    names = ["knn_pca", "majority_vote", "true_labels"]
    tables = [job / name / "seed-0/metrics.tsv" for name in names]
    expected, before = (job / "scores.tsv").read_text(), [t.stat().st_mtime_ns for t in tables]
    # One prediction is not the one that was scored, one table was edited by hand.
    (tables[0].parent / "metrics.json").write_text("{}")
    tables[1].write_text(tables[1].read_text().replace("accuracy", "accurate"))
    edited = tables[1].stat().st_mtime_ns
    mini(project, "--forcerun", "score")
    after = [t.stat().st_mtime_ns for t in tables]
    assert after[0] > before[0]
    assert after[1] > edited
    assert after[2] == before[2]
    assert (job / "scores.tsv").read_text() == expected


def test_parameter_edit_reruns_that_method_alone(project, edit):
    edit("tests/workflow/mini.yaml", "{epochs: 1}", "{epochs: 2}")
    jobs = planned(mini(project, "-n"))
    assert jobs["predict"] == 1
    assert "task_data" not in jobs


def test_figure_edit_reruns_figures_and_report(project, edit):
    edit("config/figures.yaml", "title: Confusion matrix", "title: Confusions")
    assert planned(mini(project, "-n")).keys() == {"figure", "report", "manifest", "all"}


def test_wrong_name_stops_before_any_job(project, edit):
    edit("tests/workflow/mini.yaml", "knn_pca", "knn_pac")
    text = mini(project, check=False)
    assert "scales.mini.run.annotation.methods: 'knn_pac' is not defined. Known names:" in text
    assert "Traceback" not in text
    assert "Job stats" not in text


def test_failed_job_leaves_no_output(project, edit):
    edit("tests/workflow/mini.yaml", "{epochs: 1}", "{epochs: 1, learning_rate: 1.0e+30}")
    text = mini(project, check=False)
    assert "Error in rule predict" in text
    job = project / "results/mini/annotation/pbmc68k/split_1/scgpt_scratch/seed-0"
    assert "error: " in (job / "predict.log").read_text()
    assert "Traceback" not in (job / "predict.log").read_text()
    assert not (job / "prediction.h5ad").exists()


def test_snakemake_report_is_made(project):
    mini(project)
    mini(project, "--report", "workflow.html")
    assert (project / "workflow.html").stat().st_size > 100_000
