"""The gene vectors of a model, without any cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from scgpt.errors import DataError
from scgpt.library.models import as_model

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from scgpt.library.models import LoadedModel

SHOWN = 10


@torch.no_grad()
def gene_embeddings(
    model: LoadedModel | str | Path, genes: Iterable[str] | None = None
) -> pd.DataFrame:
    """Return the vectors by which a model knows genes: the rows of its table after LayerNorm.

    They are what the gene network analysis of the paper starts from; no expression enters.

    Parameters
    ----------
    model
        What `scgpt.load_model` returned, or a folder.
    genes
        Symbols, in the order wanted; all genes of the vocabulary (no special tokens) by default.

    Returns
    -------
    Table of float32, one row per gene, shape (n_genes, D).

    Raises
    ------
    DataError
        If the vocabulary lacks a gene.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Gene regulatory network inference".
    """
    loaded = as_model(model)
    names = known_genes(loaded, genes)
    ids = torch.from_numpy(loaded.vocab.ids(names)).long().to(loaded.device)
    vectors = loaded.model.gene_encoder(ids).float().cpu().numpy()
    return pd.DataFrame(vectors, index=pd.Index(names, name="gene"))


def known_genes(loaded: LoadedModel, genes: Iterable[str] | None) -> list[str]:
    """Return the genes as a list, all of the vocabulary if None.

    Raises
    ------
    DataError
        If none is given, or one is unknown or named twice.
    """
    if genes is None:
        return [token for token in loaded.vocab.tokens if not is_special(token)]
    names = [genes] if isinstance(genes, str) else list(genes)
    if not names:
        msg = "no gene is named; name at least one"
        raise DataError(msg)
    unknown = [str(name) for name in names if name not in loaded.vocab]
    if unknown:
        msg = (
            f"{len(unknown)} of {len(names)} genes are not in the model's vocabulary: "
            f"{', '.join(unknown[:SHOWN])}; leave them out or name them otherwise"
        )
        raise DataError(msg)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        msg = f"{', '.join(twice[:SHOWN])} named more than once; name each gene once"
        raise DataError(msg)
    return names


def is_special(token: str) -> bool:
    """Return whether a token is no gene: padding, cell, end of cell."""
    return token.startswith("<") and token.endswith(">")
