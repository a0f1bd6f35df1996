"""A small model whose vectors differ clearly between cells, and counts to embed with it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from scgpt.library.models import load_model
from scgpt.model.checkpoint import save_checkpoint
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.twins.gene_symbols import gene_symbols

N_GENES = 120
SPECIALS = ("<pad>", "<cls>", "<eoc>")
SYMBOLS = gene_symbols(N_GENES)


def toy_network(**options):
    """Return a network whose attention is far from uniform, as that of a trained one."""
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "d_ff": 32}
    config = ScGPTConfig(
        n_tokens=N_GENES + len(SPECIALS), pad_id=N_GENES, **({"generative": True} | sizes | options)
    )
    network = ScGPT(config, seed=3).eval()
    with torch.no_grad():
        for layer in network.transformer.layers:
            layer.attention.qkv.weight.mul_(4)
        network.gep.expression[4].weight.mul_(60)
        network.gep.expression[4].bias.fill_(20)
    return network


def toy_folder(folder, **options):
    """Write a toy model to `folder` and return the folder."""
    save_checkpoint(folder, toy_network(**options), [*SYMBOLS, *SPECIALS])
    return folder


def toy_model(folder, **options):
    """Return a toy model, loaded from `folder`."""
    return load_model(toy_folder(folder, **options), device="cpu")


def toy_cells(n_cells=60, *, seed=0, n_genes=N_GENES):
    """Return raw counts of cells of very different depth, many of them equal to 1 or 2."""
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.8, (n_cells, 1))
    means = rng.gamma(0.6, 1.0, (1, n_genes))
    counts = rng.poisson(depth * means).astype(np.float32)
    counts[:, 0] += 1
    return ad.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(index=[f"cell{i:03d}" for i in range(n_cells)]),
        var=pd.DataFrame(index=SYMBOLS[:n_genes]),
    )
