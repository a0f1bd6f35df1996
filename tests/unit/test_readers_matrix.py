"""Readers of matrices and tables, on their twins and, where present, on real files."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest

from scgpt.errors import DataError
from scgpt.readers import restricted_pickle
from scgpt.readers.matrix import read_curated_atlas, read_mtx, read_pbmc10k
from scgpt.twins import integration
from scgpt.twins.legacy_pickle import write_frames


@pytest.fixture(scope="module")
def pbmc10k(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pbmc10k")
    integration.pbmc10k(folder, seed=0, n_cells=200, n_genes=150)
    return folder


@pytest.fixture(scope="module")
def lung(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lung")
    integration.lung_kim(folder, seed=0, n_cells=200, n_genes=150)
    return folder


def test_shared_barcodes_as_published_and_corrected(pbmc10k):
    published = read_pbmc10k(pbmc10k)
    corrected = read_pbmc10k(pbmc10k, shared_barcodes="corrected")
    n = {"published": published, "corrected": corrected}
    sizes = {name: a.obs["batch"].value_counts().to_dict() for name, a in n.items()}
    shared = integration.N_REPEATED
    assert sizes["published"]["1"] == sizes["corrected"]["1"] + shared
    assert sizes["published"]["0"] == sizes["corrected"]["0"] - shared
    # The labels are the same cell by cell; only the counts behind them differ.
    cells = [name.rsplit("-", 1)[0] for name in corrected.obs_names]
    assert cells == [name.rsplit("-", 1)[0] for name in published.obs_names]
    assert published.obs["cell_type"].tolist() == corrected.obs["cell_type"].tolist()
    differ = np.asarray((published.X != corrected.X).sum(axis=1)).ravel() > 0
    assert differ.sum() == shared


def test_labels_belong_to_the_cells_of_their_run(pbmc10k):
    adata = read_pbmc10k(pbmc10k, shared_barcodes="corrected")
    totals = adata.X.sum(axis=1)
    assert (totals > 0).all()
    log = np.log1p(adata.X.toarray())
    genes = adata.var_names
    score = log[:, genes.get_indexer(["CD14", "LYZ", "S100A8", "S100A9"])].mean(axis=1)
    monocytes = (adata.obs["cell_type"] == "CD14+ Monocytes").to_numpy()
    assert score[monocytes].mean() > score[~monocytes].mean() + 1
    assert adata.n_vars == int(0.9 * 150)


def test_matrix_of_another_size_is_refused(pbmc10k, tmp_path):
    folder = shutil.copytree(pbmc10k, tmp_path / "x")
    path = folder / "pbmc8k_barcodes.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="pbmc8k has a matrix of"):
        read_pbmc10k(folder)


def test_damaged_matrix_is_explained(tmp_path):
    (tmp_path / "m.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n3 3 9\n1 1")
    with pytest.raises(DataError, match=r"m\.mtx: not a readable Matrix Market file"):
        read_mtx(tmp_path / "m.mtx")


def test_atlas_leaves_out_cells_without_a_label(lung):
    adata = read_curated_atlas(lung)
    table = pd.read_csv(lung / "Cells.csv")
    assert adata.n_obs == table["cell_type"].notna().sum() < len(table)
    assert set(adata.obs["batch"]) == set(table["sample"])
    assert adata.uns["warnings"] == [f"{len(table) - adata.n_obs} cells without cell_type left out"]


def test_frames_of_old_pandas_come_back(tmp_path):
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 0.25], "c": [3, 4]}, index=["x", "y"])
    path = tmp_path / "frames.pickle"
    write_frames(path, {"frame": frame, "names": np.array(["p", "q"], dtype=object)})
    found = restricted_pickle.load_frames(path)
    pd.testing.assert_frame_equal(found["frame"], frame)
    assert found["names"].tolist() == ["p", "q"]
    # pandas itself reads what the twin writes, as it reads the real file.
    pd.testing.assert_frame_equal(pd.read_pickle(path)["frame"], frame)


class Evil:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('harm').touch()",))


@pytest.mark.parametrize("load", [restricted_pickle.load, restricted_pickle.load_frames])
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_pickle_that_runs_something_is_refused(tmp_path, monkeypatch, load, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pickle"
    path.write_bytes(pickle.dumps({"a": {1, 2}, "b": Evil()}, protocol=protocol))
    with pytest.raises(DataError, match=r"names '(builtins|__builtin__)\.eval', which is not"):
        load(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x03}q", b"no pickle", b"<html></html>"])
def test_damaged_pickle_is_explained(tmp_path, content):
    (tmp_path / "x.pickle").write_bytes(content)
    with pytest.raises(DataError, match="not a readable pickle"):
        restricted_pickle.load(tmp_path / "x.pickle")


def test_arrays_of_other_classes_are_refused(tmp_path):
    path = tmp_path / "m.pickle"
    path.write_bytes(pickle.dumps(np.ma.masked_array([1, 2]), protocol=3))
    with pytest.raises(DataError, match="which is not needed"):
        restricted_pickle.load_frames(path)


def test_real_label_file_is_read_without_running_it(shared_dir):
    path = shared_dir / "data/pbmc10k_paper_metadata/pbmc_metadata.pickle"
    found, trusted = restricted_pickle.load_frames(path), pd.read_pickle(path)
    assert found.keys() == trusted.keys()
    for name, value in trusted.items():
        if isinstance(value, pd.DataFrame):
            assert (found[name].to_numpy() == value.to_numpy()).all()
            assert found[name].columns.tolist() == value.columns.tolist()
            assert found[name].index.tolist() == value.index.tolist()
        else:
            assert (found[name] == value).all()
    runs = found["design"]["batchpbmc4k"].to_numpy()
    kept = ~found["barcodes"].index.str.endswith("-11")
    assert ((runs == 0) & kept).sum() == 8030
    assert ((runs == 1) & kept).sum() == 3960


def test_real_labels_and_genes_make_the_published_set(shared_dir, tmp_path):
    """With matrices made up for the real barcodes and genes, the published sizes come out.

    The published 7,982 + 4,008 cells are one step further than the label file alone leads: one
    barcode of the 8k run is shared with a cell of the 4k run that has no label.
    """
    from scipy.sparse import csc_matrix

    from scgpt.twins.formats import write_lines, write_mtx

    source = shared_dir / "data/pbmc10k_paper_metadata"
    for name in ("gene_info.csv", "pbmc_metadata.pickle"):
        shutil.copy2(source / name, tmp_path / name)
    labels = restricted_pickle.load_frames(source / "pbmc_metadata.pickle")
    genes = pd.read_csv(source / "gene_info.csv")["ENSG"].tolist()
    index, run = labels["barcodes"].index, labels["design"]["batchpbmc4k"].to_numpy()
    repeated = [name.removesuffix("1") for name in index if name.endswith("-11")]
    barcodes = {"pbmc8k": [], "pbmc4k": []}
    for name, number in zip(index, run, strict=True):
        barcodes[("pbmc8k", "pbmc4k")[number]] += [name] * (not name.endswith("-11"))
    barcodes["pbmc4k"] += repeated
    for name, cells in barcodes.items():
        ones = (np.ones(len(cells)), (np.zeros(len(cells), int), np.arange(len(cells))))
        write_mtx(tmp_path / f"{name}_matrix.mtx", csc_matrix(ones, (len(genes), len(cells))))
        write_lines(tmp_path / f"{name}_genes.tsv", [(gene, gene) for gene in genes])
        write_lines(tmp_path / f"{name}_barcodes.tsv", cells)
    adata = read_pbmc10k(tmp_path)
    assert adata.shape == (11990, 3346)
    assert adata.obs["batch"].value_counts().to_dict() == {"0": 7983, "1": 4007}
    with (tmp_path / "pbmc4k_barcodes.tsv").open("a") as file:
        file.write(f"{next(name for name in barcodes['pbmc8k'] if name not in repeated)}\n")
    n_cells = len(barcodes["pbmc4k"]) + 1
    ones = (np.ones(n_cells), (np.zeros(n_cells, int), np.arange(n_cells)))
    write_mtx(tmp_path / "pbmc4k_matrix.mtx", csc_matrix(ones, (len(genes), n_cells)))
    adata = read_pbmc10k(tmp_path)
    assert adata.obs["batch"].value_counts().to_dict() == {"0": 7982, "1": 4008}
    assert adata.obs["cell_type"].nunique() == 9
