"""Can a prediction be told from the other conditions? Ranks of the true one by distance.

A prediction of condition i is compared with the measured profiles of i and of another condition j
on the same genes: all but those perturbed in i or j, whose own level would give the answer away.

Shapes: Q conditions, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgpt.errors import DataError, MetricUndefined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

# Two sums of the same terms in another order differ in the last bits.
SAME = 1e-9


def perturbed_columns(
    conditions: ArrayLike, genes: ArrayLike, shape: tuple[int, int]
) -> list[np.ndarray]:
    """Return the columns of the genes that every condition perturbs; those not measured have none.

    Raises
    ------
    DataError
        If the names do not fit profiles of `shape` (Q, G).
    """
    names = [str(name) for name in np.asarray(conditions)]
    column = {str(gene): i for i, gene in enumerate(np.asarray(genes))}
    if (len(names), len(column)) != tuple(shape):
        msg = (
            f"found {len(names)} conditions and {len(column)} different genes for profiles of "
            f"shape {tuple(shape)}"
        )
        raise DataError(msg)
    found = [[column[gene] for gene in name.split("+") if gene in column] for name in names]
    return [np.array(columns, dtype=np.intp) for columns in found]


def discrimination(
    kind: str, predicted: np.ndarray, observed: np.ndarray, perturbed: Sequence[np.ndarray]
) -> np.ndarray:
    """Return 1 - (mid-rank of the own truth, from 0) / (Q - 1) for every condition, shape (Q,).

    Parameters
    ----------
    kind
        `l1`, `l2` or `cosine`. Two profiles of which one is zero have the cosine 0.
    predicted, observed
        Profiles, or changes against control (for the cosine), shape (Q, G).
    perturbed
        Columns that each condition perturbs.

    Raises
    ------
    MetricUndefined
        If there is a single condition.
    """
    n_conditions = len(predicted)
    if n_conditions < 2:
        msg = "a single test condition: there is no other one to tell it from"
        raise MetricUndefined(msg)
    distances = _cosine_distances if kind == "cosine" else _summed_distances
    scores = np.empty(n_conditions)
    for i in range(n_conditions):
        own, other = distances(kind, predicted[i], observed, i, perturbed)
        tied = np.isclose(own, other, rtol=SAME, atol=SAME)
        nearer = (other < own) & ~tied
        tied[i] = nearer[i] = False
        scores[i] = 1 - (nearer.sum() + 0.5 * tied.sum()) / (n_conditions - 1)
    return scores


def _pairwise_sum(
    own_terms: np.ndarray, terms: np.ndarray, i: int, perturbed: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum terms of i (G,) and of all j (Q, G), on the genes left for the pair; both (Q,)."""
    own_terms, terms = own_terms.copy(), terms.copy()
    own_terms[perturbed[i]] = 0
    terms[:, perturbed[i]] = 0
    own = np.full(len(terms), own_terms.sum())
    for j, columns in enumerate(perturbed):
        own[j] -= own_terms[columns].sum()
        terms[j, columns] = 0
    return own, terms.sum(axis=1)


def _summed_distances(
    kind: str, predicted: np.ndarray, observed: np.ndarray, i: int, perturbed: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    difference = np.abs(predicted - observed)
    # The square of a Euclidean distance has the same ranks.
    terms = difference if kind == "l1" else difference**2
    return _pairwise_sum(terms[i], terms, i, perturbed)


def _cosine_distances(
    kind: str, predicted: np.ndarray, observed: np.ndarray, i: int, perturbed: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    del kind
    squares = observed**2
    own_dot, dot = _pairwise_sum(predicted * observed[i], predicted * observed, i, perturbed)
    own_truth, truth = _pairwise_sum(squares[i], squares, i, perturbed)
    length, _ = _pairwise_sum(predicted**2, squares, i, perturbed)
    return -_ratio(own_dot, length * own_truth), -_ratio(dot, length * truth)


def _ratio(dot: np.ndarray, squared_lengths: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.maximum(squared_lengths, 0))
    return np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths > 0)
