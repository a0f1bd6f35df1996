"""scGPT fine-tuned to recognise cell types, from pretrained weights or from scratch.

Shapes: B cells, C classes, D width.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from scgpt.errors import DataError
from scgpt.methods.base import Method
from scgpt.methods.predictions import annotation_prediction
from scgpt.methods.scgpt.common import (
    ScGPTParams,
    cell_batches,
    choose_genes,
    fine_tune,
    genes_in_vocabulary,
    left_out_note,
    read_heads,
    start_model,
    unit_length,
)
from scgpt.methods.task_data import (
    cell_types_of,
    cells_of,
    query_cells,
    training_cells,
)
from scgpt.training.finetune import FinetuneRecipe

if TYPE_CHECKING:
    from anndata import AnnData

    from scgpt.model.receipt import LoadReceipt
    from scgpt.training.batches import CellBatches

logger = logging.getLogger(__name__)


class ScGPTAnnotationParams(ScGPTParams):
    """Parameters of `ScGPTAnnotation`."""

    objectives: dict[str, float] = Field(default_factory=lambda: {"cls": 1.0})
    """Weight of each objective; the published recipe has `cls` alone."""

    mask_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of tokens masked while training, for objectives that predict masked values."""


class ScGPTAnnotation(Method):
    """Fine-tune on the reference with the CLS objective; answer the most probable type.

    Confidence is the softmax probability of the answer; `obsm["X_emb"]` is the cell embedding
    divided by its length. A type that the reference lacks cannot be answered.

    Attributes
    ----------
    receipt
        What became of every tensor of the checkpoint; None when trained from scratch.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Cell type annotation".
    """

    Params = ScGPTAnnotationParams
    params: ScGPTAnnotationParams
    receipt: LoadReceipt | None = None

    def fit(self, data: AnnData) -> None:
        """Train on the training cells and keep the epoch with the lowest validation loss.

        Raises
        ------
        DataError
            If there are fewer than two types, or no gene is in the vocabulary.
        CheckpointError
            If the checkpoint does not fit.
        """
        train_cells, valid_cells = training_cells(data), cells_of(data, "valid")
        labels = [cell_types_of(data, cells) for cells in (train_cells, valid_cells)]
        self.categories = np.unique(np.concatenate(labels))
        if len(self.categories) < 2:
            msg = f"the reference has the single type '{self.categories[0]}'; two are needed"
            raise DataError(msg)
        recipe = self._recipe()
        genes = choose_genes(data, self.params)
        self.started = start_model(
            self.params,
            self.context,
            genes=genes,
            options=self._model_options(recipe),
            fresh={"cls.*": "a new classifier for the cell types of this reference"},
        )
        self.model, _, self.receipt = self.started
        self.genes = genes_in_vocabulary(genes, self.started.vocab)
        self.notes = left_out_note(genes, self.genes)
        sources = [
            self._batches(data, cells, labels=names, training=True) if len(cells) else None
            for cells, names in zip((train_cells, valid_cells), labels, strict=True)
        ]
        config = self.params.training_config()
        self.result = fine_tune(self.model, recipe, *sources, config=config, context=self.context)
        self.history = self.result.history

    def _recipe(self) -> FinetuneRecipe:
        return FinetuneRecipe(
            objectives=self.params.objectives,
            mask_ratio=self.params.mask_ratio,
            freeze_encoders=self.params.freeze_encoders,
        )

    def _model_options(self, recipe: FinetuneRecipe) -> dict[str, object]:
        options = recipe.model_options(n_classes=len(self.categories))
        if self.params.init == "checkpoint":
            # Which other heads there are is the checkpoint's business; they are loaded and unused.
            return {"n_classes": options["n_classes"]}
        return options

    def predict(self, data: AnnData) -> AnnData:
        """Return type, confidence and embedding of the test cells."""
        cells = query_cells(data)
        batches = self._batches(data, cells, labels=None, training=False)
        found = read_heads(
            self.model,
            batches,
            heads=("cls", "cell_embedding"),
            config=self.params.training_config(),
            context=self.context,
        )
        probabilities_BC = softmax(found["cls"])
        embedding_BD = unit_length(found["cell_embedding"])
        as_in_data = np.argsort(cells)
        return annotation_prediction(
            data.obs_names[np.sort(cells)],
            self.categories[probabilities_BC.argmax(axis=1)][as_in_data],
            categories=self.categories,
            confidence=probabilities_BC.max(axis=1)[as_in_data],
            embedding=embedding_BD[as_in_data],
        )

    def _batches(
        self, data: AnnData, cells: np.ndarray, *, labels: np.ndarray | None, training: bool
    ) -> CellBatches:
        return cell_batches(
            data,
            cells,
            started=self.started,
            genes=self.genes,
            params=self.params,
            seed=self.context.seed,
            training=training,
            mask_ratio=self.params.mask_ratio if training else 0.0,
            labels=None if labels is None else np.searchsorted(self.categories, labels),
        )


def softmax(logits_BC: np.ndarray) -> np.ndarray:
    """Return probabilities, in double precision."""
    shifted_BC = logits_BC.astype(np.float64) - logits_BC.max(axis=1, keepdims=True)
    weights_BC = np.exp(shifted_BC)
    return weights_BC / weights_BC.sum(axis=1, keepdims=True)
