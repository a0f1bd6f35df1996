"""Twin of a released checkpoint: the official files with a small network that nobody trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream import save_official
from scgpt.twins import cell_types, world
from scgpt.twins.gene_symbols import gene_symbols
from scgpt.twins.perturbation import ACTIVATED, SCREENED

if TYPE_CHECKING:
    from pathlib import Path

SPECIALS = ("<pad>", "<cls>", "<eoc>")


def write(
    folder: Path,
    *,
    seed: int,
    n_genes: int = 3000,
    d_model: int = 64,
    n_heads: int = 4,
    n_layers: int = 2,
) -> None:
    """Write `best_model.pt`, `args.json` and `vocab.json` with random weights.

    Parameters
    ----------
    folder
        Where to write.
    seed
        Of the weights.
    n_genes
        Size of the vocabulary without special tokens; all genes of the twins are in it.
    d_model, n_heads, n_layers
        Size of the network.
    """
    tables = (value for name, value in vars(cell_types).items() if name.isupper())
    markers = [gene for types in tables for *_, text in types.values() for gene in text.split()]
    first = [*world.world_genes(), *markers, *SCREENED.split(), *ACTIVATED.split()]
    genes = gene_symbols(n_genes, first=list(dict.fromkeys(first)))
    vocab = {token: number for number, token in enumerate([*genes, *SPECIALS])}
    config = ScGPTConfig(
        n_tokens=len(vocab),
        pad_id=vocab["<pad>"],
        d_model=d_model,
        n_heads=n_heads,
        n_layers=n_layers,
        d_ff=d_model,
        gepc="inner product",
        generative=True,
    )
    save_official(folder, ScGPT(config, seed=seed), vocab, {"data_source": "simulated twin"})
