"""The verb `embed`: from one h5ad file to another, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scgpt
from scgpt.cli import main
from scgpt.steps.embed import read_symbols

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from toy_model import SYMBOLS, toy_cells, toy_folder


@pytest.fixture
def folder(tmp_path):
    return toy_folder(tmp_path / "model")


@pytest.fixture
def source(tmp_path):
    cells = toy_cells(30)
    cells.layers["counts"] = cells.X.copy()
    cells.X = cells.X.log1p()
    cells.var = cells.var.assign(symbol_used=SYMBOLS)
    cells.var_names = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def run(source, folder, *more):
    arguments = ["embed", source, "--model", folder, "--out", source.with_name("out.h5ad"), *more]
    return main([str(argument) for argument in [*arguments, "--device", "cpu"]])


def refused(capsys, *parts):
    """Assert that the verb failed with one line on standard error, which holds `parts`."""
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in shown.err
    for part in parts:
        assert part in lines[0]


def test_a_file_is_embedded_by_a_process_of_its_own(source, folder, tmp_path):
    command = [sys.executable, "-m", "scgpt", "embed", source, "--model", folder]
    command += ["--out", tmp_path / "out.h5ad", "--layer", "counts", "--gene-column", "symbol_used"]
    command += ["--batch-size", 8, "--max-length", 50, "--threads", 1, "--device", "cpu"]
    command += ["--receipt", tmp_path / "receipt.json"]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "40 tensors, 40 loaded, 0 missing, 0 reshaped, 0 unused" in done.stderr
    assert "30/30" in done.stderr
    expected = scgpt.embed(
        ad.read_h5ad(source),
        folder,
        layer="counts",
        gene_column="symbol_used",
        max_length=50,
        batch_size=8,
        copy=True,
    )
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(found.obsm["X_scgpt"], expected.obsm["X_scgpt"])
    assert found.uns["X_scgpt"]["max_length"] == 50
    assert len(json.loads((tmp_path / "receipt.json").read_text())["tensors"]) == 40
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["in.h5ad", "model", "out.h5ad", "receipt.json"]


def test_every_option_reaches_the_library(source, folder, tmp_path):
    table = tmp_path / "symbols.tsv"
    ids = ad.read_h5ad(source).var_names
    table.write_text("".join(f"{i}\t{s}\n" for i, s in zip(ids, SYMBOLS[:50], strict=False)))
    options = ["--values", "lognorm", "--gene-symbols", table, "--min-matched", "0.3"]
    options += ["--key-added", "X_mine", "--seed", "7", "--amp", "bf16", "--duplicates", "error"]
    assert run(source, folder, *options, "--without-matrices", "--quiet") == 0
    receipt = json.loads((tmp_path / "out.receipt.json").read_text())
    assert {row["status"] for row in receipt["tensors"]} == {"loaded"}
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    assert found.X is None
    assert found.obsm["X_mine"].shape == (30, 32)
    done = found.uns["X_mine"]
    assert (done["values"], done["seed"], done["precision"]) == ("lognorm", 7, "bf16")
    assert (done["n_genes"], done["n_genes_matched"]) == (120, 50)


def test_mistakes_are_one_line_and_exit_code_2(source, folder, tmp_path, capsys):
    named = ["--gene-column", "symbol_used"]
    assert run(source, folder, *named) == 2
    refused(capsys, "look log-normalised", "(other matrices here: layer=counts)")
    assert run(source, folder, "--layer", "counts") == 2
    refused(capsys, "0 of 120 genes", "gene_column (columns: symbol_used)")
    assert run(tmp_path / "none.h5ad", folder) == 2
    refused(capsys, "none.h5ad: no such file")
    assert run(source, tmp_path, *named) == 2
    refused(capsys, "no model is in this folder")
    (folder / "weights.safetensors").unlink()
    assert run(source, folder, *named) == 2
    refused(capsys, "weights.safetensors missing")
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--key-added", "", "key_added is ''; expected a name for obsm that is not empty"),
        ("--key-added", "a/b", "key_added is 'a/b'; expected a name for obsm"),
        ("--key-added", ".", "key_added is '.'"),
        ("--min-matched", "3", "min_matched is 3; expected a share from 0 to 1"),
        ("--min-matched", "nan", "min_matched is nan"),
        ("--chunk-size", "0", "chunk_size is 0"),
        ("--out", "/", "/ is a folder; expected the name of the file to write"),
        ("--out", "", ". is a folder"),
    ],
)
def test_wrong_options_are_found_before_the_model_is_loaded(
    source, tmp_path, capsys, option, value, message
):
    # The folder of the model does not exist: nobody has looked.
    assert run(source, tmp_path / "no_model", option, value) == 2
    refused(capsys, message)
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]


def test_tables_of_symbols(tmp_path):
    table = tmp_path / "symbols.csv"
    table.write_text("ENSG1, TP53\n\nENSG2,CD4\n")
    assert read_symbols(table) == {"ENSG1": "TP53", "ENSG2": "CD4"}
    table.write_text("ENSG1\tTP53\textra\n")
    with pytest.raises(ValueError, match="line 1: 3 columns, expected two"):
        read_symbols(table)
    with pytest.raises(ValueError, match="no such file"):
        read_symbols(tmp_path / "none.tsv")
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_symbols(table)


def test_describing_the_options_loads_nothing_heavy():
    code = (
        "import sys, argparse; from scgpt.steps import embed; "
        "embed.add_arguments(argparse.ArgumentParser()); "
        "print([m for m in ('torch', 'numpy', 'anndata', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
