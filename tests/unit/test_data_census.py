"""Retrieval from the Census: partitions, resumption, joining. The client here stands for a
database that is far away; what it is asked, and what is made of its answers, is what is tested."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.sparse import csr_matrix

from scgpt.errors import DataError, DownloadError
from scgpt.fetch import census

N_CELLS, GENES = 25, ["A", "B", "C"]


class Client(ModuleType):
    """Answers like `cellxgene_census` for a table of 25 cells; breaks off when told to."""

    def __init__(self):
        super().__init__("cellxgene_census")
        self.filters, self.asked, self.break_after = [], [], None
        self.ids = np.random.default_rng(0).permutation(np.arange(100, 100 + N_CELLS))

    @contextmanager
    def open_soma(self, *, census_version):
        self.version = census_version
        yield {"census_data": {"homo_sapiens": self}}

    @property
    def obs(self):
        return self

    def read(self, *, value_filter, column_names):
        assert column_names == ["soma_joinid"]
        self.filters.append(value_filter)
        ids = [] if "moon" in value_filter else self.ids
        table = {"soma_joinid": pd.Series(ids, dtype="int64")}
        return type("Reader", (), {"concat": lambda _self: table})()

    def get_anndata(self, _census, organism, *, obs_coords, obs_column_names):
        if self.break_after is not None and len(self.asked) >= self.break_after:
            raise ConnectionError
        self.asked.append(list(obs_coords))
        assert organism == "Homo sapiens"
        columns = dict.fromkeys(obs_column_names, "x")
        obs = pd.DataFrame(columns, index=range(len(obs_coords))).assign(soma_joinid=obs_coords)
        var = pd.DataFrame({"feature_id": [f"ENSG{g}" for g in GENES], "feature_name": GENES})
        values = np.repeat(np.array(obs_coords, dtype=np.float32)[:, None], 3, axis=1)
        obs.index, var.index = obs.index.astype(str), var.index.astype(str)
        return anndata.AnnData(csr_matrix(values), obs=obs, var=var)


@pytest.fixture
def client(monkeypatch):
    fake = Client()
    monkeypatch.setitem(sys.modules, "cellxgene_census", fake)
    monkeypatch.setattr(census, "PARTITION", 10)
    monkeypatch.delenv("SCGPT_OFFLINE", raising=False)
    return fake


def test_cells_are_retrieved_in_partitions_and_joined(client, tmp_path):
    census.retrieve(tmp_path, version="2023-05-15", organ="pancreas")
    assert client.version == "2023-05-15"
    assert client.filters == [
        "suspension_type != 'na' and disease == 'normal' and tissue_general == 'pancreas'"
    ]
    assert [len(ids) for ids in client.asked] == [10, 10, 5]
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert adata.obs_names.tolist() == [str(i) for i in range(100, 125)]
    np.testing.assert_array_equal(adata.X.toarray()[:, 0], np.arange(100, 125))
    assert adata.var["feature_name"].tolist() == GENES
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_broken_retrieval_goes_on_where_it_stopped(client, tmp_path):
    client.break_after = 2
    with pytest.raises(DownloadError, match="what has arrived is kept"):
        census.retrieve(tmp_path, version="2023-05-15", organ="pancreas")
    assert not (tmp_path / "cells.h5ad").exists()
    client.break_after = None
    census.retrieve(tmp_path, version="2023-05-15", organ="pancreas")
    assert [ids[0] for ids in client.asked] == [100, 110, 120]
    assert anndata.read_h5ad(tmp_path / "cells.h5ad").n_obs == N_CELLS


def test_query_without_cells_and_copies_of_cells(client, tmp_path):
    with pytest.raises(DataError, match="has no cell with"):
        census.retrieve(tmp_path, version="2023-05-15", organ="moon")
    census.retrieve(tmp_path, version="2023-05-15", organ="lung", primary_only=True)
    assert client.filters[-1].endswith("tissue_general == 'lung' and is_primary_data == True")


def test_offline_is_respected(client, tmp_path, monkeypatch):
    monkeypatch.setenv("SCGPT_OFFLINE", "1")
    with pytest.raises(DataError, match="SCGPT_OFFLINE is set; or retrieve the cells elsewhere"):
        census.retrieve(tmp_path, version="2023-05-15", organ="pancreas")
    assert client.asked == []


def test_missing_package_is_explained_with_the_commands(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    monkeypatch.delenv("SCGPT_OFFLINE", raising=False)
    with pytest.raises(DataError) as caught:
        census.retrieve(tmp_path / "census_pancreas", version="2023-05-15", organ="pancreas")
    message = str(caught.value)
    assert "pip install -r envs/census.txt" in message
    assert "python -m scgpt data fetch census_pancreas" in message


def test_environment_shares_its_versions_with_the_main_one(root):
    """Both write and read the same files, and conda makes the same environment as pip."""
    lines = (root / "envs/census.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins[0].startswith("cellxgene-census==")
    lock = (root / "envs/python.lock.txt").read_text()
    assert [pin for pin in pins[1:] if f"\n{pin} \\\n" not in lock] == []
    assert "\ncellxgene-census==" not in lock
    conda = yaml.safe_load((root / "envs/census.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": pins}
