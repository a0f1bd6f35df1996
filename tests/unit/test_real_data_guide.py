"""The conversions of docs/real_data.md give what the data sets of the scale `real` read."""

from __future__ import annotations

import re

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from scgpt.readers.own import read_h5ad

COUNTS = np.array([[3, 0, 1], [0, 2, 5], [1, 1, 0], [4, 0, 2]], dtype=np.float64)
GENES = ["KLF1", "STAT1", "CD86"]


@pytest.fixture
def convert(root, tmp_path, monkeypatch):
    """Return a function that runs the Python part of a section and reads what it wrote."""
    text = (root / "docs/real_data.md").read_text()
    blocks = yaml.safe_load((root / "config/datasets.yaml").read_text())["datasets"]

    def run(heading, name):
        params = blocks[name]["params"]
        path = tmp_path / "real" / params["path"]
        assert f"`{params['path']}`" in text
        path.parent.mkdir(parents=True)
        section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        monkeypatch.chdir(tmp_path)
        exec(re.findall(r"(?s)```python\n(.*?)```", section)[0], {"__name__": "guide"})
        monkeypatch.setenv("SCGPT_LOCAL_DATA", str(tmp_path / "real"))
        return read_h5ad(**params)

    return run


def test_norman(convert, tmp_path):
    obs = {"dataset": ["norman19"] * 3 + ["mcfaline23"], "cell_type": ["k562"] * 3 + ["A172"]}
    obs |= {"condition": ["control", "KLF1", "CD86+STAT1", "control"]}
    source = anndata.AnnData(csr_matrix(np.log1p(COUNTS)), obs=pd.DataFrame(obs))
    source.obs_names, source.var_names = list("abcd"), GENES
    source.write_h5ad(tmp_path / "devel.h5ad")
    adata = convert("Norman, a slice of 500 genes", "norman_slice")
    assert adata.obs["condition"].tolist() == ["control", "KLF1", "CD86+STAT1"]
    assert adata.obs["cell_type"].unique().tolist() == ["K562"]


def test_pbmc(convert, tmp_path):
    mmwrite(tmp_path / "pbmcs.mtx", csr_matrix(np.log1p(COUNTS).T))
    (tmp_path / "pbmcs_genes.txt").write_text("\n".join(GENES) + "\n")
    cells = {"cell_id": list("abcd"), "donor": ["3pv1", "3pv2", "5p", "5p"]}
    cells |= {"nUMI": [9, 8, 7, 6], "cell_type": ["B", "NK", "B", "T_CD4"]}
    pd.DataFrame(cells).to_csv(tmp_path / "pbmcs_cells.tsv", sep="\t", index=False)
    adata = convert("PBMC, three chemistries", "pbmc_3tech")
    assert adata.obs["batch"].tolist() == ["3pv1", "3pv2", "5p", "5p"]
    assert adata.var_names.tolist() == GENES
    np.testing.assert_allclose(adata.X.toarray(), np.log1p(COUNTS), rtol=1e-6)


def test_papalexi(convert, tmp_path):
    mmwrite(tmp_path / "papalexi.mtx", csr_matrix(COUNTS.T))
    guides = np.array([[9, 1, 0], [0, 7, 2], [1, 0, 3], [2, 0, 2]])
    mmwrite(tmp_path / "papalexi_guides.mtx", csr_matrix(guides.T))
    (tmp_path / "papalexi_genes.txt").write_text("\n".join(GENES) + "\n")
    (tmp_path / "papalexi_guides.txt").write_text("STAT1g1\nCD86g2\nNTg1\n")
    (tmp_path / "papalexi_cells.tsv").write_text("bio_rep\nrep_1\nrep_2\nrep_3\nrep_1\n")
    (tmp_path / "papalexi_targets.tsv").write_text(
        "grna_id\tgrna_target\nNTg1\tnon-targeting\nCD86g2\tCD86\nSTAT1g1\tSTAT1\n"
    )
    adata = convert("Papalexi, ECCITE-seq", "papalexi")
    assert adata.obs["condition"].tolist() == ["STAT1", "CD86", "control", "STAT1"]
    assert adata.obs["batch"].tolist() == ["rep_1", "rep_2", "rep_3", "rep_1"]
    assert adata.uns["value_kind"] == "counts"
