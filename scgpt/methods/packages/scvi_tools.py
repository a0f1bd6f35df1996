"""scVI: a variational autoencoder of counts that knows the batch, by the package scvi-tools."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from pydantic import Field

from scgpt.data.contracts import KEY
from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import Method, MethodParams
from scgpt.methods.baselines.embeddings import small_batches_note
from scgpt.methods.packages.isolation import isolated_library
from scgpt.methods.predictions import embedding_prediction
from scgpt.methods.task_data import (
    batches_of,
    cells_by_name,
    lognorm_matrix,
    training_cells,
    variable_genes,
)
from scgpt.training.records import rows

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGERS = ("scvi", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
FEWEST_CELLS = 3  # in a mini-batch: batch normalisation needs two, scvi-tools asks for three
LOSSES = {"elbo": "elbo", "reconstruction_loss": "reconstruction", "kl_local": "kl"}


class SCVIParams(MethodParams):
    """Parameters of `SCVI`; the defaults are the recipe of the benchmark scIB.

    That is two layers, 30 latent dimensions and the negative binomial, trained on all cells
    (Luecken et al. 2022, 10.1038/s41592-021-01336-8; `scib.integration.scvi`). scvi-tools itself
    defaults to one layer, 10 dimensions and the zero-inflated form.
    """

    n_latent: int = Field(default=30, ge=1)
    """Dimensions of the embedding."""

    n_layers: int = Field(default=2, ge=1)
    """Hidden layers of encoder and decoder."""

    n_hidden: int = Field(default=128, ge=1)
    """Width of the hidden layers."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the hidden layers."""

    gene_likelihood: Literal["nb", "zinb", "poisson"] = "nb"
    """Distribution of counts. Log-normalised data get a normal one, and a note."""

    max_epochs: int | None = Field(default=None, ge=1)
    """By default 400, and fewer above 20,000 cells (8 million / cells), as scvi-tools does."""

    batch_size: int = Field(default=128, ge=FEWEST_CELLS)
    """Cells per step."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Of Adam."""

    early_stopping: bool = False
    """Stop when the loss on validation cells, which then do not train, no longer falls."""

    patience: int = Field(default=45, ge=1)
    """Epochs without improvement before early stopping."""


class SCVI(Method):
    """scVI on the highly variable genes, by running scvi-tools itself; X_emb is the latent mean.

    A last mini-batch of one or two cells is left out of an epoch (cells are shuffled anew in every
    epoch), because batch normalisation cannot use it.

    References
    ----------
    Lopez et al. 2018, 10.1038/s41592-018-0229-2; Gayoso et al. 2022, 10.1038/s41587-021-01206-w.
    """

    Params = SCVIParams
    params: SCVIParams

    def fit(self, data: ad.AnnData) -> None:
        """Train on all cells, or on the training cells if validation cells decide when to stop.

        Raises
        ------
        ConfigError
            If scvi-tools is not installed.
        DataError
            If batches, counts or the cells to train on are missing.
        """
        self.notes, self.history = [], []
        self.genes = variable_genes(data)
        self.log_normalised = _value_kind(data) != "counts"
        cells = cells_by_name(data)
        batches = batches_of(data, cells)
        self._add_notes(batches)
        parts = self._parts(data, cells)
        inputs = self._inputs(data, cells)
        if not self.log_normalised and (inputs.X.data % 1 != 0).any():
            self.notes.append("some counts are no whole numbers: scVI takes them as they are")
        with self._isolated() as scvi:
            scvi.model.SCVI.setup_anndata(inputs, batch_key="batch")
            self.model = scvi.model.SCVI(
                inputs,
                n_hidden=self.params.n_hidden,
                n_latent=self.params.n_latent,
                n_layers=self.params.n_layers,
                dropout_rate=self.params.dropout,
                gene_likelihood="normal" if self.log_normalised else self.params.gene_likelihood,
                # The encoder takes the logarithm of counts; these values are logarithms already.
                log_variational=not self.log_normalised,
            )
            self._train(parts)

    def predict(self, data: ad.AnnData) -> ad.AnnData:
        """Return the mean of the latent distribution of every cell."""
        cells = cells_by_name(data)
        with self._isolated():
            embedding = self.model.get_latent_representation(self._inputs(data, cells))
        return embedding_prediction(data, data.obs_names[cells], embedding)

    @contextmanager
    def _isolated(self) -> Iterator[Any]:
        scvi, context = _import(), self.context
        with (
            isolated_library(context.seed, "scvi", device=context.device, threads=context.threads),
            _quiet(),
        ):
            yield scvi

    def _add_notes(self, batches: np.ndarray) -> None:
        if self.log_normalised:
            self.notes.append(
                "the data are log-normalised: scVI, a model of counts, runs on them with a normal "
                "distribution"
            )
        if len(np.unique(batches)) == 1:
            self.notes.append(
                f"all cells are of one batch ({batches[0]}): scVI runs without a batch to correct"
            )
        else:
            self.notes += small_batches_note(batches)

    def _parts(self, data: ad.AnnData, cells: np.ndarray) -> list[np.ndarray]:
        """Return the rows of the sorted cells that train, and those that decide when to stop."""
        training = np.ones(len(cells), dtype=bool)
        if self.params.early_stopping:
            training = np.isin(cells, training_cells(data))
            if training.all():
                msg = "early_stopping needs cells of split 'valid', and there are none"
                raise DataError(msg)
        if training.sum() < FEWEST_CELLS:
            msg = f"scVI needs at least {FEWEST_CELLS} cells to train on, found {training.sum()}"
            raise DataError(msg)
        return [np.flatnonzero(training), np.flatnonzero(~training)]

    def _inputs(self, data: ad.AnnData, cells: np.ndarray) -> ad.AnnData:
        """Return cells and genes in the order of names, with nothing but X and the batch."""
        if self.log_normalised:
            matrix = lognorm_matrix(data, cells, self.genes)
        else:
            columns = data.var_names.get_indexer(self.genes)
            if (columns < 0).any():
                msg = f"{(columns < 0).sum()} genes seen in fit are not in these data"
                raise DataError(msg)
            matrix = sp.csr_matrix(data.X[cells][:, columns], dtype=np.float32)
        obs = pd.DataFrame(
            {"batch": pd.Categorical(batches_of(data, cells))}, index=data.obs_names[cells]
        )
        return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=self.genes))

    def _train(self, parts: list[np.ndarray]) -> None:
        from lightning.pytorch.callbacks import LambdaCallback

        seconds: list[float] = []
        start = time.perf_counter()
        clock = LambdaCallback(
            on_train_epoch_end=lambda *_: seconds.append(time.perf_counter() - start)
        )
        short = len(parts[0]) > self.params.batch_size and (
            0 < len(parts[0]) % self.params.batch_size < FEWEST_CELLS
        )
        self.model.train(
            max_epochs=self.params.max_epochs,
            batch_size=self.params.batch_size,
            early_stopping=self.params.early_stopping,
            early_stopping_patience=self.params.patience,
            datasplitter_kwargs={"external_indexing": list(parts), "drop_last": short},
            plan_kwargs={"lr": self.params.learning_rate},
            callbacks=[clock],
            enable_progress_bar=False,
            # Nothing is written there: there is no logger on disk and no checkpoint.
            default_root_dir=str(self.context.scratch or tempfile.gettempdir()),
            benchmark=False,
            **_accelerator(self.context.device),
        )
        self._record(seconds, len(parts[0]))

    def _record(self, seconds: list[float], n_cells: int) -> None:
        for key, table in self.model.history.items():
            name, _, phase = key.rpartition("_")
            if name not in LOSSES or phase not in ("train", "validation"):
                continue
            for epoch, value in enumerate(table.iloc[:, 0].astype(float)):
                self.history += rows(
                    {LOSSES[name]: value},
                    epoch=epoch,
                    step=epoch + 1,
                    phase="train" if phase == "train" else "valid",
                    seconds=seconds[epoch],
                    cells_per_second=n_cells * (epoch + 1) / seconds[epoch],
                )


def _value_kind(data: ad.AnnData) -> str:
    try:
        return str(data.uns[KEY]["value_kind"])
    except KeyError as error:
        msg = f"uns['{KEY}']['value_kind'] is missing: it says whether X holds counts"
        raise DataError(msg) from error


def _accelerator(device: str) -> dict[str, Any]:
    parsed = torch.device(device)
    if parsed.type == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    return {"accelerator": "gpu", "devices": [parsed.index or 0]}


def _import() -> Any:
    with warnings.catch_warnings():  # the import adds filters
        try:
            import scvi
        except ModuleNotFoundError as error:
            msg = f"scVI needs the package scvi-tools ({error}); install it or leave scVI out"
            raise ConfigError(msg) from error
    return scvi


@contextmanager
def _quiet() -> Iterator[None]:
    """Lower the voice of scvi-tools and Lightning, and give back what they set in PyTorch."""
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = benchmark
