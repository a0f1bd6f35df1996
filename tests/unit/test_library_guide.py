"""The guide to the library can be followed to the letter."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import anndata as ad
import numpy as np

import scgpt
from scgpt.library.matching import SYMBOL_COLUMNS

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from toy_model import toy_cells, toy_folder


def test_the_code_of_the_guide_runs(root, tmp_path, monkeypatch, capsys):
    cells = toy_cells(12)
    cells.obs["cell_type"] = ["T", "B"] * 6
    cells.write_h5ad(tmp_path / "cells.h5ad")
    toy_folder(tmp_path / "model")
    guide = (root / "docs" / "library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), names)
    assert "0 missing, 0 reshaped, 0 unused" in capsys.readouterr().out
    assert names["genes"].shape == (120, 32)
    assert set(names["table"]["cell_set"]) == {"T", "B"}
    assert names["made"].var_names.tolist() == ["CD4", "CD8A"]
    assert scgpt.load_model("saved").digest() == names["model"].digest()
    np.testing.assert_array_equal(
        ad.read_h5ad("embedded.h5ad").obsm["X_scgpt"], names["adata"].obsm["X_scgpt"]
    )


def test_the_columns_named_in_the_guide_are_looked_up(root):
    guide = (root / "docs" / "library.md").read_text()
    for column in re.findall(r"symbols of `(\w+)`, `(\w+)`, `(\w+)` \.\.\.", guide)[0]:
        assert column in SYMBOL_COLUMNS
