"""Scores of perturbation prediction: one predicted mean profile per condition against the measured.

Every score is computed per condition and averaged, over all test conditions (group "") and over
those of each subgroup. Two rules make numbers where there would be none, and both are told in the
note: a prediction that does not change at all has no correlation and scores 0, and a condition
whose measured change says nothing (all zero, or constant) takes part in no average.

Shapes: Q conditions, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scgpt.errors import DataError, MetricUndefined
from scgpt.metrics.discrimination import discrimination, perturbed_columns
from scgpt.metrics.registry import Score, metric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike

TASKS = ("perturbation",)
PAPER = "10.1038/s41592-024-02201-0"
SYSTEMA = "10.1038/s41587-025-02777-8"
DISCRIMINATION = (
    "rank of the true condition by distance, as in Wu et al. 2024, arXiv:2408.10609; every gene "
    "perturbed in one of the two compared conditions is left out"
)
SUBGROUPS = ("unseen_single", "combo_seen0", "combo_seen1", "combo_seen2")
# Profiles are stored in single precision: smaller changes, relative to the largest value of the
# profile, are rounding, and their correlation would be noise.
ROUNDING = 1e-5
N_CHANGED = 20
SHOWN = 3

CONSTANT = "predicted without any change: 0 by convention"
NO_DIRECTION = "predicted without any change: as near to each condition, 0.5 by convention"
UNMEASURABLE = "left out, their measured change is constant"
ALL_ZERO = "left out, no expression was measured"
TOO_FEW = "left out, fewer than two changed genes"
NO_CHANGED = "left out, no changed gene"
ONE_CELL = "measured on a single cell"


class _Values(NamedTuple):
    """A score per condition, shape (Q,), NaN where left out, and which rules met which ones."""

    scores: np.ndarray
    rules: Mapping[str, np.ndarray]


def _profiles(predicted: ArrayLike, observed: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays in double precision; DataError unless they are finite (Q, G) twins."""
    predicted = np.asarray(predicted, dtype=np.float64)
    observed = np.asarray(observed, dtype=np.float64)
    if predicted.ndim != 2 or predicted.shape != observed.shape:
        msg = (
            "expected one predicted and one measured profile per condition, found arrays of shape "
            f"{predicted.shape} and {observed.shape}"
        )
        raise DataError(msg)
    if not len(predicted):
        msg = "no test condition"
        raise MetricUndefined(msg)
    for name, values in (("predicted", predicted), ("measured", observed)):
        n_bad = int((~np.isfinite(values)).any(axis=1).sum())
        if n_bad:
            msg = f"{n_bad} of {len(values)} {name} profiles hold NaN or infinite values"
            raise DataError(msg)
    return predicted, observed


def _against(reference: ArrayLike, predicted: np.ndarray) -> np.ndarray:
    reference = np.asarray(reference, dtype=np.float64)
    if reference.shape != predicted.shape[1:] or not np.isfinite(reference).all():
        msg = f"the reference profile has shape {reference.shape}, expected finite values of "
        msg += f"{predicted.shape[1]} genes"
        raise DataError(msg)
    return reference


def _is_constant(change: np.ndarray, scale: float) -> bool:
    return bool(np.ptp(change) <= ROUNDING * scale)


def _correlations(
    predicted: np.ndarray,
    observed: np.ndarray,
    reference: np.ndarray,
    genes_of: Callable[[int], np.ndarray] | None = None,
) -> _Values:
    """Correlate predicted with measured change of every condition, over all or some genes."""
    n = len(predicted)
    scores = np.full(n, np.nan)
    names = (CONSTANT, UNMEASURABLE, ALL_ZERO, TOO_FEW)
    rules = {name: np.zeros(n, dtype=bool) for name in names}
    for i in range(n):
        genes = slice(None) if genes_of is None else genes_of(i)
        scale = max(np.abs(part).max() for part in (predicted[i], observed[i], reference))
        one, two = (profile[i, genes] - reference[genes] for profile in (predicted, observed))
        if not observed[i].any():
            rules[ALL_ZERO][i] = True
        elif len(two) < 2:
            rules[TOO_FEW][i] = True
        elif _is_constant(two, scale):
            rules[UNMEASURABLE][i] = True
        elif _is_constant(one, scale):
            rules[CONSTANT][i], scores[i] = True, 0.0
        else:
            scores[i] = np.clip(np.corrcoef(one, two)[0, 1], -1.0, 1.0)
    return _Values(scores, rules)


def _by_subgroup(
    values: _Values, subgroups: ArrayLike, cells_per_condition: ArrayLike | None
) -> dict[str, Score]:
    """Average over all conditions and over those of every subgroup."""
    subgroups = np.asarray(subgroups).astype(str)
    if subgroups.shape != values.scores.shape:
        msg = f"subgroups has shape {subgroups.shape}, expected {values.scores.shape}"
        raise DataError(msg)
    rules = dict(values.rules)
    if cells_per_condition is not None:
        rules[ONE_CELL] = np.asarray(cells_per_condition) == 1
    others = sorted(set(subgroups.tolist()) - set(SUBGROUPS))
    members = {"": np.ones(len(subgroups), dtype=bool)}
    members |= {name: subgroups == name for name in (*SUBGROUPS, *others)}
    return {name: _average(values.scores, rules, where) for name, where in members.items()}


def _average(scores: np.ndarray, rules: Mapping[str, np.ndarray], where: np.ndarray) -> Score:
    n_members = int(where.sum())
    if not n_members:
        return Score(None, 0, "no test condition in this subgroup")
    counted = where & ~np.isnan(scores)
    met = ((rule, int((which & where).sum())) for rule, which in rules.items())
    note = "; ".join(f"{n} of {n_members} conditions {rule}" for rule, n in met if n)
    n = int(counted.sum())
    return Score(float(scores[counted].mean()) if n else None, n, note)


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    title="Pearson delta",
    reference=PAPER,
)
def pearson_delta(
    predicted: ArrayLike,
    observed: ArrayLike,
    control: ArrayLike,
    subgroups: ArrayLike,
    cells_per_condition: ArrayLike | None = None,
) -> dict[str, Score]:
    """Correlation over genes of predicted and measured change against the mean control cell.

    It rewards the shift that all perturbations share: the mean of the training conditions can
    stand above a repeat of the experiment.

    References
    ----------
    10.1038/s41592-024-02201-0 (definition); 10.1038/s41587-025-02777-8 (what it rewards)
    """
    predicted, observed = _profiles(predicted, observed)
    values = _correlations(predicted, observed, _against(control, predicted))
    return _by_subgroup(values, subgroups, cells_per_condition)


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    title="Pearson delta, 20 changed genes",
    reference=PAPER,
)
def pearson_delta_de20(
    predicted: ArrayLike,
    observed: ArrayLike,
    control: ArrayLike,
    de_rank: ArrayLike,
    subgroups: ArrayLike,
    cells_per_condition: ArrayLike | None = None,
) -> dict[str, Score]:
    """Correlation of change against control over the 20 genes that change most in the condition.

    The genes are picked with the measured cells, and the perturbed gene may be one of them, as in
    the paper.

    References
    ----------
    10.1038/s41592-024-02201-0
    """
    predicted, observed = _profiles(predicted, observed)
    changed = _changed_genes(de_rank, predicted)
    values = _correlations(
        predicted, observed, _against(control, predicted), lambda i: np.flatnonzero(changed[i])
    )
    return _by_subgroup(values, subgroups, cells_per_condition)


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    title="Pearson, against the perturbed centroid",
    reference=SYSTEMA,
)
def pearson_centroid(
    predicted: ArrayLike,
    observed: ArrayLike,
    centroid: ArrayLike,
    subgroups: ArrayLike,
    cells_per_condition: ArrayLike | None = None,
) -> dict[str, Score]:
    """Correlation of predicted and measured difference from the mean training condition.

    The shared shift is taken away, so that only what is specific to a condition counts. The
    centroid weights every perturbed training condition once and sees no test cell.

    References
    ----------
    10.1038/s41587-025-02777-8
    """
    predicted, observed = _profiles(predicted, observed)
    values = _correlations(predicted, observed, _against(centroid, predicted))
    return _by_subgroup(values, subgroups, cells_per_condition)


@metric(
    task=TASKS,
    higher_is_better=False,
    bounds=(0.0, float("inf")),
    title="Mean squared error, 20 changed genes",
    reference="10.1038/s41587-023-01905-6",
)
def mse_de20(
    predicted: ArrayLike,
    observed: ArrayLike,
    de_rank: ArrayLike,
    subgroups: ArrayLike,
    cells_per_condition: ArrayLike | None = None,
) -> dict[str, Score]:
    """Mean squared error over the 20 genes that change most in the condition.

    References
    ----------
    10.1038/s41587-023-01905-6
    """
    predicted, observed = _profiles(predicted, observed)
    changed = _changed_genes(de_rank, predicted)
    scores = np.full(len(predicted), np.nan)
    for i in np.flatnonzero(changed.any(axis=1)):
        scores[i] = np.mean((predicted[i, changed[i]] - observed[i, changed[i]]) ** 2)
    values = _Values(scores, {NO_CHANGED: ~changed.any(axis=1)})
    return _by_subgroup(values, subgroups, cells_per_condition)


def _changed_genes(de_rank: ArrayLike, predicted: np.ndarray) -> np.ndarray:
    ranks = np.asarray(de_rank)
    if ranks.shape != predicted.shape or ranks.min() < 0:
        msg = (
            f"de_rank has shape {ranks.shape}, expected {predicted.shape}: 0, or the rank of a "
            "changed gene from 1 on"
        )
        raise DataError(msg)
    return (ranks > 0) & (ranks <= N_CHANGED)


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Discrimination (L1)",
    reference=DISCRIMINATION,
)
def discrimination_l1(
    predicted: ArrayLike,
    observed: ArrayLike,
    conditions: ArrayLike,
    genes: ArrayLike,
    subgroups: ArrayLike,
    cells_per_condition: ArrayLike | None = None,
) -> dict[str, Score]:
    """Rank of the true condition by Manhattan distance: 1 nearest, 0 farthest of all.

    A constant prediction does not get exactly 0.5: compare with the controls.

    References
    ----------
    arXiv:2408.10609
    """
    predicted, observed = _profiles(predicted, observed)
    values = _discrimination("l1", predicted, observed, conditions, genes)
    return _by_subgroup(values, subgroups, cells_per_condition)


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Discrimination (L2)",
    reference=DISCRIMINATION,
)
def discrimination_l2(
    predicted: ArrayLike,
    observed: ArrayLike,
    conditions: ArrayLike,
    genes: ArrayLike,
    subgroups: ArrayLike,
    cells_per_condition: ArrayLike | None = None,
) -> dict[str, Score]:
    """Rank of the true condition by Euclidean distance: 1 nearest, 0 farthest of all.

    References
    ----------
    arXiv:2408.10609
    """
    predicted, observed = _profiles(predicted, observed)
    values = _discrimination("l2", predicted, observed, conditions, genes)
    return _by_subgroup(values, subgroups, cells_per_condition)


@metric(
    task=TASKS,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    title="Discrimination (cosine)",
    reference=DISCRIMINATION,
)
def discrimination_cosine(
    predicted: ArrayLike,
    observed: ArrayLike,
    control: ArrayLike,
    conditions: ArrayLike,
    genes: ArrayLike,
    subgroups: ArrayLike,
    cells_per_condition: ArrayLike | None = None,
) -> dict[str, Score]:
    """Rank of the true condition by cosine between changes against control: 1 nearest, 0 farthest.

    References
    ----------
    arXiv:2408.10609
    """
    predicted, observed = _profiles(predicted, observed)
    reference = _against(control, predicted)
    scale = np.maximum(np.abs(predicted).max(axis=1), np.abs(reference).max())
    change, truth = predicted - reference, observed - reference
    still = np.abs(change).max(axis=1) <= ROUNDING * scale
    change[still] = 0
    values = _discrimination("cosine", change, truth, conditions, genes)
    return _by_subgroup(
        values._replace(rules={NO_DIRECTION: still}), subgroups, cells_per_condition
    )


def _discrimination(
    kind: str,
    predicted: np.ndarray,
    observed: np.ndarray,
    conditions: ArrayLike,
    genes: ArrayLike,
) -> _Values:
    perturbed = perturbed_columns(conditions, genes, predicted.shape)
    return _Values(discrimination(kind, predicted, observed, perturbed), {})
