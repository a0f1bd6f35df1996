"""The data set that ships with scanpy is what we say it is."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest

from scgpt.data import contracts
from scgpt.errors import DataError
from scgpt.readers import embedded


@pytest.fixture(scope="module")
def pbmc():
    return embedded.read_pbmc68k()


def test_contract_and_division(pbmc):
    contracts.check(pbmc, contracts.DATASET)
    assert pbmc.shape == (700, 765)
    assert pbmc.uns["value_kind"] == "lognorm"
    table = pd.crosstab(pbmc.obs["cell_type"], pbmc.obs["subset"])
    assert table.sum().to_dict() == {"query": 210, "reference": 490}
    assert table.sum(axis=1).to_dict() == embedded.PBMC68K_LABELS
    assert (abs(table["query"] - 0.3 * table.sum(axis=1)) <= 1).all()
    other = embedded.read_pbmc68k(query_fraction=0.5, seed=1)
    assert (other.obs["subset"] == "query").sum() == 350


def test_values_are_log_normalised_counts(pbmc):
    # Undoing log1p and the scaling to 10,000 gives whole numbers, with the totals of all genes.
    with h5py.File(embedded._scanpy_file(embedded.PBMC68K_FILE)) as file:
        totals = file["obs"]["n_counts"]
    counts = np.expm1(pbmc.X.toarray().astype(float)) * totals[:, None] / 1e4
    rounded = np.round(counts)
    # Three decimals of the logarithm: a relative error of up to 0.0005.
    assert (abs(counts - rounded) <= 0.0006 * (rounded + totals[:, None] / 1e4)).all()
    assert rounded.max() > 50


def test_another_version_of_the_file_is_noticed(monkeypatch):
    monkeypatch.setitem(embedded.PBMC68K_LABELS, "Dendritic", 241)
    with pytest.raises(DataError, match="this scanpy ships another version"):
        embedded.read_pbmc68k()
    monkeypatch.setattr(embedded, "PBMC68K_FILE", "datasets/none.h5ad")
    with pytest.raises(DataError, match="does not ship it"):
        embedded.read_pbmc68k()


def test_data_layer_needs_neither_scanpy_nor_torch():
    # Importing scanpy takes seconds; making data must not.
    code = (
        "import sys; from scgpt.readers.embedded import read_pbmc68k; read_pbmc68k();"
        "from scgpt.twins.studies import simulate_hpancreas;"
        "simulate_hpancreas(n_reference=100, n_query=100, n_genes=200);"
        "print({'scanpy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
