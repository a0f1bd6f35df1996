"""What embedding, attention and generation begin with: data and model matched and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scgpt.errors import DataError
from scgpt.library.counts import MemoryMatrix, Scan, genes_of, scan
from scgpt.library.matching import GeneMatch, match_genes
from scgpt.library.models import LoadedModel, as_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from scipy import sparse

    from scgpt.library.counts import Values
    from scgpt.library.matching import Duplicates


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An AnnData matched with a model, and found fit for it."""

    matrix: MemoryMatrix
    loaded: LoadedModel
    match: GeneMatch
    found: Scan

    def cells(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Return the genes that the model knows of some cells, columns as in `match.gene_ids`."""
        return self.match.select(self.matrix.take(rows))


def open_data(
    adata: AnnData,
    model: LoadedModel | str | Path,
    *,
    layer: str | None,
    values: Values,
    gene_column: str | None,
    gene_symbols: Mapping[str, str] | None,
    duplicates: Duplicates,
    min_matched: float,
    device: str | None,
) -> Opened:
    """Match data and model and check the values; the options are those of `scgpt.embed`.

    Raises
    ------
    DataError
        If the data cannot be used.
    """
    _check_anndata(adata)
    matrix = MemoryMatrix(adata, layer)
    loaded = as_model(model)
    if device is not None:
        loaded.to(device)
    match = match_genes(
        genes_of(adata, layer),
        loaded.vocab,
        gene_column=gene_column,
        gene_symbols=gene_symbols,
        duplicates=duplicates,
        min_matched=min_matched,
    )
    found = scan(matrix, match, values=values)
    return Opened(matrix=matrix, loaded=loaded, match=match, found=found)


def _check_anndata(adata: object) -> None:
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        msg = (
            f"expected an AnnData, found {type(adata).__name__}; read a file with "
            "anndata.read_h5ad, or embed it with scgpt.library.streaming.embed_file"
        )
        raise DataError(msg)
