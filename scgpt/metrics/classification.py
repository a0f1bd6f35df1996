"""Scores of cell type annotation: one predicted label per cell against one annotated label.

Macro averages run over the union of annotated and predicted types, as in the evaluation code of the
paper: a type that is predicted but absent from the query adds a zero. A type that is never
predicted has precision 0, and a type without annotated cells has recall 0 (scikit-learn's
``zero_division=0``), so that each macro score is the plain mean of its per-type rows. The per-type
rows carry a note wherever this convention, not the data, made the value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgpt.errors import DataError, MetricUndefined
from scgpt.metrics.registry import Score, metric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

TASKS = ("annotation", "reference_mapping")
PAPER = "10.1038/s41592-024-02201-0"
MACRO = f"Sokolova & Lapalme 2009, 10.1016/j.ipm.2009.03.002; as used in {PAPER}"
NEVER_PREDICTED = "no cell was predicted as this type: 0 by convention"
NOT_ANNOTATED = "no cell of this type in the query: 0 by convention"


def _labels(
    true_labels: ArrayLike, predicted_labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return both label vectors as text and the sorted union of their types."""
    import pandas as pd

    true = np.asarray(true_labels, dtype=object)
    predicted = np.asarray(predicted_labels, dtype=object)
    if true.ndim != 1 or true.shape != predicted.shape:
        msg = (
            f"expected one annotated and one predicted label per cell, found arrays of shape "
            f"{true.shape} and {predicted.shape}"
        )
        raise DataError(msg)
    if not len(true):
        msg = "no cell to score"
        raise MetricUndefined(msg)
    for name, labels in (("annotated", true), ("predicted", predicted)):
        n_missing = int(pd.isna(labels).sum())
        if n_missing:
            msg = f"{n_missing} of {len(labels)} {name} labels are missing; every cell needs one"
            raise DataError(msg)
    true, predicted = true.astype(str), predicted.astype(str)
    return true, predicted, sorted(set(true) | set(predicted))


def _per_type(
    true_labels: ArrayLike, predicted_labels: ArrayLike
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return types, precision, recall, F1, and numbers of annotated and of predicted cells."""
    from sklearn.metrics import precision_recall_fscore_support

    true, predicted, types = _labels(true_labels, predicted_labels)
    precision, recall, f1, n_true = precision_recall_fscore_support(
        true, predicted, labels=types, average=None, zero_division=0
    )
    n_predicted = np.array([np.count_nonzero(predicted == name) for name in types])
    return types, precision, recall, f1, n_true, n_predicted


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Accuracy",
    reference=f"share of cells; as used in {PAPER}",
)
def accuracy(true_labels: ArrayLike, predicted_labels: ArrayLike) -> float:
    """Share of cells whose predicted type is the annotated one.

    References
    ----------
    10.1038/s41592-024-02201-0
    """
    from sklearn.metrics import accuracy_score

    true, predicted, _ = _labels(true_labels, predicted_labels)
    return float(accuracy_score(true, predicted))


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Macro precision",
    reference=MACRO,
)
def macro_precision(true_labels: ArrayLike, predicted_labels: ArrayLike) -> float:
    """Mean over types of the share of cells predicted as the type that are annotated so.

    References
    ----------
    10.1016/j.ipm.2009.03.002 (macro average); 10.1038/s41592-024-02201-0 (union of types)
    """
    return float(np.mean(_per_type(true_labels, predicted_labels)[1]))


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Macro recall",
    reference=MACRO,
)
def macro_recall(true_labels: ArrayLike, predicted_labels: ArrayLike) -> float:
    """Mean over types of the share of cells annotated as the type that are predicted so.

    References
    ----------
    10.1016/j.ipm.2009.03.002 (macro average); 10.1038/s41592-024-02201-0 (union of types)
    """
    return float(np.mean(_per_type(true_labels, predicted_labels)[2]))


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Macro F1",
    reference=f"mean of per-type F1, Opitz & Burst 2019, arXiv:1911.03347; as used in {PAPER}",
)
def macro_f1(true_labels: ArrayLike, predicted_labels: ArrayLike) -> float:
    """Mean over types of the harmonic mean of the type's precision and recall.

    References
    ----------
    arXiv:1911.03347 (averaged F1, not the F1 of averages); 10.1038/s41592-024-02201-0
    """
    return float(np.mean(_per_type(true_labels, predicted_labels)[3]))


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Balanced accuracy",
    reference="Brodersen et al. 2010, 10.1109/ICPR.2010.764",
)
def balanced_accuracy(true_labels: ArrayLike, predicted_labels: ArrayLike) -> float:
    """Mean recall over the annotated types only: predicted types absent from the query add nothing.

    References
    ----------
    10.1109/ICPR.2010.764
    """
    _, _, recall, _, n_true, _ = _per_type(true_labels, predicted_labels)
    return float(np.mean(recall[n_true > 0]))


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Precision per type",
    reference=MACRO,
)
def precision_per_type(true_labels: ArrayLike, predicted_labels: ArrayLike) -> Mapping[str, Score]:
    """Share of the cells predicted as the type that are annotated so; n counts predicted cells.

    References
    ----------
    10.1016/j.ipm.2009.03.002
    """
    types, precision, _, _, _, n_predicted = _per_type(true_labels, predicted_labels)
    return {
        name: Score(float(value), int(n), "" if n else NEVER_PREDICTED)
        for name, value, n in zip(types, precision, n_predicted, strict=True)
    }


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Recall per type",
    reference=MACRO,
)
def recall_per_type(true_labels: ArrayLike, predicted_labels: ArrayLike) -> Mapping[str, Score]:
    """Share of the cells annotated as the type that are predicted so; n counts annotated cells.

    References
    ----------
    10.1016/j.ipm.2009.03.002
    """
    types, _, recall, _, n_true, _ = _per_type(true_labels, predicted_labels)
    return {
        name: Score(float(value), int(n), "" if n else NOT_ANNOTATED)
        for name, value, n in zip(types, recall, n_true, strict=True)
    }


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="F1 per type",
    reference=MACRO,
)
def f1_per_type(true_labels: ArrayLike, predicted_labels: ArrayLike) -> Mapping[str, Score]:
    """Harmonic mean of precision and recall of the type; n counts annotated cells.

    References
    ----------
    10.1016/j.ipm.2009.03.002
    """
    types, _, _, f1, n_true, n_predicted = _per_type(true_labels, predicted_labels)
    rows = {}
    for name, value, n, n_called in zip(types, f1, n_true, n_predicted, strict=True):
        note = NOT_ANNOTATED if not n else "" if n_called else NEVER_PREDICTED
        rows[name] = Score(float(value), int(n), note)
    return rows
