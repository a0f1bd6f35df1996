"""Logistic regression on log-normalised expression, the linear baseline of annotation."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.metrics import log_loss
from sklearn.multiclass import OneVsRestClassifier

from scgpt.errors import DataError
from scgpt.methods.base import Method, MethodParams
from scgpt.methods.predictions import annotation_prediction
from scgpt.methods.task_data import (
    cell_types_of,
    cells_of,
    lognorm_matrix,
    query_cells,
    training_cells,
    variable_genes,
)
from scgpt.training.records import rows

if TYPE_CHECKING:
    import scipy.sparse as sp
    from anndata import AnnData

logger = logging.getLogger(__name__)


class LogisticRegressionParams(MethodParams):
    """Parameters of `LogisticRegression`."""

    penalty: Literal["l1", "l2"] = "l1"
    """`l1`: one sparse classifier per type (coordinate descent, liblinear), the form used
    against scGPT by Boiarsky et al.; `l2`: one multinomial classifier (L-BFGS)."""

    C: float = Field(default=1.0, gt=0)
    """Inverse strength of the penalty."""

    C_grid: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """If given, replaces `C`: the value with the lowest cross-entropy on the validation cells
    wins (the stronger penalty on ties). Validation cells select and never train."""

    scale: Literal["none", "max_abs"] = "none"
    """`max_abs` divides every gene by its largest training value; zeros stay zeros."""

    genes: Literal["highly_variable", "all"] = "highly_variable"
    """Which genes are the features."""

    max_iter: int = Field(default=1000, ge=1)
    """Iterations of the solver. Reaching it is logged and recorded in the history."""


class LogisticRegression(Method):
    """Logistic regression on `layers["lognorm"]`; confidence is the largest probability.

    References
    ----------
    Boiarsky et al., 10.1101/2023.10.19.563100.
    """

    Params = LogisticRegressionParams
    params: LogisticRegressionParams

    def fit(self, data: AnnData) -> None:
        """Fit on the training cells, with C chosen on the validation cells if a grid is given.

        Raises
        ------
        DataError
            If the training cells have a single type, or a grid is given without validation
            cells of a type seen in training.
        """
        cells = training_cells(data)
        labels = cell_types_of(data, cells)
        if len(np.unique(labels)) < 2:
            msg = f"all {len(cells)} training cells are '{labels[0]}'; two types are needed"
            raise DataError(msg)
        self.genes = variable_genes(data, only_highly_variable=self.params.genes != "all")
        self.largest = np.ones(len(self.genes), dtype=np.float32)
        features = lognorm_matrix(data, cells, self.genes)
        if self.params.scale == "max_abs":
            largest = abs(features).max(axis=0).toarray().ravel()
            self.largest = np.where(largest > 0, largest, 1).astype(np.float32)
            features = self._scaled(features)
        self.history = []
        if not self.params.C_grid:
            self.model = self._fit_one(features, labels, self.params.C)
            return
        self._choose(data, features, labels)

    def _choose(self, data: AnnData, features: sp.csr_matrix, labels: np.ndarray) -> None:
        cells = cells_of(data, "valid")
        truth = cell_types_of(data, cells)
        known = np.isin(truth, np.unique(labels))
        if not known.any():
            msg = (
                f"C_grid needs validation cells to choose by; of {len(cells)} validation cells "
                "none has a type seen in training. Give `C` instead, or another split"
            )
            raise DataError(msg)
        valid = self._scaled(lognorm_matrix(data, cells[known], self.genes))
        best = np.inf
        for step, strength in enumerate(sorted(set(self.params.C_grid))):
            model = self._fit_one(features, labels, strength, step=step)
            loss = log_loss(truth[known], model.predict_proba(valid), labels=model.classes_)
            self._record(step, "valid", "cls", loss)
            if loss < best:
                best, self.model, self.chosen = loss, model, strength
        logger.info("chose C=%g (validation cross-entropy %.4f)", self.chosen, best)

    def _fit_one(
        self, features: sp.csr_matrix, labels: np.ndarray, strength: float, *, step: int = 0
    ) -> SklearnLogisticRegression | OneVsRestClassifier:
        start = time.perf_counter()
        options = {
            "C": strength,
            "max_iter": self.params.max_iter,
            # liblinear visits the coordinates in random order.
            "random_state": self.context.seed % 2**32,
        }
        if self.params.penalty == "l1":
            model = OneVsRestClassifier(
                SklearnLogisticRegression(penalty="l1", solver="liblinear", **options)
            )
        else:
            model = SklearnLogisticRegression(penalty="l2", solver="lbfgs", **options)
        model.fit(features, labels)
        fitted = model.estimators_ if self.params.penalty == "l1" else [model]
        iterations = max(int(np.max(one.n_iter_)) for one in fitted)
        loss = log_loss(labels, model.predict_proba(features), labels=model.classes_)
        seconds = time.perf_counter() - start
        converged = iterations < self.params.max_iter
        self._record(step, "train", "cls", loss, seconds=seconds)
        self._record(step, "train", "converged", float(converged))
        if not converged:
            logger.warning(
                "logistic regression (C=%g) did not converge in max_iter=%d iterations; "
                "raise max_iter, lower C, or set scale to max_abs",
                strength,
                self.params.max_iter,
            )
        return model

    def _record(
        self, step: int, phase: str, objective: str, value: float, *, seconds: float = 0.0
    ) -> None:
        self.history += rows({objective: value}, epoch=0, step=step, phase=phase, seconds=seconds)

    def _scaled(self, features: sp.csr_matrix) -> sp.csr_matrix:
        scaled = features.copy()
        scaled.data /= self.largest[scaled.indices]
        return scaled

    def predict(self, data: AnnData) -> AnnData:
        """Answer the most probable type of every test cell."""
        cells = np.sort(query_cells(data))
        features = self._scaled(lognorm_matrix(data, cells, self.genes))
        probabilities = self.model.predict_proba(features)
        return annotation_prediction(
            data.obs_names[cells],
            self.model.classes_[probabilities.argmax(axis=1)],
            categories=self.model.classes_,
            confidence=probabilities.max(axis=1),
        )
