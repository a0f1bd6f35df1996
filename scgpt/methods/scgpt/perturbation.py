"""scGPT trained to predict the profile of a perturbed cell from that of a control cell.

Shapes: B cells, G measured genes in the vocabulary, U perturbed genes that are not measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from scgpt.data.conditions import CONTROL
from scgpt.data.perturbation_splits import genes_of
from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import Method
from scgpt.methods.perturbation_data import (
    box_statistics,
    count_note,
    perturbed_cells,
    queries_of,
)
from scgpt.methods.predictions import perturbation_prediction
from scgpt.methods.scgpt.common import genes_in_vocabulary, start_model, train_network
from scgpt.methods.scgpt.params import NetworkParams, OptimiserParams
from scgpt.methods.task_data import shown, uniform_by_name
from scgpt.model.perturbation import predict_perturbation
from scgpt.training.config import ADAM_EPS
from scgpt.training.determinism import derive_seed, isolated_torch
from scgpt.training.optim import Precision
from scgpt.training.perturbation import (
    FLAG,
    ConditionScores,
    PairedCells,
    PerturbationBatches,
    PerturbationLoss,
    pair_with_controls,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from scgpt.methods.perturbation_data import PerturbedCells
    from scgpt.model.receipt import LoadReceipt
    from scgpt.training.config import TrainingConfig

# Rows of the published table of flags: not perturbed (stays 0), perturbed, and one without use.
N_FLAGS = 3
NETWORK = {
    "gep": "affine",
    "gepc": None,
    "explicit_zero": False,
    "n_perturbation_flags": N_FLAGS,
    "perturbation_pad_id": 0,
    "n_batch_labels": 0,
    "input_norm": "none",
    "n_classes": 0,
    "dar": False,
    "generative": False,
}
ONLY_ENCODERS = "the recipe loads the encoders of genes and values and the transformer only"
FRESH = {
    "perturbation_encoder.*": "pretraining knows no perturbed genes",
    "gep.*": "a new decoder predicts the change as coefficient and offset",
    **dict.fromkeys(
        ("gepc.*", "cls.*", "dar.*", "generation_flag.*", "batch_encoder.*", "input_norm.*"),
        ONLY_ENCODERS,
    ),
}


class ScGPTPerturbationParams(NetworkParams, OptimiserParams):
    """Parameters of `ScGPTPerturbation`.

    The defaults describe a small network trained from scratch on a few hundred cells on a CPU.
    The published recipe is `init: checkpoint`, `recipe: tutorial`, `learning_rate: 1e-4`,
    `lr_decay: 0.9`, `epochs: 15`, `batch_size: 64`, `patience: 10`, `amp: fp16`.
    `n_bins` is only kept with the network: expression is not binned here.
    """

    recipe: Literal["tutorial", "ours"] = "ours"
    """`tutorial`: the genes of a step are drawn at random, perturbed or not, and the epoch with the
    highest correlation of raw expression is kept. `ours`: the perturbed genes of a batch are
    always among those drawn, and the correlation of changes against control decides."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)

    epochs: int = Field(default=15, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    patience: int | None = Field(default=10, ge=1)

    n_genes_per_step: int = Field(default=1536, ge=1)
    """Genes fed in one training step; predictions use all."""

    n_control_cells: int = Field(default=300, ge=1)
    """Control cells whose predictions are averaged."""

    def training_config(self, **more: Any) -> TrainingConfig:
        """Return the options of the training loop; the recipe decides which epoch is kept."""
        return super().training_config(
            selection="pearson" if self.recipe == "tutorial" else "pearson_delta",
            selection_mode="max",
            # The published recipe of this task keeps PyTorch's default in mixed precision, too.
            adam_eps=ADAM_EPS,
            **more,
        )


class ScGPTPerturbation(Method):
    """The transformer sees a control cell with flags on the perturbed genes, and predicts all.

    Values are log-normalised and not binned. Every perturbed training cell is paired with one
    control cell, drawn by name; control cells are their own pair, without a flag. A perturbed gene
    that is not measured is fed as a token of its own with value 0 and the flag, and not predicted.

    Attributes
    ----------
    receipt
        What became of every tensor of the checkpoint; None when trained from scratch.

    References
    ----------
    Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, "Perturbation response prediction".
    """

    Params = ScGPTPerturbationParams
    params: ScGPTPerturbationParams
    receipt: LoadReceipt | None = None

    def fit(self, data: AnnData) -> None:
        """Train on the training conditions; keep the epoch that predicts validation ones best.

        Raises
        ------
        DataError
            If no gene is in the vocabulary, or no training condition perturbs one that is.
        CheckpointError
            If the checkpoint does not fit.
        ConfigError
            If its network takes binned values.
        """
        self._fit_notes: list[str] = []
        cells = perturbed_cells(data, "train", "valid")
        self.control = perturbed_cells(data, "train").control_mean()
        perturbed = [g for name in {*cells.conditions, *queries_of(data)} for g in genes_of(name)]
        self.model, self.vocab, self.receipt = start_model(
            self.params,
            self.context,
            genes=np.unique([*cells.genes, *perturbed]),
            options=NETWORK,
            fresh=FRESH,
        )
        if self.model.config.value_encoding == "category":
            msg = (
                "this checkpoint has a table of binned values (value_encoding 'category'); the "
                "perturbation model is fed log-normalised values and needs 'continuous'"
            )
            raise ConfigError(msg)
        self.cells = self._in_vocabulary(cells)
        extra = {gene for gene in perturbed if gene in self.vocab} - set(self.genes.tolist())
        self.extra = np.array(sorted(extra), dtype=object)
        tokens = [*self.genes, *self.extra]
        self.column = {str(gene): i for i, gene in enumerate(tokens)}
        self.gene_ids = self.vocab.ids(tokens)
        self._train()

    def _in_vocabulary(self, cells: PerturbedCells) -> PerturbedCells:
        """Keep the genes the network knows, and the cells whose perturbed genes it knows."""
        self.all_genes = cells.genes
        self.genes = genes_in_vocabulary(cells.genes, self.vocab)
        unknown = [str(gene) for gene in cells.genes if gene not in self.vocab]
        if unknown:
            self._fit_notes.append(
                f"{len(unknown)} of {len(cells.genes)} measured genes are not in the vocabulary of "
                f"the model and are answered with the mean control cell: {shown(unknown)}"
            )
        names = sorted(set(cells.conditions.tolist()) - {CONTROL})
        dropped = [name for name in names if any(g not in self.vocab for g in genes_of(name))]
        if len(dropped) == len(names):
            msg = (
                f"each of the {len(names)} conditions seen perturbs a gene that is not in the "
                f"vocabulary of the model: {shown(names)}"
            )
            raise DataError(msg)
        if dropped:
            self._fit_notes.append(
                f"{len(dropped)} of {len(names)} conditions seen perturb a gene that is not in the "
                f"vocabulary of the model and were left out of the training: {shown(dropped)}"
            )
        kept = ~np.isin(cells.conditions, dropped)
        return cells.subset(kept, np.searchsorted(cells.genes, self.genes))

    def _train(self) -> None:
        """Run the training loop."""
        params, context, cells = self.params, self.context, self.cells
        config = params.training_config()
        train_rows, valid_rows = (np.flatnonzero(cells.splits == s) for s in ("train", "valid"))
        # Control cells of a validation split show no change: they cannot select.
        valid_rows = valid_rows[cells.conditions[valid_rows] != CONTROL]
        if not (cells.conditions[train_rows] != CONTROL).any():
            msg = "no training condition perturbs a gene that is in the vocabulary of the model"
            raise DataError(msg)
        self.pool = train_rows[cells.conditions[train_rows] == CONTROL]
        evaluate = None
        if len(valid_rows):
            evaluate = ConditionScores(
                self._pairs(valid_rows),
                cells.conditions[valid_rows],
                cells.mean(self.pool),
                batch_size=params.batch_size,
                device=context.device,
                config=config,
            )
        else:
            self._fit_notes.append(
                "no validation condition: the weights of the last epoch are used"
            )
        batches = PerturbationBatches(
            self._pairs(train_rows),
            batch_size=params.batch_size,
            n_genes=params.n_genes_per_step,
            keep_perturbed=params.recipe == "ours",
            shuffle=True,
            seed=derive_seed(context.seed, "batches"),
        )
        n_all, n_fed = len(self.gene_ids), params.n_genes_per_step
        if params.recipe == "tutorial" and n_fed < n_all:
            self._fit_notes.append(
                f"each training step draws {n_fed} of {n_all} genes at random, so that the flag of "
                f"a perturbed gene is seen in {n_fed / n_all:.0%} of the steps"
            )
        loss = PerturbationLoss()
        self.result = train_network(
            self.model,
            context,
            loss_fn=loss,
            train_batches=batches,
            valid_batches=None,
            config=config,
            evaluate=evaluate,
            fingerprint=f"{loss.fingerprint} {evaluate and evaluate.fingerprint}",
        )
        self.history = self.result.history

    def _pairs(self, rows: np.ndarray) -> PairedCells:
        """Return cells with their control cells; control cells are their own."""
        cells, own = self.cells, self.cells.conditions[rows] == CONTROL
        drawn = pair_with_controls(cells.names[rows], len(self.pool), seed=self.context.seed)
        return PairedCells(
            inputs=cells.values[np.where(own, rows, self.pool[drawn])],
            targets=cells.values[rows],
            flagged=[self._flagged(name) for name in cells.conditions[rows]],
            gene_ids=self.gene_ids,
        )

    def _flagged(self, condition: str) -> np.ndarray:
        """Return the numbers of the perturbed genes that the network knows."""
        found = [self.column[gene] for gene in genes_of(condition) if gene in self.column]
        return np.array(found, dtype=np.intp)

    def predict(self, data: AnnData) -> AnnData:
        """Return the mean prediction over a pool of control cells, and its box plot."""
        queries = [str(name) for name in queries_of(data)]
        pool = self._control_pool()
        found: dict[str, list[np.ndarray]] = {}
        with isolated_torch(self.context.device, threads=self.context.threads):
            for query in queries:
                profiles = self._predict_condition(pool, self._flagged(query))
                parts = {"mean": profiles.mean(axis=0), **box_statistics(profiles)}
                for name, values in parts.items():
                    found.setdefault(name, []).append(self._with_unknown(values))
        self.notes = [*self._fit_notes, *self._query_notes(queries)]
        ordered = {
            name: np.array(rows)[:, np.searchsorted(self.all_genes, data.var_names.astype(str))]
            for name, rows in found.items()
        }
        means = ordered.pop("mean")
        return perturbation_prediction(queries, data.var_names, means, box=ordered)

    def _control_pool(self) -> np.ndarray:
        """Return the expression of the control cells to predict from, float32 (B, G)."""
        names, seed = self.cells.names[self.pool], derive_seed(self.context.seed, "pool")
        order = np.argsort([uniform_by_name(seed, name) for name in names], kind="stable")
        chosen = np.sort(self.pool[order[: self.params.n_control_cells]])
        return self.cells.values[chosen].toarray()

    def _predict_condition(self, pool_BG: np.ndarray, flagged: np.ndarray) -> np.ndarray:
        """Return the prediction for every cell of the pool, float64 of shape (B, G)."""
        import torch

        n_measured, device = pool_BG.shape[1], self.context.device
        extra = flagged[flagged >= n_measured]
        ids = torch.from_numpy(self.gene_ids.astype(np.int64))
        ids = torch.cat([ids[:n_measured], ids[extra]]).to(device)
        flags = torch.zeros(len(ids), dtype=torch.long, device=device)
        flags[[*flagged[flagged < n_measured], *range(n_measured, len(ids))]] = FLAG
        precision = Precision.choose(self.params.training_config(), torch.device(device))
        found, size = [], self.params.batch_size
        for start in range(0, len(pool_BG), size):
            values_BG = torch.from_numpy(pool_BG[start : start + size]).to(device)
            values_BG = torch.nn.functional.pad(values_BG, (0, len(extra)))
            with precision.autocast():
                predicted_BG = predict_perturbation(
                    self.model, ids, values_BG, flags.expand(len(values_BG), -1)
                )
            found.append(predicted_BG[:, :n_measured].cpu().double().numpy())
        return np.concatenate(found)

    def _with_unknown(self, values: np.ndarray) -> np.ndarray:
        """Put predictions among the control means of genes that the network does not know."""
        filled = self.control.copy()
        filled[np.searchsorted(self.all_genes, self.genes)] = values
        return filled

    def _query_notes(self, queries: list[str]) -> list[str]:
        lost = [q for q in queries if any(gene not in self.column for gene in genes_of(q))]
        unmeasured = [
            q for q in queries if any(gene in set(self.extra.tolist()) for gene in genes_of(q))
        ]
        n = len(queries)
        return [
            *count_note(
                lost,
                n,
                "hold a perturbed gene that is not in the vocabulary of the model: predicted "
                "without its flag",
            ),
            *count_note(
                unmeasured,
                n,
                "hold a perturbed gene that is not measured: fed as a token with value 0",
            ),
        ]
