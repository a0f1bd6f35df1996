"""Embedding from file to file: the same vectors, flat memory, no work lost, never half a file."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgpt
from scgpt.errors import ConfigError, DataError
from scgpt.library import streaming
from scgpt.library.h5ad import FileMatrix, open_h5ad
from scgpt.library.streaming import embed_file

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from toy_model import toy_cells, toy_folder, toy_model

ROUNDING = 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def cells():
    cells = toy_cells(60)
    cells.obs["kind"] = np.where(np.arange(60) % 2, "odd", "even")
    cells.layers["counts"] = cells.X.copy()
    cells.obsm["X_pca"] = np.ones((60, 2), np.float32)
    cells.uns["note"] = {"text": "kept"}
    return cells


def written(cells, path):
    cells.write_h5ad(path)
    return path


def embedded(cells, model, tmp_path, **options):
    embed_file(written(cells, tmp_path / "in.h5ad"), model, tmp_path / "out.h5ad", **options)
    return ad.read_h5ad(tmp_path / "out.h5ad")


@pytest.mark.parametrize("chunk_size", [1, 7, 60, 1024])
def test_vectors_equal_those_made_in_memory(cells, model, tmp_path, chunk_size):
    expected = scgpt.embed(cells, model, copy=True, max_length=60)
    found = embedded(cells, model, tmp_path, chunk_size=chunk_size, max_length=60)
    np.testing.assert_allclose(
        found.obsm["X_scgpt"], expected.obsm["X_scgpt"], rtol=0, atol=ROUNDING
    )
    assert found.obsm["X_scgpt"].dtype == np.float32
    for key, value in expected.uns["X_scgpt"].items():
        assert found.uns["X_scgpt"][key] == value, key


def test_one_chunk_gives_the_very_bits_made_in_memory(cells, model, tmp_path):
    expected = scgpt.embed(cells, model, copy=True).obsm["X_scgpt"]
    np.testing.assert_array_equal(embedded(cells, model, tmp_path).obsm["X_scgpt"], expected)


@pytest.mark.parametrize(
    "convert", [lambda x: x.toarray(), lambda x: x.astype(np.int64), lambda x: x.astype(np.uint16)]
)
def test_storage_in_the_file_does_not_matter(cells, model, tmp_path, convert):
    expected = embedded(cells, model, tmp_path, chunk_size=16).obsm["X_scgpt"]
    cells.X = convert(cells.X)
    found = embedded(cells, model, tmp_path, chunk_size=16).obsm["X_scgpt"]
    np.testing.assert_array_equal(found, expected)


def test_layers_and_raw_are_read_from_the_file(cells, model, tmp_path):
    expected = embedded(cells, model, tmp_path).obsm["X_scgpt"]
    cells.raw = cells.copy()
    few = cells[:, :30].copy()
    few.X = few.X * 0.5
    few.layers["other"] = few.X.copy()
    path = written(few, tmp_path / "few.h5ad")
    with pytest.raises(DataError, match="raw counts are expected.*layer=counts, other, raw"):
        embed_file(path, model, tmp_path / "few_out.h5ad")
    embed_file(path, model, tmp_path / "few_out.h5ad", layer="raw")
    found = ad.read_h5ad(tmp_path / "few_out.h5ad")
    np.testing.assert_array_equal(found.obsm["X_scgpt"], expected)
    assert found.uns["X_scgpt"]["matrix"] == "raw/X"
    with pytest.raises(DataError, match="no layer 'count'; there are: counts, other, raw"):
        embed_file(path, model, tmp_path / "few_out.h5ad", layer="count")


def test_everything_else_is_copied(cells, model, tmp_path):
    found = embedded(cells, model, tmp_path, key_added="X_mine")
    assert (found.X != cells.X).nnz == 0
    assert (found.layers["counts"] != cells.X).nnz == 0
    assert found.obs["kind"].tolist() == cells.obs["kind"].tolist()
    assert found.obs_names.equals(cells.obs_names)
    assert found.var_names.equals(cells.var_names)
    np.testing.assert_array_equal(found.obsm["X_pca"], cells.obsm["X_pca"])
    assert found.uns["note"] == {"text": "kept"}
    assert set(found.uns) == {"note", "X_mine"}


def test_matrices_can_be_left_out_and_an_old_embedding_is_replaced(cells, model, tmp_path):
    cells.obsm["X_scgpt"] = np.zeros((60, 3), np.float32)
    cells.uns["X_scgpt"] = "old"
    found = embedded(cells, model, tmp_path, keep_matrices=False)
    assert found.X is None
    assert not found.layers
    assert found.obsm["X_scgpt"].shape == (60, 32)
    assert found.uns["X_scgpt"]["n_genes"] == 120
    assert found.obs["kind"].tolist() == cells.obs["kind"].tolist()


def test_bad_data_are_found_before_any_work_and_leave_nothing_behind(cells, model, tmp_path):
    cells.X = cells.X.toarray()
    cells.X[59, 3] = np.nan
    with pytest.raises(DataError, match="X has NaN or infinite values, first in cell 'cell059'"):
        embedded(cells, model, tmp_path, chunk_size=8)
    cells.X[59] = 0
    with pytest.raises(DataError, match="1 of 60 cells express none.*cell059"):
        embedded(cells, model, tmp_path, chunk_size=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad"]


def test_unusable_files_are_one_clear_error(cells, model, tmp_path):
    target = tmp_path / "out.h5ad"
    with pytest.raises(DataError, match="no such file"):
        embed_file(tmp_path / "none.h5ad", model, target)
    (tmp_path / "text.h5ad").write_text("cells")
    with pytest.raises(DataError, match=r"text\.h5ad: not a readable h5ad"):
        embed_file(tmp_path / "text.h5ad", model, target)
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="without obs and var"):
        embed_file(tmp_path / "other.h5ad", model, target)
    path = written(cells, tmp_path / "in.h5ad")
    with pytest.raises(DataError, match="is the input itself"):
        embed_file(path, model, path)
    with pytest.raises(DataError, match="no such folder to write"):
        embed_file(path, model, tmp_path / "none" / "out.h5ad")
    with pytest.raises(ConfigError, match="chunk_size is 0"):
        embed_file(path, model, target, chunk_size=0)
    cells.X = sparse.csc_matrix(cells.X)
    with pytest.raises(DataError, match=r"X is stored as csc_matrix.*tocsr\(\)"):
        embed_file(written(cells, path), model, target)
    del cells.X
    with pytest.raises(DataError, match=r"there is no X; name a layer \(there are: counts\)"):
        embed_file(written(cells, path), model, target)


def test_blocks_of_a_file_are_the_rows_of_the_matrix(cells, tmp_path):
    with open_h5ad(written(cells, tmp_path / "in.h5ad")) as file:
        matrix = FileMatrix(file, None)
        for start, stop in ((0, 1), (7, 20), (59, 60), (0, 60)):
            assert (matrix.block(start, stop) != cells.X[start:stop]).nnz == 0
        assert matrix.cell_names([3, 59]) == ["cell003", "cell059"]


# One process that is killed in the middle, and one that goes on.

SLOW_RUN = """
import sys, time
from scgpt.library import streaming
from scgpt.library.models import load_model
append = streaming._Rows.append
def slowly(self, vectors):
    append(self, vectors)
    time.sleep(0.3)
streaming._Rows.append = slowly
source, model, target = sys.argv[1:]
streaming.embed_file(source, load_model(model, device="cpu"), target, chunk_size=4)
"""


def killed_run(source, folder, target, *, after):
    """Start a run, kill it without warning once `after` cells are safe; return how many were."""
    note = target.with_name(f".{target.name}.partial") / "progress.json"
    command = [sys.executable, "-c", SLOW_RUN, str(source), str(folder), str(target)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if note.is_file() and json.loads(note.read_text())["n_done"] >= after:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return json.loads(note.read_text())["n_done"]


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bits(
    cells, tmp_path, caplog, monkeypatch
):
    folder = toy_folder(tmp_path / "model")
    source, target = written(cells, tmp_path / "in.h5ad"), tmp_path / "out.h5ad"
    n_done = killed_run(source, folder, target, after=12)
    assert 12 <= n_done < 60
    assert not target.exists()
    encoded = []
    block = FileMatrix.block

    def noted(self, start, stop):
        encoded.append(start)
        return block(self, start, stop)

    monkeypatch.setattr(FileMatrix, "block", noted)
    caplog.set_level(logging.INFO, logger="scgpt")
    model = scgpt.load_model(folder, device="cpu")
    embed_file(source, model, target, chunk_size=4)
    assert f"going on at cell {n_done} of 60" in caplog.text
    # The first read is the check of all values.
    assert encoded == [0, *range(n_done, 60, 4)]
    resumed = ad.read_h5ad(target).obsm["X_scgpt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "model", "out.h5ad"]
    embed_file(source, model, tmp_path / "whole.h5ad", chunk_size=4)
    np.testing.assert_array_equal(resumed, ad.read_h5ad(tmp_path / "whole.h5ad").obsm["X_scgpt"])


class Interruption(Exception):
    """What ends a run in the middle."""


def interrupted_run(source, folder, target, monkeypatch):
    """Start a run that ends after three chunks of four cells."""
    append = streaming._Rows.append

    def fail_after_three(self, vectors):
        append(self, vectors)
        if self.n_done == 12:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(streaming._Rows, "append", fail_after_three)
        with pytest.raises(Interruption):
            embed_file(source, folder, target, chunk_size=4)
    assert not target.exists()


@pytest.mark.parametrize(
    "what", ["nothing", "seed", "chunk size", "input", "model", "note", "vectors"]
)
def test_rows_of_another_job_are_not_used(cells, tmp_path, caplog, monkeypatch, what):
    folder = toy_folder(tmp_path / "model")
    source, target = written(cells, tmp_path / "in.h5ad"), tmp_path / "out.h5ad"
    interrupted_run(source, folder, target, monkeypatch)
    partial = target.with_name(".out.h5ad.partial")
    options = {"chunk_size": 5 if what == "chunk size" else 4, "seed": int(what == "seed")}
    if what == "input":
        cells.X = cells.X[::-1]
        written(cells, source)
    elif what == "model":
        toy_folder(folder, d_ff=24)
    elif what == "note":
        (partial / "progress.json").write_text("{")
    elif what == "vectors":
        (partial / "vectors.f32").write_bytes(b"")
    caplog.set_level(logging.INFO, logger="scgpt")
    embed_file(source, folder, target, **options)
    assert ("going on at cell 12 of 60" in caplog.text) == (what == "nothing")
    expected = scgpt.embed(ad.read_h5ad(source), folder, copy=True).obsm["X_scgpt"]
    found = ad.read_h5ad(target).obsm["X_scgpt"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)
    assert not partial.exists()


MEMORY_RUN = """
import resource, sys
import torch
from scgpt.library.models import load_model
from scgpt.library.streaming import embed_file
torch.set_num_threads(1)
model, *sources = sys.argv[1:]
for source in sources:
    embed_file(source, load_model(model, device="cpu"), source + ".out.h5ad", min_matched=0.1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_cells(tmp_path):
    folder = toy_folder(tmp_path / "model", d_model=8, n_layers=1, n_heads=1, d_ff=8)
    part, rng = toy_cells(1500), np.random.default_rng(0)
    unknown = sparse.csr_matrix(rng.poisson(1.5, (1500, 400)).astype(np.float32))
    names = [*part.var_names, *(f"unknown{i}" for i in range(400))]
    paths = []
    for copies in (2, 14):
        counts = sparse.vstack([sparse.hstack([part.X, unknown])] * copies, format="csr")
        big = ad.AnnData(counts, var=pd.DataFrame(index=names))
        paths.append(written(big, tmp_path / f"{copies}.h5ad"))
    command = [sys.executable, "-c", MEMORY_RUN, str(folder), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    small, large = (int(line) / unit for line in done.stdout.split())
    more_data = (paths[1].stat().st_size - paths[0].stat().st_size) / 2**20
    assert more_data > 40
    # 18,000 cells more: what grows is a few bytes per cell and HDF5's own bounded cache.
    assert large - small < 0.3 * more_data
