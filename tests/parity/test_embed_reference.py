"""Cell embeddings equal those of the official code, given the same genes and values."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgpt
from scgpt.library.encoder import CellEncoder
from scgpt.library.streaming import embed_file
from scgpt.tokens.tokens import TokenizedCells

GOLDEN = Path(__file__).parents[1] / "golden" / "model" / "base_cls_mvc_ecs_cce"
TOLERANCE = 1e-5


@pytest.fixture
def reference(shared_dir):
    """Return data as they went into the official function, its result, and the model's folder."""
    with np.load(shared_dir / "reference/data/data_main.npz", allow_pickle=False) as stored:
        counts, expected = stored["embed.X"], stored["embed.X_scGPT"]
    # In that run every tenth gene was not in the vocabulary.
    names = [f"{'OTHER' if i % 10 == 0 else 'GENE'}{i}" for i in range(counts.shape[1])]
    cells = ad.AnnData(counts, var=pd.DataFrame(index=names))
    return cells, expected, shared_dir / "reference/model/pretrain_generative"


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_embed_equals_the_official_function(reference, batch_size):
    cells, expected, folder = reference
    scgpt.embed(cells, folder, values="lognorm", batch_size=batch_size, device="cpu")
    np.testing.assert_allclose(cells.obsm["X_scgpt"], expected, rtol=0, atol=TOLERANCE)


def test_embed_file_equals_the_official_function(reference, tmp_path):
    cells, expected, folder = reference
    cells.write_h5ad(tmp_path / "in.h5ad")
    embed_file(tmp_path / "in.h5ad", folder, tmp_path / "out.h5ad", values="lognorm", device="cpu")
    found = ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_scgpt"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_bins_are_cut_among_the_genes_of_the_vocabulary(reference):
    # The same genes with the unknown ones renamed to known ones shift the bins and the result.
    cells, expected, folder = reference
    cells.var_names = [f"GENE{i}" for i in range(cells.n_vars)]
    scgpt.embed(cells, folder, values="lognorm", device="cpu")
    assert np.abs(cells.obsm["X_scgpt"] - expected).max() > 100 * TOLERANCE


def test_stored_tokens_give_the_official_cell_embedding():
    # Cells of different length with padding, through batches, tables and the short last layer.
    with np.load(GOLDEN / "io.npz") as stored:
        ids, values, padding = stored["in.src"], stored["in.values"], stored["in.pad_mask"]
        expected = stored["slow.cell_emb"]
    assert padding.any()
    lengths = (~padding).sum(axis=1)
    cells = TokenizedCells(
        indptr=np.concatenate([[0], np.cumsum(lengths)]),
        gene_ids=ids[~padding].astype(np.int32),
        values=values[~padding].astype(np.float32),
    )
    model = scgpt.load_model(GOLDEN, device="cpu")
    for batch_size in (1, 2, 64):
        encoder = CellEncoder(model, np.arange(3, dtype=np.int32), batch_size=batch_size)
        found = encoder.cell_embeddings(cells)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        found = encoder.encode(cells)
        unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found, unit, rtol=0, atol=TOLERANCE)
