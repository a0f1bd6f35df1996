"""Gene vectors, and expression generated from prompts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import scgpt
from scgpt.errors import ConfigError, DataError
from scgpt.library.encoder import CellEncoder
from scgpt.model.generate import generate

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from toy_model import SYMBOLS, toy_cells, toy_model

WANTED = [SYMBOLS[90], SYMBOLS[2], SYMBOLS[17]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cells():
    return toy_cells(20)


def test_gene_vectors_are_the_normalised_rows_of_the_table(model):
    found = scgpt.gene_embeddings(model, WANTED)
    table = model.model.gene_encoder.table.weight[model.vocab.ids(WANTED)].detach().numpy()
    centred = table - table.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-4, atol=1e-6)
    assert found.index.tolist() == WANTED
    assert found.to_numpy().dtype == np.float32


def test_all_genes_but_no_special_token_by_default(model):
    assert scgpt.gene_embeddings(model).index.tolist() == SYMBOLS
    assert scgpt.gene_embeddings(model, "CD4").shape == (1, 32)
    with pytest.raises(DataError, match="1 of 2 genes are not in the model's vocabulary: NOGENE"):
        scgpt.gene_embeddings(model, ["CD4", "NOGENE"])


def prompt_of(model, counts, *, hidden=()):
    """Return the tokens of one cell without some genes, binned without them too."""
    shown = [i for i, name in enumerate(SYMBOLS) if counts[i] and name not in hidden]
    edges = np.quantile(counts[shown], np.linspace(0, 1, 50))
    ids = [model.vocab["<cls>"], *model.vocab.ids(np.array(SYMBOLS)[shown])]
    return torch.tensor([ids]), torch.tensor([[-2.0, *np.digitize(counts[shown], edges)]])


@pytest.mark.parametrize("n_rounds", [1, 3])
def test_a_gene_prompt_hides_the_genes_asked_for(cells, model, n_rounds):
    found = scgpt.generate(cells, model, WANTED, n_rounds=n_rounds)
    assert found.obs_names.equals(cells.obs_names)
    assert found.var_names.tolist() == WANTED
    unknown = torch.from_numpy(model.vocab.ids(WANTED)).long()[None]
    for row in (0, 7, 19):
        prompt = prompt_of(model, cells.X[row].toarray()[0], hidden=WANTED)
        expected = generate(model.model, *prompt, None, unknown, n_rounds=n_rounds)
        np.testing.assert_allclose(found.X[row], expected.values_BU[0], rtol=1e-4, atol=1e-4)
        assert found.layers["round"][row].tolist() == expected.rounds_BU[0].tolist()
    # What a cell expresses of the genes asked for must not reach the prediction.
    other = cells.copy()
    other.X = other.X.toarray()
    other.X[:, [90, 2, 17]] = 9
    again = scgpt.generate(other, model, WANTED, n_rounds=n_rounds)
    np.testing.assert_allclose(again.X, found.X, rtol=1e-4, atol=1e-4)


def test_a_cell_prompt_is_the_embedding_of_the_whole_cell(cells, model):
    found = scgpt.generate(cells, model, WANTED, prompt="cell", batch_size=3)
    encoder = CellEncoder(model, model.vocab.ids(SYMBOLS))
    unknown = torch.from_numpy(model.vocab.ids(WANTED)).long()[None]
    cls = torch.tensor([[model.vocab["<cls>"]]]), torch.tensor([[-2.0]])
    for row in (0, 7, 19):
        vector = torch.from_numpy(encoder.cell_embeddings(encoder.tokens(cells.X[row])))
        expected = generate(model.model, *cls, None, unknown, cell_prompt_BD=vector)
        np.testing.assert_allclose(found.X[row], expected.values_BU[0], rtol=1e-4, atol=1e-4)
    assert np.ptp(found.X, axis=0).min() > 0.1


def test_genes_the_data_do_not_have_can_be_generated(cells, model):
    few = cells[:, :80].copy()
    found = scgpt.generate(few, model, [SYMBOLS[100]])
    assert found.shape == (20, 1)
    assert np.isfinite(found.X).all()


def test_what_cannot_be_generated_is_refused(cells, model, tmp_path):
    with pytest.raises(ConfigError, match="prompt is 'text'"):
        scgpt.generate(cells, model, WANTED, prompt="text")
    with pytest.raises(ConfigError, match="n_rounds 0"):
        scgpt.generate(cells, model, WANTED, n_rounds=0)
    with pytest.raises(DataError, match="no gene is named"):
        scgpt.generate(cells, model, [])
    with pytest.raises(DataError, match="vocabulary: NOGENE"):
        scgpt.generate(cells, model, ["NOGENE"])
    with pytest.raises(ConfigError, match="cannot generate"):
        scgpt.generate(cells, toy_model(tmp_path, generative=False), WANTED)
