"""Annotation scores against hand-computed cases, scikit-learn, and properties."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from scgpt.errors import DataError
from scgpt.metrics import classification
from scgpt.metrics.registry import compute, metrics_of

# Three annotated types; "NK" is predicted but absent from the query; "mono" is never predicted.
TRUE = ["B", "B", "B", "B", "T", "T", "mono", "mono"]
PREDICTED = ["B", "B", "B", "T", "T", "NK", "T", "T"]
# By hand, in the order B, NK, T, mono.
PRECISION = {"B": 3 / 3, "NK": 0.0, "T": 1 / 4, "mono": 0.0}
RECALL = {"B": 3 / 4, "NK": 0.0, "T": 1 / 2, "mono": 0.0}
F1 = {"B": 6 / 7, "NK": 0.0, "T": 1 / 3, "mono": 0.0}


def scores(true, predicted):
    """Compute every metric as {(metric, group): row}."""
    arrays = {"true_labels": true, "predicted_labels": predicted}
    entries = metrics_of(["scgpt.metrics.classification"], "annotation")
    rows = [row for entry in entries for row in compute(entry, arrays)]
    return {(row["metric"], row["group"]): row for row in rows}


def test_hand_computed_case():
    found = scores(TRUE, PREDICTED)
    expected = {
        "accuracy": 4 / 8,
        "macro_precision": sum(PRECISION.values()) / 4,
        "macro_recall": sum(RECALL.values()) / 4,
        "macro_f1": sum(F1.values()) / 4,
        "balanced_accuracy": (3 / 4 + 1 / 2 + 0) / 3,
    }
    for name, value in expected.items():
        assert found[name, ""]["value"] == pytest.approx(value), name
        assert found[name, ""]["n"] == 8
    for name, values in (("precision", PRECISION), ("recall", RECALL), ("f1", F1)):
        own = {g: row["value"] for (m, g), row in found.items() if m == f"{name}_per_type"}
        assert own == pytest.approx(values)


def test_per_type_rows_count_their_own_cells_and_say_where_zero_is_a_convention():
    found = scores(TRUE, PREDICTED)
    assert {g: r["n"] for (m, g), r in found.items() if m == "recall_per_type"} == {
        "B": 4,
        "NK": 0,
        "T": 2,
        "mono": 2,
    }
    assert {g: r["n"] for (m, g), r in found.items() if m == "precision_per_type"} == {
        "B": 3,
        "NK": 1,
        "T": 4,
        "mono": 0,
    }
    noted = {key for key, row in found.items() if row["note"]}
    assert noted == {
        ("precision_per_type", "mono"),
        ("recall_per_type", "NK"),
        ("f1_per_type", "mono"),
        ("f1_per_type", "NK"),
    }
    assert "no cell was predicted" in found["precision_per_type", "mono"]["note"]
    assert "no cell of this type" in found["recall_per_type", "NK"]["note"]


def test_a_predicted_type_absent_from_the_query_lowers_macro_scores_only():
    with_stranger = scores(TRUE, PREDICTED)
    without = scores(TRUE, ["mono" if name == "NK" else name for name in PREDICTED])
    assert with_stranger["accuracy", ""]["value"] == without["accuracy", ""]["value"]
    assert with_stranger["macro_recall", ""]["value"] == pytest.approx(
        without["macro_recall", ""]["value"] * 3 / 4
    )
    assert with_stranger["balanced_accuracy", ""]["value"] == pytest.approx(
        without["balanced_accuracy", ""]["value"]
    )


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    true = rng.choice(list("abcdef"), 300, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    predicted = np.where(rng.random(300) < 0.7, true, rng.choice(list("abcdefxy"), 300))
    found = scores(true, predicted)
    assert found["accuracy", ""]["value"] == sklearn_metrics.accuracy_score(true, predicted)
    for name in ("precision", "recall", "f1"):
        function = getattr(sklearn_metrics, f"{name}_score")
        expected = function(true, predicted, average="macro", zero_division=0)
        assert found[f"macro_{name}", ""]["value"] == pytest.approx(expected)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = sklearn_metrics.balanced_accuracy_score(true, predicted)
    assert found["balanced_accuracy", ""]["value"] == pytest.approx(expected)


def test_macro_scores_are_the_means_of_their_per_type_rows():
    found = scores(TRUE, PREDICTED)
    for name in ("precision", "recall", "f1"):
        rows = [r["value"] for (m, _), r in found.items() if m == f"{name}_per_type"]
        assert found[f"macro_{name}", ""]["value"] == pytest.approx(np.mean(rows))


def test_perfect_prediction_scores_exactly_one_and_the_order_of_cells_does_not_matter():
    assert all(row["value"] == 1 for row in scores(TRUE, TRUE).values())
    order = np.random.default_rng(0).permutation(len(TRUE))
    shuffled = scores(np.array(TRUE)[order], np.array(PREDICTED)[order])
    assert shuffled == scores(TRUE, PREDICTED)


def test_categories_series_and_plain_lists_score_alike():
    categories = pd.Categorical(TRUE, categories=[*sorted(set(TRUE)), "never seen"])
    series = pd.Series(PREDICTED, index=np.arange(8) + 100, dtype="category")
    assert scores(categories, series) == scores(TRUE, PREDICTED)


def test_bad_labels_are_refused():
    with pytest.raises(DataError, match=r"shape \(3,\) and \(2,\)"):
        classification.accuracy(["a", "b", "c"], ["a", "b"])
    with pytest.raises(DataError, match="1 of 2 annotated labels are missing"):
        classification.macro_f1(pd.Categorical(["a", None]), ["a", "b"])
    with pytest.raises(DataError, match="1 of 2 predicted labels are missing"):
        classification.accuracy(["a", "b"], ["a", float("nan")])


def test_no_cells_is_undefined_not_zero():
    found = scores([], [])
    assert {row["value"] for row in found.values()} == {None}
    assert {row["note"] for row in found.values()} == {"no cell to score"}


def test_every_metric_serves_both_tasks_that_name_cells():
    modules = ["scgpt.metrics.classification"]
    names = [entry.name for entry in metrics_of(modules, "annotation")]
    assert names == [entry.name for entry in metrics_of(modules, "reference_mapping")]
    assert names[:5] == [
        "accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "balanced_accuracy",
    ]
