"""What every reader does with names, labels and values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from scgpt.errors import DataError
from scgpt.readers.c1 import column_of, condition_name, data_set, unique_names

COUNTS = np.array([[1, 0, 3], [0, 0, 0], [2, 5, 0]])


def cells(n=3, **columns):
    return pd.DataFrame(columns, index=[f"c{i}" for i in range(n)])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("ctrl", "control"),
        ("control", "control"),
        ("ctrl+KLF1", "KLF1"),
        ("KLF1+ctrl", "KLF1"),
        ("TP73+BAK1", "BAK1+TP73"),
        ("non-targeting", "control"),
        ("HLA-DRA+ctrl", "HLA-DRA"),
    ],
)
def test_conditions_are_control_or_sorted_genes(written, expected):
    assert condition_name(written) == expected


@pytest.mark.parametrize("form", [np.asarray, csr_matrix, csc_matrix])
def test_values_become_csr_float32_and_empty_cells_go(form):
    adata = data_set(form(COUNTS), cells(batch=[1, 2, 2]), ["A", "B", "C"], value_kind="counts")
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices
    assert adata.X.nnz == 4
    assert adata.obs_names.tolist() == ["c0", "c2"]
    assert adata.obs["batch"].tolist() == ["1", "2"]
    assert "1 cells without any value were removed" in adata.uns["warnings"]


def test_later_equal_symbols_get_their_identifier():
    notes = []
    names = unique_names(["A", "B", "A", "A", "A-E3"], ["E1", "E2", "E3", "E3", "E5"], notes)
    assert names == ["A", "B", "A-2", "A-3", "A-E3"]
    assert notes == ["2 genes had a name that occurs before; theirs was extended"]


def test_identifiers_extend_names_where_they_help():
    assert unique_names(["A", "A"], ["E1", "E2"], []) == ["A", "A-E2"]


@pytest.mark.parametrize(
    ("values", "declared", "found"),
    [
        (COUNTS, "lognorm", "counts"),
        (np.log1p(COUNTS * 1.7), "counts", "lognorm"),
        (COUNTS, "counts", "counts"),
        (COUNTS * 0.5 + 100 * (COUNTS > 0), "counts", "counts"),
    ],
)
def test_value_kind_is_what_the_values_are(values, declared, found):
    adata = data_set(values, cells(), ["A", "B", "C"], value_kind=declared)
    assert adata.uns["value_kind"] == found
    said = any("declared" in note for note in adata.uns["warnings"])
    assert said == (declared != found)


def test_missing_labels_stay_missing():
    obs = cells(cell_type=["B cell", None, np.nan])
    adata = data_set(COUNTS + 1, obs, ["A", "B", "C"], value_kind="counts")
    assert adata.obs["cell_type"].isna().tolist() == [False, True, True]
    assert adata.obs["cell_type"].cat.categories.tolist() == ["B cell"]


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"is \(3, 3\), but 3 cells and 2 genes"):
        data_set(COUNTS, cells(), ["A", "B"], value_kind="counts")


def test_absent_column_is_named_with_those_that_are_there():
    obs = cells(celltype=list("abc"))
    assert column_of(obs, ["cell_type", "celltype"], where="x").tolist() == list("abc")
    assert column_of(obs, "batch", where="x", optional=True) is None
    with pytest.raises(DataError, match="x: no column 'batch' or 'sample'; it has celltype"):
        column_of(obs, ["batch", "sample"], where="x")
