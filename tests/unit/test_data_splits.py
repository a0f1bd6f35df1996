"""Splits hang on the names of cells, not on their order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgpt.data.splits import hold_out, split_reference
from scgpt.errors import DataError

NAMES = [f"AAAC{i}-1" for i in range(500)]
LABELS = np.array(["alpha"] * 400 + ["beta"] * 80 + ["mast"] * 15 + ["epsilon"] * 4 + ["t_cell"])


@pytest.mark.parametrize("labels", [None, LABELS])
def test_order_does_not_matter_and_seed_does(labels):
    chosen = hold_out(NAMES, 0.1, labels=labels, seed=1)
    assert chosen.sum() == 50
    order = np.random.default_rng(0).permutation(500)
    names, shuffled = np.array(NAMES)[order], None if labels is None else labels[order]
    np.testing.assert_array_equal(hold_out(names, 0.1, labels=shuffled, seed=1), chosen[order])
    other = hold_out(NAMES, 0.1, labels=labels, seed=2)
    assert other.sum() == 50
    assert (other & chosen).sum() < 20


def test_stratified_shares_are_proportional_and_leave_one_of_each():
    chosen = hold_out(NAMES, 0.3, labels=LABELS, seed=0)
    n = pd.Series(chosen).groupby(LABELS).sum()
    assert chosen.sum() == 150
    assert n.to_dict() == {"alpha": 120, "beta": 24, "mast": 5, "epsilon": 1, "t_cell": 0}
    most = hold_out(["a", "b", "c", "d"], 0.75, labels=["x", "x", "y", "y"])
    assert pd.Series(most).groupby(["x", "x", "y", "y"]).sum().tolist() == [1, 1]


def test_random_split_is_not_stratified():
    shares = [hold_out(NAMES, 0.1, seed=seed)[LABELS == "beta"].sum() for seed in range(40)]
    assert len(set(shares)) > 3
    assert abs(np.mean(shares) - 8) < 1.5


def test_reference_is_divided_and_the_query_tested():
    is_reference = np.arange(500) % 5 > 0
    split = split_reference(NAMES, is_reference, valid_fraction=0.1, seed=3)
    assert list(split.categories) == ["train", "valid", "test"]
    split = pd.Series(split)
    assert (split[~is_reference] == "test").all()
    assert split.value_counts().to_dict() == {"train": 360, "test": 100, "valid": 40}
    # Cells of the query do not decide which reference cells are held out.
    alone = pd.Series(split_reference(np.array(NAMES)[is_reference], np.ones(400, bool), seed=3))
    assert alone.tolist() == split[is_reference].tolist()
    by_type = split_reference(NAMES, is_reference, labels=LABELS, valid_fraction=0.5, seed=3)
    assert set(LABELS[pd.Series(by_type) == "train"]) == set(LABELS[is_reference])


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="'b' is not"):
        hold_out(["a", "b", "b"], 0.4)
    with pytest.raises(DataError, match="to hold out is 1.5"):
        hold_out(NAMES, 1.5)
    with pytest.raises(DataError, match="3 cells cannot be divided"):
        hold_out(["a", "b", "c"], 0.1)
    with pytest.raises(DataError, match="1 cells have no label"):
        hold_out(["a", "b", "c"], 0.4, labels=["x", None, "x"])
