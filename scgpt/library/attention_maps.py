"""Which gene attends to which, averaged over cells, as a table with gene names.

Shapes: B cells, L tokens including <cls>, H heads, G genes reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
import torch

from scgpt.errors import ConfigError, DataError
from scgpt.library.bar import cell_bar
from scgpt.library.encoder import CellEncoder
from scgpt.library.genes import known_genes
from scgpt.library.opening import open_data
from scgpt.training.determinism import isolated_torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from anndata import AnnData

    from scgpt.library.counts import Values
    from scgpt.library.matching import Duplicates
    from scgpt.library.models import LoadedModel
    from scgpt.library.opening import Opened
    from scgpt.tokens.tokens import TokenizedCells

Kind = Literal["attention", "raw"]
ALL_CELLS = "all"
MOST_SCORES = 1 << 25
"""Scores held at a time, of all cells and heads of a batch."""
BLOCK_ROWS = 512


def attention(
    adata: AnnData,
    model: LoadedModel | str | Path,
    *,
    genes: Iterable[str] | None = None,
    group_by: str | None = None,
    model_layer: int = -1,
    head: int | Literal["mean", "all"] = "mean",
    kind: Kind = "attention",
    include_zero: bool = False,
    max_rows: int = 5_000_000,
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
) -> pd.DataFrame:
    """Average the attention between genes over the cells that have both.

    Parameters
    ----------
    adata, model
        As in `scgpt.embed`.
    genes
        Genes to report, `<cls>` allowed; the cells are shown to the model whole all the same. All
        genes of the data that the model knows by default.
    group_by
        Column of `obs`: average within each of its values. One set named "all" by default.
    model_layer
        Transformer layer, counted from 0, or from the end if negative.
    head
        Number of a head, ``"all"`` for each of them, ``"mean"`` for their average.
    kind
        ``"attention"``: weights after the softmax, over all tokens of the cell. ``"raw"``: products
        of query and key, neither scaled nor normalised, as in the paper's network inference.
    include_zero
        Show the model the genes that a cell does not express too, as in the paper's network
        inference; the data must be subset to `max_length` genes first.
    max_rows
        Refuse to make a longer table.
    layer, values, gene_column, gene_symbols, duplicates, min_matched
        As in `scgpt.embed`.
    batch_size, max_length, device, seed, progress, threads
        As in `scgpt.embed`.

    Returns
    -------
    Table with the columns `cell_set`, `layer`, `head`, `source` (the gene attended to), `target`
    (the gene that attends), `attention` (mean over cells) and `n_cells` (cells with both genes);
    pairs that no cell has are left out.

    Raises
    ------
    DataError
        If the table would be too long, a gene is unknown, or the data cannot be used.
    ConfigError
        If an option is wrong.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Attention-based GRN inference".
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
    if include_zero:
        _check_room(opened.match.gene_ids.size + 1, max_length)
    sets = _cell_sets(adata, group_by)
    maps = _Maps(
        opened.loaded,
        _reported(opened, genes),
        sets.categories.tolist(),
        model_layer=model_layer,
        head=head,
        kind=kind,
        max_rows=max_rows,
    )
    encoder = CellEncoder(
        opened.loaded,
        opened.match.gene_ids,
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
    )
    with (
        isolated_torch(opened.loaded.device, threads=threads),
        cell_bar(opened.matrix.n_cells, "attention", show=progress) as bar,
    ):
        for start in range(0, opened.matrix.n_cells, BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, opened.matrix.n_cells))
            cells = encoder.tokens(opened.cells(rows), include_zero=include_zero)
            maps.add(encoder, cells, sets.codes[rows])
            bar.update(rows.size)
    return maps.table()


class _Maps:
    """Sums of attention between the genes reported, per set of cells and head."""

    def __init__(
        self,
        loaded: LoadedModel,
        genes: list[str],
        sets: list[str],
        *,
        model_layer: int,
        head: int | str,
        kind: Kind,
        max_rows: int,
    ) -> None:
        config = loaded.config
        self.genes, self.sets = genes, sets
        self.layer = _checked_layer(model_layer, config.n_layers)
        self.head, self.heads = _checked_head(head, config.n_heads)
        if kind not in get_args(Kind):
            msg = f"kind is {kind!r}, expected one of {get_args(Kind)}"
            raise ConfigError(msg)
        self.kind, self.scale = kind, (config.d_model // config.n_heads) ** -0.5
        self.place_V = np.full(len(loaded.vocab), -1)
        self.place_V[loaded.vocab.ids(genes)] = np.arange(len(genes))
        shape = (len(sets), len(self.heads), len(genes), len(genes))
        _check_size(shape, max_rows)
        self.sums, self.n_cells = np.zeros(shape), np.zeros((shape[0], *shape[2:]), np.int64)

    def add(self, encoder: CellEncoder, cells: TokenizedCells, codes: np.ndarray) -> None:
        """Add some cells, each to the set that its code names."""
        for rows in _small_batches(cells, encoder):
            ids_BL, scores = self._scores(encoder, cells, rows)
            for cell_ids_L, scores_HLL, code in zip(ids_BL, scores, codes[rows], strict=True):
                place_L = self.place_V[cell_ids_L]
                tokens = np.flatnonzero(place_L >= 0)
                pairs = np.ix_(place_L[tokens], place_L[tokens])
                chosen = scores_HLL[:, tokens][:, :, tokens]
                self.sums[code][:, pairs[0], pairs[1]] += chosen
                self.n_cells[code][pairs] += 1

    @torch.no_grad()
    def _scores(
        self, encoder: CellEncoder, cells: TokenizedCells, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids (B, L) and scores (B, heads reported, L, L)."""
        ids_BL, values_BL, padding_BL = encoder.inputs(cells, rows)
        scores = encoder.network.raw_attention_scores(
            ids_BL, values_BL, padding_BL, layer=self.layer
        )
        if self.kind == "attention":
            scores = scores * self.scale
            if padding_BL is not None:
                scores = scores.masked_fill(padding_BL[:, None, None, :], float("-inf"))
            scores = scores.softmax(dim=-1)
        if self.head == "mean":
            scores = scores.mean(dim=1, keepdim=True)
        elif self.head != "all":
            scores = scores[:, [int(self.head)]]
        return ids_BL.cpu().numpy(), scores.cpu().numpy()

    def table(self) -> pd.DataFrame:
        """Return the means as a long table."""
        # A[target, source]: rows of the scores attend, columns are attended to.
        place = np.nonzero(np.broadcast_to(self.n_cells[:, None] > 0, self.sums.shape))
        sets, heads, targets, sources = place
        n_cells = self.n_cells[sets, targets, sources]
        return pd.DataFrame(
            {
                "cell_set": pd.Categorical.from_codes(sets, self.sets),
                "layer": np.full(sets.size, self.layer),
                "head": pd.Categorical.from_codes(heads, self.heads),
                "source": pd.Categorical.from_codes(sources, self.genes),
                "target": pd.Categorical.from_codes(targets, self.genes),
                "attention": (self.sums[place] / n_cells).astype(np.float32),
                "n_cells": n_cells,
            }
        )


def _reported(opened: Opened, genes: Iterable[str] | None) -> list[str]:
    if genes is None:
        genes = [opened.loaded.vocab.tokens[token] for token in opened.match.gene_ids]
    return known_genes(opened.loaded, genes)


def _check_size(shape: tuple[int, int, int, int], max_rows: int) -> None:
    n_sets, n_heads, n_genes, _ = shape
    n_rows = n_sets * n_heads * n_genes**2
    if n_rows > max_rows:
        msg = (
            f"the table would have {n_rows:,} rows ({n_sets} sets of cells x {n_heads} heads x "
            f"{n_genes} x {n_genes} genes), more than max_rows {max_rows:,}; name fewer genes or "
            "one head, or raise max_rows"
        )
        raise DataError(msg)


def _check_room(n_shown: int, max_length: int) -> None:
    if n_shown > max_length:
        msg = (
            f"include_zero shows the model {n_shown} tokens of every cell, more than max_length "
            f"{max_length}; subset the data to fewer genes first"
        )
        raise DataError(msg)


def _small_batches(cells: TokenizedCells, encoder: CellEncoder) -> Iterator[np.ndarray]:
    """Yield rows, few enough that their L x L scores fit into memory."""
    order = np.argsort(-cells.lengths, kind="stable")
    start = 0
    while start < order.size:
        per_cell = encoder.config.n_heads * int(cells.lengths[order[start]]) ** 2
        stop = start + min(encoder.batch_size, max(1, MOST_SCORES // per_cell))
        yield order[start:stop]
        start = stop


def _cell_sets(adata: AnnData, group_by: str | None) -> pd.Categorical:
    if group_by is None:
        return pd.Categorical([ALL_CELLS] * adata.n_obs)
    if group_by not in adata.obs:
        columns = ", ".join(map(str, adata.obs.columns)) or "none"
        msg = f"obs has no column {group_by!r} (columns: {columns}); name one of them as group_by"
        raise DataError(msg)
    column = adata.obs[group_by]
    if column.isna().any():
        msg = (
            f"obs[{group_by!r}] has {int(column.isna().sum())} missing values; fill them in or "
            "leave those cells out"
        )
        raise DataError(msg)
    return pd.Categorical(column.astype(str))


def _checked_layer(layer: int, n_layers: int) -> int:
    if not -n_layers <= layer < n_layers:
        msg = f"model_layer is {layer}, expected {-n_layers} ... {n_layers - 1}"
        raise ConfigError(msg)
    return layer % n_layers


def _checked_head(head: int | str, n_heads: int) -> tuple[int | str, list[str]]:
    """Return the choice and the names of the heads reported."""
    if head == "mean":
        return head, ["mean"]
    if head == "all":
        return head, [str(number) for number in range(n_heads)]
    if not isinstance(head, int) or not 0 <= head < n_heads:
        msg = f"head is {head!r}, expected 0 ... {n_heads - 1}, 'mean' or 'all'"
        raise ConfigError(msg)
    return head, [str(head)]
