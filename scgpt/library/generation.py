"""Generate expression for the cells of an AnnData, from their genes or from their embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from scgpt.errors import ConfigError
from scgpt.library.bar import cell_bar
from scgpt.library.encoder import CellEncoder
from scgpt.library.genes import known_genes
from scgpt.library.opening import open_data
from scgpt.model import generate as generation
from scgpt.tokens.tokens import length_buckets
from scgpt.training.determinism import isolated_torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from anndata import AnnData
    from scipy import sparse

    from scgpt.library.counts import Values
    from scgpt.library.matching import Duplicates
    from scgpt.library.models import LoadedModel
    from scgpt.library.opening import Opened
    from scgpt.tokens.tokens import TokenizedCells

Prompt = Literal["genes", "cell"]


def generate(
    adata: AnnData,
    model: LoadedModel | str | Path,
    genes: Iterable[str],
    *,
    prompt: Prompt = "genes",
    n_rounds: int = 1,
    order: generation.Order = "confidence",
    layer: str | None = None,
    values: Values = "counts",
    gene_column: str | None = None,
    gene_symbols: Mapping[str, str] | None = None,
    duplicates: Duplicates = "error",
    min_matched: float = 0.5,
    batch_size: int = 16,
    max_length: int = 1200,
    device: str | None = None,
    seed: int = 0,
    progress: bool = False,
    threads: int | None = None,
) -> AnnData:
    """Predict the binned expression of genes in every cell.

    Parameters
    ----------
    adata
        Cells x genes; left as it is.
    model
        A generative model, as the released pretrained ones are.
    genes
        Symbols of the genes to generate; the data need not have them.
    prompt
        What the model is told about a cell: ``"genes"``, the values of its other genes (those of
        `genes` are hidden before binning), or ``"cell"``, the embedding of the whole cell alone.
    n_rounds, order
        Of `scgpt.model.generate.generate`: genes are revealed to the model in this many rounds,
        ordered by ``"confidence"`` or ``"attention"``.
    layer, values, gene_column, gene_symbols, duplicates, min_matched
        As in `scgpt.embed`.
    batch_size, max_length, device, seed, progress, threads
        As in `scgpt.embed`; `max_length` limits the prompt.

    Returns
    -------
    AnnData of the same cells and the generated genes. `X` holds predictions on the scale of the
    model's bins (0 means not expressed), float32; `layers["round"]` the round of each gene.

    Raises
    ------
    ConfigError
        If the model is not generative or an option is wrong.
    DataError
        If a gene is unknown or the data cannot be used.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods. The official code has no such
    function.
    """
    if prompt not in get_args(Prompt):
        msg = f"prompt is {prompt!r}, expected one of {get_args(Prompt)}"
        raise ConfigError(msg)
    opened = open_data(
        adata,
        model,
        layer=layer,
        values=values,
        gene_column=gene_column,
        gene_symbols=gene_symbols,
        duplicates=duplicates,
        min_matched=min_matched,
        device=device,
    )
    names = known_genes(opened.loaded, genes)
    encoder = CellEncoder(
        opened.loaded,
        opened.match.gene_ids,
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
    )
    with isolated_torch(opened.loaded.device, threads=threads):
        predicted, rounds = _generate(
            opened, encoder, names, prompt, n_rounds=n_rounds, order=order, progress=progress
        )
    return _as_anndata(adata, names, predicted, rounds)


def _generate(
    opened: Opened,
    encoder: CellEncoder,
    names: list[str],
    prompt: Prompt,
    *,
    n_rounds: int,
    order: generation.Order,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and rounds, both (n_cells, n_genes)."""
    wanted = opened.loaded.vocab.ids(names)
    shape = (opened.matrix.n_cells, wanted.size)
    predicted, rounds = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int16)
    unknown_U = torch.from_numpy(wanted).long().to(encoder.device)
    lengths = opened.found.n_expressed
    with cell_bar(shape[0], "generate", show=progress) as bar:
        for rows in length_buckets(lengths, encoder.batch_size):
            inputs, cell_BD = _prompt(encoder, opened.cells(rows), wanted, prompt)
            found = generation.generate(
                encoder.network,
                *inputs,
                unknown_U.expand(rows.size, -1),
                n_rounds=n_rounds,
                order=order,
                cell_prompt_BD=cell_BD,
            )
            predicted[rows] = found.values_BU.cpu().numpy()
            rounds[rows] = found.rounds_BU.cpu().numpy()
            bar.update(rows.size)
    return predicted, rounds


def _prompt(
    encoder: CellEncoder, counts: sparse.csr_matrix, wanted: np.ndarray, prompt: Prompt
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor | None]:
    """Return the tokens that the model is shown, and the cell embeddings if that is the prompt."""
    cells = encoder.tokens(counts)
    if prompt == "cell":
        cell_BD = torch.from_numpy(encoder.cell_embeddings(cells)).to(encoder.device)
        return _inputs(encoder, encoder.tokens(counts.multiply(0).tocsr())), cell_BD
    hidden = np.isin(encoder.gene_ids, wanted)
    shown = counts.copy()
    shown.data[hidden[shown.indices]] = 0
    shown.eliminate_zeros()
    return _inputs(encoder, encoder.tokens(shown)), None


def _inputs(
    encoder: CellEncoder, cells: TokenizedCells
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return encoder.inputs(cells, np.arange(len(cells)))


def _as_anndata(
    adata: AnnData, names: list[str], predicted: np.ndarray, rounds: np.ndarray
) -> AnnData:
    import anndata
    import pandas as pd

    generated = anndata.AnnData(
        predicted, obs=adata.obs.copy(), var=pd.DataFrame(index=pd.Index(names))
    )
    generated.layers["round"] = rounds
    return generated
