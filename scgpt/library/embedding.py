"""Embed the cells of an AnnData with a pretrained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import scgpt
from scgpt.library.bar import cell_bar
from scgpt.library.counts import blocks
from scgpt.library.encoder import CellEncoder
from scgpt.library.opening import open_data
from scgpt.library.prefetch import one_ahead
from scgpt.training.determinism import isolated_torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData

    from scgpt.library.counts import Scan, Values
    from scgpt.library.encoder import Amp
    from scgpt.library.matching import Duplicates, GeneMatch
    from scgpt.library.models import LoadedModel
    from scgpt.library.opening import Opened

KEY = "X_scgpt"
BLOCK_ROWS = 2048


def embed(
    adata: AnnData,
    model: LoadedModel | str | Path,
    *,
    layer: str | None = None,
    values: Values = "counts",
    gene_column: str | None = None,
    gene_symbols: Mapping[str, str] | None = None,
    duplicates: Duplicates = "error",
    min_matched: float = 0.5,
    key_added: str = KEY,
    batch_size: int = 64,
    max_length: int = 1200,
    device: str | None = None,
    amp: Amp | None = None,
    seed: int = 0,
    copy: bool = False,
    progress: bool = False,
    threads: int | None = None,
) -> AnnData | None:
    """Put a vector for every cell into `adata.obsm`.

    The same cell gets the same vector whatever stands around it: neither batch size nor the order
    of cells or genes, their storage or type of number, or the number of threads matter beyond
    rounding (1e-5).

    Parameters
    ----------
    adata
        Cells x genes.
    model
        What `scgpt.load_model` returned, or a folder.
    layer
        Layer to use instead of `X`; ``"raw"`` for `adata.raw`.
    values
        ``"counts"`` expects raw counts; ``"lognorm"`` accepts normalised values.
    gene_column
        Column of `var` with gene symbols, ``"index"`` for `var_names` alone. By default
        `var_names`, and for names the model does not know, such as Ensembl ids, the first of the
        usual columns (feature_name, gene_symbols, gene_name ...).
    gene_symbols
        Symbols for names that the model does not know, usually Ensembl ids.
    duplicates
        What to do with several genes of one symbol: refuse, or add up their counts.
    min_matched
        Smallest share of the genes that the model has to know.
    key_added
        Key of `obsm`, and of `uns` for the record of what was done.
    batch_size
        Most cells per batch; less memory with fewer.
    max_length
        Most tokens per cell including `<cls>`; of longer cells a sample is used that depends on
        `seed` and on the cell's content. The released models were trained with 1,200.
    device
        Where to compute, and where `model` is left; where it lies already unless given.
    amp
        ``"bf16"`` or, on a GPU, ``"fp16"`` for faster and less exact matrix products.
    seed
        Of the samples of long cells.
    copy
        Return a changed copy and leave `adata` as it is.
    progress
        Show a bar on standard error.
    threads
        CPU threads of PyTorch; as set before unless given.

    Returns
    -------
    None, or the copy. `obsm[key_added]` is an array of shape (n_cells, D), float32, with rows of
    length 1.

    Raises
    ------
    DataError
        If the data cannot be used; the message says how to mend them.
    CheckpointError
        If `model` is a folder that is not a complete model.
    ConfigError
        If an option is wrong.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0.

    Examples
    --------
    >>> scgpt.embed(adata, "scGPT_human", layer="counts")  # doctest: +SKIP
    >>> scanpy.pp.neighbors(adata, use_rep="X_scgpt")  # doctest: +SKIP
    """
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
    encoder = CellEncoder(
        opened.loaded,
        opened.match.gene_ids,
        batch_size=batch_size,
        max_length=max_length,
        amp=amp,
        seed=seed,
    )
    with isolated_torch(opened.loaded.device, threads=threads):
        vectors = _encode_sorted(opened, encoder, progress=progress)
    target = adata.copy() if copy else adata
    target.obsm[key_added] = vectors
    target.uns[key_added] = record(
        opened.loaded,
        opened.match,
        encoder,
        opened.found,
        where=opened.matrix.where,
        values=values,
    )
    return target if copy else None


def _encode_sorted(opened: Opened, encoder: CellEncoder, *, progress: bool) -> np.ndarray:
    """Encode the cells from long to short, so that batches do not depend on their order."""
    n_cells = opened.matrix.n_cells
    vectors = np.empty((n_cells, encoder.config.d_model), dtype=np.float32)
    order = np.lexsort((opened.found.keys, -opened.found.n_expressed))
    pieces = [order[start:stop] for start, stop in blocks(n_cells, BLOCK_ROWS)]
    tokens = one_ahead(lambda rows: encoder.tokens(opened.cells(rows)), pieces)
    with cell_bar(n_cells, "embed", show=progress) as bar:
        for rows, cells in zip(pieces, tokens, strict=True):
            vectors[rows] = encoder.encode(cells)
            bar.update(rows.size)
    return vectors


def record(
    loaded: LoadedModel,
    match: GeneMatch,
    encoder: CellEncoder,
    found: Scan,
    *,
    where: str,
    values: Values,
) -> dict[str, Any]:
    """Return what was done, for `uns`: plain values that an h5ad file can hold."""
    return {
        "scgpt_version": scgpt.__version__,
        "model": loaded.receipt.origin,
        "model_digest": loaded.digest(),
        "vocab_digest": loaded.receipt.vocab_digest,
        "matrix": where,
        "values": values,
        "gene_names": match.source,
        "n_genes": match.n_genes,
        "n_genes_matched": match.n_matched,
        "n_cells_sampled": int((found.n_expressed >= encoder.max_length).sum()),
        "n_bins": encoder.config.n_bins,
        "max_length": encoder.max_length,
        "batch_size": encoder.batch_size,
        "seed": encoder.seed,
        "precision": encoder.amp or "fp32",
        "device": encoder.device.type,
    }
