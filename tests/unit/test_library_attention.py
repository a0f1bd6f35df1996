"""Attention between genes as a table: the right numbers under the right names."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import scgpt
from scgpt.errors import ConfigError, DataError
from scgpt.library import attention_maps
from scgpt.library.encoder import CellEncoder

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from toy_model import SYMBOLS, toy_cells, toy_model

GENES = [*SYMBOLS[:6], SYMBOLS[40]]
KEYS = ["cell_set", "head", "source", "target"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cells():
    cells = toy_cells(14)
    cells.obs["type"] = ["a"] * 5 + ["b"] * 9
    return cells


def written_out(cells, model, layer, *, softmax, include_zero=False):
    """Return attention by its definition, one cell at a time: {(cell, target, source): heads}."""
    encoder = CellEncoder(model, model.vocab.ids(SYMBOLS))
    found = {}
    for row in range(cells.n_obs):
        tokens = encoder.tokens(cells.X[row], include_zero=include_zero)
        ids, values = torch.from_numpy(tokens.gene_ids).long()[None], tokens.values[None]
        with torch.no_grad():
            _, x = model.model.embed(ids, torch.from_numpy(values))
            for index in range(layer):
                x, _ = model.model.transformer.layers[index](x)
            attention = model.model.transformer.layers[layer].attention
            q, k, _ = attention.qkv(x)[0].chunk(3, dim=-1)
        n_heads, width = attention.n_heads, q.shape[1] // attention.n_heads
        for head in range(n_heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[:, part] @ k[:, part].T
            scores = (scores / width**0.5).softmax(dim=1) if softmax else scores
            for i, target in enumerate(tokens.gene_ids):
                for j, source in enumerate(tokens.gene_ids):
                    key = (row, model.vocab.tokens[target], model.vocab.tokens[source])
                    found.setdefault(key, []).append(float(scores[i, j]))
    return found


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", ["attention", "raw"])
def test_means_over_the_cells_that_have_both_genes(cells, model, kind, layer):
    table = scgpt.attention(
        cells, model, genes=GENES, model_layer=layer, head="all", kind=kind, group_by="type"
    )
    expected = written_out(cells, model, layer, softmax=kind == "attention")
    assert set(table["layer"]) == {layer}
    for row in table.itertuples():
        members = range(5) if row.cell_set == "a" else range(5, 14)
        values = [
            expected[cell, row.target, row.source][int(row.head)]
            for cell in members
            if (cell, row.target, row.source) in expected
        ]
        assert row.n_cells == len(values)
        assert row.attention == pytest.approx(np.mean(values), rel=1e-4, abs=1e-5)
    pairs = {(target, source) for _, target, source in expected} & {
        (target, source) for target in GENES for source in GENES
    }
    assert set(zip(table["target"], table["source"], strict=True)) == pairs
    assert table.groupby(KEYS, observed=True).size().max() == 1


def test_attention_of_a_gene_to_all_tokens_adds_up_to_one(cells, model):
    one = cells[3].copy()
    table = scgpt.attention(one, model, genes=["<cls>", *SYMBOLS])
    sums = table.groupby("target", observed=True)["attention"].sum()
    assert len(sums) == one.X.nnz + 1
    np.testing.assert_allclose(sums, 1, rtol=1e-5)


def test_one_head_and_the_mean_of_heads(cells, model):
    heads = scgpt.attention(cells, model, genes=GENES, head="all")
    one = scgpt.attention(cells, model, genes=GENES, head=2)
    mean = scgpt.attention(cells, model, genes=GENES)
    np.testing.assert_array_equal(heads.loc[heads["head"] == "2", "attention"], one["attention"])
    averaged = heads.groupby(["source", "target"], observed=True)["attention"].mean()
    np.testing.assert_allclose(
        mean.set_index(["source", "target"])["attention"].sort_index(),
        averaged.sort_index(),
        rtol=1e-4,
    )


def test_zeros_can_be_shown_as_in_network_inference(cells, model):
    few = cells[:2].copy()
    table = scgpt.attention(few, model, genes=GENES, include_zero=True, kind="raw")
    assert set(table["n_cells"]) == {2}
    expected = written_out(few, model, 1, softmax=False, include_zero=True)
    row = table.iloc[11]
    values = [np.mean(expected[cell, row.target, row.source]) for cell in range(2)]
    assert row.attention == pytest.approx(np.mean(values), rel=1e-4)
    with pytest.raises(DataError, match="shows the model 121 tokens .* max_length 100"):
        scgpt.attention(cells, model, genes=GENES, include_zero=True, max_length=100)


def test_neither_batches_nor_order_matter(cells, model, monkeypatch):
    expected = scgpt.attention(cells, model, genes=GENES, group_by="type")
    monkeypatch.setattr(attention_maps, "MOST_SCORES", 50_000)
    monkeypatch.setattr(attention_maps, "BLOCK_ROWS", 4)
    found = scgpt.attention(cells[::-1, ::-1].copy(), model, genes=GENES, group_by="type")
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6)


def test_tables_too_long_to_hold_are_refused_before_any_work(cells, model):
    with pytest.raises(DataError, match=r"115,200 rows \(2 sets of cells x 4 heads x 120 x 120"):
        scgpt.attention(cells, model, head="all", group_by="type", max_rows=100_000)
    assert len(scgpt.attention(cells, model, genes=["<cls>"], max_rows=1)) == 1


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"genes": ["NOGENE"]}, DataError, "1 of 1 genes are not in the model's vocabulary"),
        ({"genes": ["CD4", "CD4"]}, DataError, "CD4 named more than once"),
        ({"group_by": "donor"}, DataError, r"no column 'donor' \(columns: type\)"),
        ({"model_layer": 2}, ConfigError, "model_layer is 2, expected -2 ... 1"),
        ({"head": 4}, ConfigError, "head is 4, expected 0 ... 3"),
        ({"kind": "ranked"}, ConfigError, "kind is 'ranked'"),
    ],
)
def test_wrong_options(cells, model, options, error, complaint):
    with pytest.raises(error, match=complaint):
        scgpt.attention(cells, model, **options)


def test_cells_of_no_group_are_refused(cells, model):
    partly = cells.copy()
    partly.obs["type"] = [None, *cells.obs["type"][1:]]
    with pytest.raises(DataError, match=r"obs\['type'\] has 1 missing values"):
        scgpt.attention(partly, model, group_by="type")
