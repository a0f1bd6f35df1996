"""Data cards say what was found, what was published, and where the two differ."""

from __future__ import annotations

import hashlib

import anndata
import numpy as np
import pandas as pd
import pytest

from scgpt.errors import ContractError
from scgpt.files import read_json, write_json
from scgpt.report.render import render_cards
from scgpt.steps import dataset
from scgpt.steps.cards import card_context, compare, division, split_card

EXPECTED = {"n_cells": 100, "n_genes": 50, "n_batches": None, "source": "doi:10.1/x"}


def test_difference_is_a_warning_with_both_numbers():
    rows, warnings = compare({"n_cells": 99, "n_genes": 50}, EXPECTED, comparable=True)
    assert rows == [
        {"count": "n_cells", "found": 99, "expected": 100, "agrees": False},
        {"count": "n_genes", "found": 50, "expected": 50, "agrees": True},
    ]
    assert warnings == ["n_cells: found 99, expected 100 (doi:10.1/x)"]


def test_thinned_sets_and_twins_are_not_compared():
    rows, warnings = compare({"n_cells": 99, "n_genes": 50}, EXPECTED, comparable=False)
    assert [row["agrees"] for row in rows] == [None, None]
    assert warnings == []


def test_count_that_cannot_be_made_is_a_difference():
    rows, warnings = compare({"n_cells": None}, {"n_cells": 100}, comparable=True)
    assert rows[0]["agrees"] is False
    assert len(warnings) == 1


def test_division_of_cells_does_not_depend_on_their_order():
    obs = pd.DataFrame({"subset": ["reference", "query", "query"]}, index=["a", "b", "c"])
    adata = anndata.AnnData(np.ones((3, 2), dtype=np.float32), obs=obs)
    table = division(adata)
    pd.testing.assert_frame_equal(table, division(adata[::-1]))
    assert table["unit"].tolist() == ["a", "b", "c"]
    assert table["subgroup"].tolist() == ["", "", ""]
    expected = {"of": "cells", "sizes": {"query": 2, "reference": 1}, "sha256": "x"}
    assert split_card(table, "x") == expected


def test_whole_set_has_no_division():
    table = division(anndata.AnnData(np.ones((3, 2), dtype=np.float32)))
    assert list(table.columns) == ["unit", "subset", "subgroup"]
    assert split_card(table, "x") is None


def card(**changes):
    return {
        "title": "A <set>",
        "kind": "download",
        "twin": False,
        "source": "download: reader",
        "license": "CC BY 4.0",
        "reference": "10.1000/abc",
        "notes": ["A note."],
        "warnings": ["n_cells: found 1, expected 2 (x)"],
        "found": {"n_cells": 1, "n_genes": 5, "n_cell_types": 2, "n_batches": 1},
        "checks": [{"count": "n_cells", "found": 1, "expected": 2, "agrees": False}],
        "files": {"a.h5ad": {"sha256": "a" * 64, "size": 12345, "url": "https://x.org/a"}},
        "split": {"sizes": {"reference": 1}, "sha256": "b" * 64},
    } | changes


def page(*cards):
    return {
        "title": "Data cards",
        "scale": {"name": "tiny", "description": "Small."},
        "date": "today",
        "datasets": [
            {**card_context(f"set{i}", each), "notes": each["notes"]}
            for i, each in enumerate(cards)
        ],
    }


def test_page_shows_everything_a_reader_asks_for():
    html = render_cards(page(card()))
    for text in (
        "A &lt;set&gt;",
        "CC BY 4.0",
        "https://doi.org/10.1000/abc",
        "A note.",
        "Warning: n_cells: found 1, expected 2 (x)",
        "a" * 16,
        "12,345",
        "https://x.org/a",
        "reference 1 cells",
        "b" * 64,
        "cells",
    ):
        assert text in html, text
    assert "Simulated." not in html
    assert "<script" not in html


def test_twins_are_marked_and_cards_without_files_are_fine():
    html = render_cards(page(card(twin=True), card(kind="simulated", files={}, split=None)))
    assert html.count("Simulated.") == 2
    assert html.count("served by this machine in place of these addresses") == 1
    assert "Files fetched" in render_cards(page(card()))


def test_wrong_context_is_refused():
    wrong = page(card())
    wrong["datasets"][0]["checks"] = [{"count": "x"}]
    with pytest.raises(ContractError, match=r"datasets\.0\.checks\.0\.found: Field required"):
        render_cards(wrong)


@pytest.fixture
def made(tmp_path):
    """Return a function that runs the step on a small downloaded file and returns its card."""
    counts = np.random.default_rng(0).poisson(2.0, (30, 12)).astype(np.float32) + 1
    obs = pd.DataFrame({"type": list("ab") * 15}, index=[f"c{i}" for i in range(30)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(12)])
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(tmp_path / "x.h5ad")
    entry = {"sha256": "c" * 64, "size": 9, "url": "https://x.org/x.h5ad"}
    write_json(tmp_path / "raw.json", {"files": {"x.h5ad": entry}})

    def make(**limits):
        spec = {
            "dataset": "x",
            "reader": "scgpt.readers.h5ad:read_h5ad_files",
            "params": {
                "parts": {"x.h5ad": "reference"},
                "columns": {"cell_type": "type"},
                "value_kind": "lognorm",
            },
            "limits": {"max_cells": None, "max_genes": None} | limits,
            "expected": {
                "n_cells": 30,
                "n_genes": 13,
                "n_reference": 31,
                "n_reference_types": 3,
                "source": "the paper",
            },
            "kind": "download",
            "twin": False,
            "notes": [],
            **dict.fromkeys(("title", "reference", "license"), "x"),
        }
        dataset.run(
            spec,
            output=tmp_path / "out.h5ad",
            card=tmp_path / "card.json",
            split=tmp_path / "split.tsv",
            raw=tmp_path,
            record=tmp_path / "raw.json",
        )
        return read_json(tmp_path / "card.json")

    return make


def test_step_names_what_differs_from_the_paper(made):
    card = made()
    assert card["warnings"] == [
        "declared lognorm, but the file holds whole numbers: used as counts",
        "n_genes: found 12, expected 13 (the paper)",
        "n_reference: found 30, expected 31 (the paper)",
        "n_reference_types: found 2, expected 3 (the paper)",
    ]
    assert {row["count"]: row["agrees"] for row in card["checks"]} == {
        "n_cells": True,
        "n_genes": False,
        "n_reference": False,
        "n_reference_types": False,
    }
    assert card["value_kind"] == "counts"
    assert card["files"]["x.h5ad"]["url"] == "https://x.org/x.h5ad"
    assert not card["limited"]


def test_division_is_a_file_and_its_digest_is_on_the_card(made, tmp_path):
    card = made()
    text = (tmp_path / "split.tsv").read_text()
    lines = text.splitlines()
    assert lines[:2] == ["unit\tsubset\tsubgroup", "c0\treference\t"]
    assert len(lines) == 31
    assert card["split"] == {
        "of": "cells",
        "sizes": {"reference": 30},
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def test_limits_that_cut_nothing_do_not_stop_the_comparison(made):
    assert not made(max_cells=1000)["limited"]
    cut = made(max_cells=20)
    assert cut["limited"]
    assert cut["found"]["n_cells"] == 20
    assert all(row["agrees"] is None for row in cut["checks"])
