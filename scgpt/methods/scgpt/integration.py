"""scGPT as an integration method: fine-tuned on the batches, or as it is (zero-shot).

Shapes: B cells, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from scgpt.errors import DataError
from scgpt.library.counts import MemoryMatrix
from scgpt.library.encoder import CellEncoder
from scgpt.library.matching import match_genes
from scgpt.methods.base import Method
from scgpt.methods.predictions import embedding_prediction
from scgpt.methods.scgpt.common import (
    ScGPTParams,
    cell_batches,
    choose_genes,
    fine_tune,
    genes_in_vocabulary,
    left_out_note,
    load_network,
    read_heads,
    start_model,
    unit_length,
)
from scgpt.methods.scgpt.params import NetworkParams
from scgpt.methods.task_data import batches_of, cells_by_name, cells_of, shown, training_cells
from scgpt.model.objectives import ECS_WEIGHT
from scgpt.training.determinism import isolated_torch
from scgpt.training.finetune import FinetuneRecipe

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scgpt.model.receipt import LoadReceipt
    from scgpt.training.batches import CellBatches

# What a pretrained checkpoint lacks, or has in another shape, because it knew no batches.
FRESH = {
    "batch_encoder.*": "the batches of these data",
    "input_norm.*": "normalisation for the batches of these data",
    "gep.expression.0.weight": "its input has the batch beside the gene",
    "gepc.expression.weight": "its input has the batch beside the gene",
    "gep.nonzero.*": "the zero model is not part of pretraining",
    "gepc.*": "the zero model and the batch are not part of pretraining",
    "dar.*": "a classifier for the batches of these data",
    "generation_flag.*": "integration generates nothing",
}


class ScGPTIntegrationParams(ScGPTParams):
    """Parameters of `ScGPTIntegration`; the defaults of the objectives are the published ones."""

    objectives: dict[str, float] = Field(
        default_factory=lambda: {"gep": 1.0, "gepc": 1.0, "ecs": ECS_WEIGHT, "dar": 1.0}
    )
    """Weight of each objective; 0 switches one off."""

    mask_ratio: float = Field(default=0.4, ge=0, lt=1)
    explicit_zero: bool = True
    """Whether `gep` and `gepc` also model the probability of zero."""

    ecs_threshold: float = Field(default=0.8, ge=0, le=1)
    input_norm: Literal["none", "batchnorm", "dsbn"] = "dsbn"
    """`dsbn`: normalise every sequencing batch with statistics of its own."""

    include_zero: bool = True


class ScGPTIntegration(Method):
    """Fine-tune on all batches without labels; the embedding is that of `<cls>`, unit length.

    Attributes
    ----------
    receipt
        What became of every tensor of the checkpoint; None when trained from scratch.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Batch integration".
    """

    Params = ScGPTIntegrationParams
    params: ScGPTIntegrationParams
    receipt: LoadReceipt | None = None

    def fit(self, data: AnnData) -> None:
        """Train on the training cells; keep the epoch that predicts masked values best.

        Raises
        ------
        DataError
            If the batch of a cell is missing, or no gene is in the vocabulary.
        CheckpointError
            If the checkpoint does not fit.
        """
        self.batch_names = np.unique(batches_of(data, np.arange(data.n_obs)))
        recipe = self._recipe()
        genes = choose_genes(data, self.params)
        self.started = start_model(
            self.params,
            self.context,
            genes=genes,
            # A generative network, as the released ones are, has no normalisation of its input.
            options={
                **recipe.model_options(n_batch_labels=len(self.batch_names)),
                "generative": False,
            },
            fresh=FRESH,
        )
        self.receipt = self.started.receipt
        self.genes = genes_in_vocabulary(genes, self.started.vocab)
        self.notes = left_out_note(genes, self.genes)
        sources = [
            self._batches(data, cells, mask_ratio=recipe.mask_ratio, training=number == 0)
            if len(cells)
            else None
            for number, cells in enumerate((training_cells(data), cells_of(data, "valid")))
        ]
        self.notes += self._untrained_note(data)
        selection = "gep" if "gep" in recipe.active and sources[1] is not None else "loss"
        result = fine_tune(
            self.started.model,
            recipe,
            *sources,
            config=self.params.training_config(selection=selection),
            context=self.context,
        )
        self.history = result.history

    def _untrained_note(self, data: AnnData) -> list[str]:
        """Return a note on batches that no training cell is of: nothing is learnt about them."""
        seen = np.unique(batches_of(data, training_cells(data)))
        unseen = np.setdiff1d(self.batch_names, seen)
        if not len(unseen):
            return []
        return [f"no training cell is of batch {shown(unseen)}: embedded untrained"]

    def _recipe(self) -> FinetuneRecipe:
        names = ("mask_ratio", "explicit_zero", "ecs_threshold", "input_norm", "freeze_encoders")
        chosen = {name: getattr(self.params, name) for name in names}
        return FinetuneRecipe(objectives=self.params.objectives, **chosen)

    def predict(self, data: AnnData) -> AnnData:
        """Return the embedding of every cell, unmasked."""
        cells = cells_by_name(data)
        found = read_heads(
            self.started.model,
            self._batches(data, cells, mask_ratio=0.0, training=False),
            heads=("cell_embedding",),
            config=self.params.training_config(),
            context=self.context,
        )
        embedding = unit_length(found["cell_embedding"])
        return embedding_prediction(data, data.obs_names[cells], embedding)

    def _batches(
        self, data: AnnData, cells: np.ndarray, *, mask_ratio: float, training: bool
    ) -> CellBatches:
        codes = codes_of(batches_of(data, cells), self.batch_names)
        return cell_batches(
            data,
            cells,
            started=self.started,
            genes=self.genes,
            params=self.params,
            seed=self.context.seed,
            training=training,
            mask_ratio=mask_ratio,
            batch_labels=codes,
            # Statistics of a batch are those of its own cells alone.
            groups=codes if self.params.input_norm == "dsbn" else None,
        )


class ScGPTZeroShotParams(NetworkParams):
    """Parameters of `ScGPTZeroShot`: the network, and those of `scgpt.embed` with its defaults."""

    batch_size: int = Field(default=64, ge=1)
    max_length: int = Field(default=1200, ge=2)
    """Longest sequence including `<cls>`; longer cells are sampled."""


class ScGPTZeroShot(Method):
    """The embedding of a network as it is: pretrained, or with random weights (`init: scratch`).

    The vectors are those of `scgpt.embed` with the seed of the job. Two refusals of it become
    notes here, so that every cell is scored: few genes that the network knows, and cells that
    express none of them, of which `<cls>` alone is read.

    Attributes
    ----------
    receipt
        What became of every tensor of the checkpoint; None for random weights.

    References
    ----------
    Kedzierska et al. 2025, doi:10.1186/s13059-025-03574-x, who ask for this row.
    """

    Params = ScGPTZeroShotParams
    params: ScGPTZeroShotParams
    receipt: LoadReceipt | None = None

    def fit(self, data: AnnData) -> None:
        """Load the network, or draw its weights; nothing is learnt.

        Raises
        ------
        DataError
            If no gene is in the vocabulary.
        CheckpointError
            If the checkpoint is incomplete.
        """
        genes = np.sort(data.var_names.to_numpy().astype(str))
        self.loaded = load_network(self.params, self.context, genes=genes)
        self.receipt = self.loaded.receipt if self.params.init == "checkpoint" else None
        match = match_genes(data.var, self.loaded.vocab, min_matched=0)
        known = data.var_names.to_numpy().astype(str)[match.place >= 0]
        self.notes = self._fit_notes = left_out_note(genes, known)

    def predict(self, data: AnnData) -> AnnData:
        """Return the embedding of every cell."""
        cells = cells_by_name(data)
        match = match_genes(data.var, self.loaded.vocab, min_matched=0)
        counts = match.select(MemoryMatrix(data, None).take(cells))
        encoder = CellEncoder(
            self.loaded,
            match.gene_ids,
            batch_size=self.params.batch_size,
            max_length=self.params.max_length,
            seed=self.context.seed,
        )
        with isolated_torch(self.context.device, threads=self.context.threads):
            embedding = encoder.encode(encoder.tokens(counts))
        blank = data.obs_names[cells[np.diff(counts.indptr) == 0]]
        self.notes = [*self._fit_notes, *_blank_note(blank, len(cells))]
        return embedding_prediction(data, data.obs_names[cells], embedding)


def _blank_note(blank: pd.Index, n_cells: int) -> list[str]:
    if not len(blank):
        return []
    return [
        f"{len(blank)} of {n_cells} cells express no gene that the model knows and are read from "
        f"<cls> alone: {shown(blank)}"
    ]


def codes_of(batches: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the position of each batch among the known ones.

    Raises
    ------
    DataError
        If one is not known: there are no statistics and no vector for it.
    """
    unknown = np.setdiff1d(batches, known)
    if len(unknown):
        msg = f"batch {str(unknown[0])!r} was not there in fit, which saw {', '.join(known)}"
        raise DataError(msg)
    return np.searchsorted(known, batches)
