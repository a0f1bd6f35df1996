"""Everything that turns ids, values and labels into vectors before the transformer.

Shapes: B cells, L tokens including <cls>, D width, P batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scgpt.errors import DataError
from scgpt.model.config import LARGEST_VALUE

if TYPE_CHECKING:
    from scgpt.model.config import ScGPTConfig

GENE_INIT_RANGE = 0.1
BATCH_NORM_EPS = 6.1e-5


class NormedTable(nn.Module):
    """A table of vectors with a LayerNorm behind it: genes, batches, modalities, binned values.

    The row `pad_id` gets no gradient. It is a constant, not zero, wherever the table is
    re-initialised after construction, as the official gene table is.
    """

    def __init__(self, n_rows: int, d_model: int, *, pad_id: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(n_rows, d_model, padding_idx=pad_id)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the normalised vectors of `ids`, shape (*ids.shape, D)."""
        return self.norm(self.table(ids))


class ContinuousValueEncoder(nn.Module):
    """Map each number through two linear layers and a LayerNorm."""

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(1, d_model)
        self.linear_2 = nn.Linear(d_model, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values_BL: Tensor) -> Tensor:
        """Return value vectors of shape (B, L, D)."""
        x_BL1 = values_BL.unsqueeze(-1).clamp(max=LARGEST_VALUE)
        return self.dropout(self.norm(self.linear_2(F.relu(self.linear_1(x_BL1)))))

    def combine(self, genes_BLD: Tensor, values_BL: Tensor) -> Tensor:
        """Return the sum of gene and value vectors."""
        return genes_BLD + self(values_BL)


class CategoryValueEncoder(NormedTable):
    """Look each binned value up in a table; padding and mask have rows of their own."""

    def forward(self, values_BL: Tensor) -> Tensor:
        """Return value vectors of shape (B, L, D)."""
        return super().forward(values_BL.long())

    def combine(self, genes_BLD: Tensor, values_BL: Tensor) -> Tensor:
        """Return the sum of gene and value vectors."""
        return genes_BLD + self(values_BL)


class ScalingValueEncoder(nn.Module):
    """Multiply the gene vector by the value itself."""

    def forward(self, values_BL: Tensor) -> Tensor:
        """Return the values with a last axis of size 1."""
        return values_BL.unsqueeze(-1)

    def combine(self, genes_BLD: Tensor, values_BL: Tensor) -> Tensor:
        """Return the gene vectors scaled by their values."""
        return genes_BLD * self(values_BL)


def build_value_encoder(config: ScGPTConfig) -> nn.Module:
    """Return the value encoder that `config.value_encoding` names."""
    if config.value_encoding == "continuous":
        return ContinuousValueEncoder(config.d_model, config.dropout)
    if config.value_encoding == "category":
        return CategoryValueEncoder(
            config.n_value_tokens, config.d_model, pad_id=int(config.pad_value)
        )
    return ScalingValueEncoder()


class PlainBatchNorm(nn.BatchNorm1d):
    """One affine batch normalisation over all positions of all cells, padding included."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, eps=BATCH_NORM_EPS)

    def forward(self, x_BLD: Tensor, batch_labels_B: Tensor | None = None) -> Tensor:
        """Normalise every channel of `x_BLD`; labels are ignored."""
        del batch_labels_B
        return super().forward(x_BLD.transpose(1, 2)).transpose(1, 2)


class DomainBatchNorm(nn.Module):
    """Batch normalisation with separate statistics, and no weights, for each batch (DSBN).

    As in the official model, the label of the **first cell** chooses the statistics for the whole
    mini-batch, and padded positions count. Hence each mini-batch should hold cells of one batch.

    References
    ----------
    Chang et al. 2019, Domain-Specific Batch Normalization, doi:10.1109/CVPR.2019.00753.
    """

    def __init__(self, d_model: int, n_batch_labels: int) -> None:
        super().__init__()
        self.by_batch = nn.ModuleList(
            nn.BatchNorm1d(d_model, eps=BATCH_NORM_EPS, affine=False) for _ in range(n_batch_labels)
        )

    def forward(self, x_BLD: Tensor, batch_labels_B: Tensor | None) -> Tensor:
        """Normalise `x_BLD` with the statistics of the batch of its first cell.

        Raises
        ------
        DataError
            If that batch is none of those the network was built for.
        """
        label = int(batch_labels_B[0])
        if not 0 <= label < len(self.by_batch):
            msg = (
                f"batch {label} has no statistics; this network knows batches 0 to "
                f"{len(self.by_batch) - 1} (DSBN cannot normalise a batch it was not trained on)"
            )
            raise DataError(msg)
        norm = self.by_batch[label]
        return norm(x_BLD.transpose(1, 2)).transpose(1, 2)


def build_input_norm(config: ScGPTConfig) -> nn.Module | None:
    """Return the normalisation of the input embedding, or None."""
    if config.input_norm == "dsbn":
        return DomainBatchNorm(config.d_model, config.n_batch_labels)
    return PlainBatchNorm(config.d_model) if config.input_norm == "batchnorm" else None


def start_gene_table(encoder: NormedTable) -> None:
    """Draw the whole gene table, padding row included, from U(-0.1, 0.1)."""
    with torch.no_grad():
        encoder.table.weight.uniform_(-GENE_INIT_RANGE, GENE_INIT_RANGE)
