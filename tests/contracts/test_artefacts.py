"""Files between steps keep their promises, and a broken one says everything that is wrong."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt.data import contracts
from scgpt.data.io import labels_only, open_h5ad, read_h5ad, write_h5ad
from scgpt.data.tables import SCORES, read_table, write_table
from scgpt.errors import ContractError

KEYS = {"dataset": "toy", "value_kind": "counts"}


@pytest.fixture
def dataset():
    obs = pd.DataFrame(
        {"batch": pd.Categorical(["a", "b", "a"]), "cell_type": pd.Categorical(["x", "y", "x"])},
        index=["c1", "c2", "c3"],
    )
    var = pd.DataFrame(
        {"gene_id": ["g1", "g2"], "feature_type": pd.Categorical(["gene", "gene"])},
        index=["CD3D", "MS4A1"],
    )
    counts = sparse.csr_matrix(np.array([[1, 0], [0, 2], [3, 4]], dtype=np.float32))
    return anndata.AnnData(X=counts, obs=obs, var=var)


def test_round_trip_keeps_everything(dataset, tmp_path):
    path = tmp_path / "toy.h5ad"
    write_h5ad(dataset, path, contracts.DATASET, **KEYS)
    back = read_h5ad(path, contracts.DATASET)
    assert (back.X != dataset.X).nnz == 0
    pd.testing.assert_frame_equal(back.obs, dataset.obs)
    assert back.uns[contracts.KEY]["schema_version"] == 1


def test_every_violation_is_reported(dataset, tmp_path):
    dataset.X = sparse.csr_matrix(dataset.X.toarray().astype(np.float64))
    dataset.X.data[0] = np.nan
    dataset.obs["batch"] = ["a", "b", "a"]
    dataset.obs["cell_type"] = pd.Categorical(["x", None, "x"])
    dataset.var["feature_type"] = pd.Categorical(["gene", "exon"])
    del dataset.var["gene_id"]
    dataset.obs_names = ["c1", "c1", "c3"]
    path = tmp_path / "toy.h5ad"
    with pytest.raises(ContractError) as caught:
        write_h5ad(dataset, path, contracts.DATASET, **KEYS)
    message = str(caught.value)
    for part in (
        "cell names are not unique, e.g. ['c1']",
        "X has dtype float64, expected float32",
        "X has 1 values that are NaN or infinite",
        "obs['batch'] has dtype object, expected category",
        "obs['cell_type'] has 1 missing values",
        "var['feature_type'] has values ['exon']",
        "var['gene_id'] is missing (text expected)",
    ):
        assert part in message
    assert not path.exists()


def test_file_of_another_kind_or_version_is_refused(dataset, tmp_path):
    path = tmp_path / "toy.h5ad"
    dataset.write_h5ad(path)
    with pytest.raises(ContractError, match="was not written by this pipeline"):
        read_h5ad(path, contracts.DATASET)
    write_h5ad(dataset, path, contracts.DATASET, **KEYS)
    with pytest.raises(ContractError, match=r"schema is 'dataset' version 1; run the step"):
        read_h5ad(path, contracts.TASK_DATA)


def test_unreadable_files_are_named(dataset, tmp_path):
    path = tmp_path / "toy.h5ad"
    with pytest.raises(ContractError, match="no such file"):
        open_h5ad(path)
    path.write_text("<html>quota exceeded</html>")
    with pytest.raises(ContractError, match="not a readable h5ad"):
        open_h5ad(path)
    write_h5ad(dataset, path, contracts.DATASET, **KEYS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ContractError, match="not a readable h5ad"):
        open_h5ad(path)


def test_prediction_needs_one_label_per_cell(tmp_path):
    keys = dict.fromkeys(contracts.ANNOTATION_PREDICTION.keys, "k")
    obs = pd.DataFrame({"cell_type_pred": pd.Categorical(["x", None])}, index=["c1", "c2"])
    with pytest.raises(ContractError, match=r"cell_type_pred'\] has 1 missing"):
        write_h5ad(labels_only(obs), tmp_path / "p.h5ad", contracts.ANNOTATION_PREDICTION, **keys)


def test_tables_keep_columns_types_and_missing_values(tmp_path):
    row = dict.fromkeys(SCORES, "1")
    table = pd.DataFrame(
        [row | {"value": 0.1, "n": 3, "note": ""}, row | {"value": None, "n": 0, "note": "why"}]
    )
    path = tmp_path / "metrics.tsv"
    write_table(table, path, SCORES)
    back = read_table(path, SCORES)
    assert list(back.columns) == list(SCORES)
    assert back["value"].iloc[0] == 0.1
    assert back["value"].isna().tolist() == [False, True]
    assert back["group"].tolist() == ["1", "1"]
    with pytest.raises(ContractError, match="columns are"):
        write_table(table.drop(columns="n"), path, SCORES)
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(ContractError, match="'task'.*are missing"):
        read_table(path, SCORES)
    path.write_text("")
    with pytest.raises(ContractError, match="not a tab-separated table"):
        read_table(path)
