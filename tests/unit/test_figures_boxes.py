"""Boxes of observed beside predicted changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from scgpt.errors import ContractError
from scgpt.figures.boxes import paired_boxes

NUMBERS = ("low", "q1", "median", "q3", "high")


def changes(conditions=("A", "B+C", "D"), n_genes=3):
    rng = np.random.default_rng(0)
    rows = []
    for condition in conditions:
        for rank in range(1, n_genes + 1):
            for kind in ("predicted", "observed"):
                values = dict(zip(NUMBERS, np.sort(rng.normal(size=5)), strict=True))
                row = {"condition": condition, "gene": f"{condition}_g{rank}", "rank": rank}
                rows.append({**row, "kind": kind, **values, "mean": values["median"], "n": 40})
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


def test_rows_are_the_chosen_conditions_in_order():
    rows = paired_boxes.prepare(changes(), conditions=["D", "absent"], n=2)
    assert list(rows["condition"].unique()) == ["D", "A"]
    assert list(rows["kind"][:2]) == ["observed", "predicted"]
    assert list(rows["rank"][:6]) == [1, 1, 2, 2, 3, 3]


def test_every_box_is_drawn_and_every_gene_named():
    ax = Figure(figsize=(8, 3)).subplots()
    paired_boxes(changes(), ax, n=3)
    assert len(ax.patches) == 3 * 3 * 2
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["A_g1", "A_g2"]
    words = [text.get_text() for text in ax.texts]
    assert words == ["A (n = 40 cells)", "B + C (n = 40 cells)", "D (n = 40 cells)"]


def test_numbers_are_those_drawn():
    table = changes()
    numbers = paired_boxes.numbers(table, n=1)
    expected = table[table["condition"] == "A"].sort_values(["rank", "kind"])
    assert np.allclose(numbers["median"], expected["median"])


def test_several_methods_at_once_are_refused():
    with pytest.raises(ContractError, match="several boxes"):
        paired_boxes.prepare(pd.concat([changes(), changes()]))
