"""Running a trained network over cells, without gradients and without randomness.

Shapes: B cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scgpt.training.optim import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from scgpt.training.batches import CellBatches
    from scgpt.training.config import TrainingConfig

CELL_HEADS = ("cell_embedding", "cls", "dar")


@torch.no_grad()
def run_cell_heads(
    model: nn.Module,
    batches: CellBatches,
    *,
    heads: Sequence[str],
    device: str | torch.device = "cpu",
    config: TrainingConfig | None = None,
) -> dict[str, np.ndarray]:
    """Return what some heads say about every cell.

    Parameters
    ----------
    model
        The network; left in evaluation mode.
    batches
        The cells, each in exactly one batch.
    heads
        Any of `CELL_HEADS`.
    device
        Where to compute.
    config
        Decides the precision; single precision without it.

    Returns
    -------
    Arrays of shape (n_cells, width), float32, in the order of the source's cells.
    """
    device = torch.device(device)
    precision = Precision(device.type, None) if config is None else Precision.choose(config, device)
    model.to(device).eval()
    found: dict[str, np.ndarray] = {}
    for batch in batches.epoch(0):
        moved = batch.to(device)
        with precision.autocast():
            output = model(
                moved.gene_ids_BL,
                moved.values_BL,
                moved.padding_BL,
                batch_labels_B=moved.batch_labels_B,
                heads=heads,
            )
        for head in heads:
            values = output[head].float().cpu().numpy()
            if head not in found:
                found[head] = np.full((len(batches.cells), values.shape[1]), np.nan, np.float32)
            found[head][batch.rows] = values
    return found
