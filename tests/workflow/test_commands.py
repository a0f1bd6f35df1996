"""Verbs as a user calls them: one clear line for bad input, and kills that lose nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt.data import contracts
from scgpt.data.io import read_h5ad

TASK = "scgpt.tasks.annotation"
FEW = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 16, "batch_size": 16}


def scgpt(*arguments, **options):
    command = [sys.executable, "-m", "scgpt", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **options
    )


def refused(done, *parts):
    """Assert that a verb failed with one clear message and no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture
def cells(tmp_path):
    """Return a function that writes a small h5ad, changed in one respect, and its path."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (40, 30)).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"kind": rng.choice(["T cell", "B cell"], 40), "study": ["a"] * 25 + ["b"] * 15},
        index=[f"cell{i}" for i in range(40)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(30)])

    def write(change=lambda _adata: None):
        adata = anndata.AnnData(sparse.csr_matrix(counts), obs=obs.copy(), var=var.copy())
        changed = change(adata)
        adata = adata if changed is None else changed
        path = tmp_path / "own.h5ad"
        adata.write_h5ad(path)
        return path

    return write


def dataset_spec(path, **params):
    return json.dumps(
        {
            "dataset": "own",
            "reader": "scgpt.readers.own:read_h5ad",
            "params": {
                "path": str(path),
                "columns": {"cell_type": "kind", "batch": "study"},
                "subset_column": "study",
                "reference": ["a"],
                **params,
            },
            "limits": {"max_cells": None, "max_genes": None},
            "expected": {},
            "title": "Own",
            "kind": "local",
            "reference": "-",
            "license": "-",
            "notes": [],
        }
    )


def make_dataset(path, folder, **params):
    return scgpt(
        *("dataset", "--spec", dataset_spec(path, **params)),
        *("--output", folder / "own_c1.h5ad", "--card", folder / "own.json"),
        *("--split", folder / "own.split.tsv"),
    )


def set_value(value):
    def change(adata):
        adata.X.data[3] = value

    return change


def duplicate_gene(adata):
    adata.var_names = ["GENE0", *adata.var_names[:-1]]


def log_values(adata):
    adata.X.data = np.log1p(adata.X.data / 7).astype(np.float32)


def empty_cell(adata):
    dense = adata.X.toarray()
    dense[5] = 0
    adata.X = sparse.csr_matrix(dense)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_value(np.nan), "1 values are NaN or infinite"),
        (set_value(-1), "1 values are negative"),
        (set_value(40.5), "counts"),
        (log_values, "look log-normalised"),
        (duplicate_gene, "1 gene names occur more than once (GENE0)"),
        (empty_cell, "1 cells have no counts at all (cell5)"),
        (lambda adata: adata[:0].copy(), "there are no cells"),
        (lambda adata: adata.obs.drop(columns="kind", inplace=True), "obs['kind'] does not exist"),
    ],
)
def test_unusable_data_are_refused_with_the_reason(cells, tmp_path, change, message):
    refused(make_dataset(cells(change), tmp_path), message)
    assert not (tmp_path / "own_c1.h5ad").exists()
    assert not (tmp_path / "own.json").exists()


def test_unreadable_file_is_named(tmp_path):
    path = tmp_path / "own.h5ad"
    refused(make_dataset(path, tmp_path), "own.h5ad: no such file")
    path.write_text("<html>")
    refused(make_dataset(path, tmp_path), "not a readable h5ad file")


def test_wrong_values_of_parameters_are_named(cells, tmp_path):
    refused(make_dataset(cells(), tmp_path, reference=["c"]), "reference values ['c'] are not in")
    refused(make_dataset(cells(), tmp_path, layer="raw"), "there is no layer 'raw'")


def prepare(cells, folder):
    assert make_dataset(cells(), folder).returncode == 0
    spec = {"scale": "s", "task": "annotation", "dataset": "own", "split": "split_1", "seed": 1}
    spec |= {"module": TASK, "params": {"n_pcs": 5}}
    done = scgpt(
        *("task-data", "--spec", json.dumps(spec), "--dataset", folder / "own_c1.h5ad"),
        *("--data", folder / "data.h5ad", "--truth", folder / "truth.h5ad"),
        *("--card", folder / "split.json"),
    )
    assert done.returncode == 0, done.stderr
    return folder


def predict_command(folder, name, *, entry, params, role="method"):
    spec = {"method": "m", "entry": entry, "role": role, "gpus": 0, "params": params}
    return [
        *("predict", "--spec", json.dumps(spec), "--seed", "3", "--task-module", TASK),
        *("--data", folder / "data.h5ad", "--output", folder / name / "prediction.h5ad"),
        *("--record", folder / name / "run.json"),
    ]


def test_truth_is_hidden_from_the_data(cells, tmp_path):
    folder = prepare(cells, tmp_path)
    data = read_h5ad(folder / "data.h5ad", contracts.TASK_DATA)
    truth = read_h5ad(folder / "truth.h5ad", contracts.ANNOTATION_TRUTH)
    test = data.obs["split"] == "test"
    assert data.obs.loc[test, "cell_type"].isna().all()
    assert set(truth.obs_names) == set(data.obs_names[test])


def test_method_parameters_and_missing_truth_are_explained(cells, tmp_path):
    folder = prepare(cells, tmp_path)
    knn = "scgpt.methods.baselines.knn:KNearestNeighbors"
    done = scgpt(*predict_command(folder, "p", entry=knn, params={"kk": 1}))
    refused(done, ".kk: unknown key. Known keys:")
    control = "scgpt.methods.controls.annotation:TrueLabels"
    refused(scgpt(*predict_command(folder, "p", entry=control, params={})), "truth")
    assert not (folder / "p/prediction.h5ad").exists()


def test_genes_outside_the_vocabulary_are_refused(cells, tmp_path):
    from scgpt.model.checkpoint import save_checkpoint
    from scgpt.model.config import ScGPTConfig
    from scgpt.model.scgpt import ScGPT
    from scgpt.tokens.vocab import GeneVocab

    folder = prepare(cells, tmp_path)
    vocab = GeneVocab.from_genes(["CD3D", "MS4A1"])
    config = ScGPTConfig(
        n_tokens=len(vocab), pad_id=vocab.pad_id, d_model=16, n_heads=2, n_layers=1, d_ff=16
    )
    save_checkpoint(tmp_path / "model", ScGPT(config), vocab.tokens)
    command = predict_command(
        folder,
        "p",
        entry="scgpt.methods.scgpt.annotation:ScGPTAnnotation",
        params={"init": "checkpoint"},
    )
    done = scgpt(*command, "--checkpoint", tmp_path / "model")
    refused(done, "vocabulary", "GENE")


def test_killed_training_resumes_and_ends_as_if_unbroken(cells, tmp_path):
    folder = prepare(cells, tmp_path)
    entry = "scgpt.methods.scgpt.annotation:ScGPTAnnotation"
    params = {**FEW, "epochs": 150, "patience": None}

    whole = predict_command(folder, "whole", entry=entry, params=params)
    assert scgpt(*whole).returncode == 0

    broken = predict_command(folder, "broken", entry=entry, params=params)
    command = [sys.executable, "-m", "scgpt", *map(str, broken)]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    scratch = folder / "broken/scratch"
    deadline = time.monotonic() + 120
    while not any(scratch.glob("*")):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "broken/prediction.h5ad").exists()

    done = scgpt(*broken)
    assert done.returncode == 0, done.stderr
    assert "resum" in done.stderr.lower()
    schema = contracts.ANNOTATION_PREDICTION
    first, second = (read_h5ad(folder / n / "prediction.h5ad", schema) for n in ("whole", "broken"))
    np.testing.assert_array_equal(first.obsm["X_emb"], second.obsm["X_emb"])
    pd.testing.assert_frame_equal(first.obs, second.obs)
    assert not scratch.exists()


def test_parity_command_passes_and_fails_as_it_should(root, tmp_path):
    case = root / "tests/golden/model/base_cls_mvc_ecs_cce"
    done = scgpt("parity", case)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agree" in done.stdout
    refused(scgpt("parity", tmp_path), str(tmp_path))


def test_full_disk_is_an_error_and_leaves_nothing(cells, tmp_path):
    code = (
        "import resource, runpy, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
        "runpy.run_module('scgpt', run_name='__main__')"
    )
    arguments = ["dataset", "--spec", dataset_spec(cells()), "--output", tmp_path / "own_c1.h5ad"]
    arguments += ["--card", tmp_path / "own.json", "--split", tmp_path / "own.split.tsv"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    # h5py adds its own noise about the file it could not close.
    assert any(line.startswith("error: ") for line in done.stderr.splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.h5ad"]
