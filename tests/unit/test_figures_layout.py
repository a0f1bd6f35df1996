"""Figures from declarations: rows, letters, shared colours, drawn numbers, reproducible files."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from scgpt.errors import ConfigError, ContractError
from scgpt.figures.layout import draw, drawn_numbers
from scgpt.figures.style import CONTROLS, method_colours, save

UMAP = "scgpt.figures.umap:umap"
BARS = "scgpt.figures.bars:grouped_bars"


@pytest.fixture
def tables():
    """Return cells of two data sets and scores."""
    rng = np.random.default_rng(1)
    cells = pd.DataFrame(
        {
            "dataset": np.repeat(["a", "b"], 30),
            "seed": 0,
            "x": rng.normal(size=60),
            "y": rng.normal(size=60),
            "annotated": [*["B", "T"] * 15, *["T", "mono"] * 15],
            "predicted": [*["NK", "T"] * 15, *["T", "mono"] * 15],
        }
    )
    scores = pd.DataFrame({"metric": "f1", "method": ["scgpt", "linear"], "mean": [0.8, 0.7]})
    return {"cells": cells, "scores": scores.assign(standard_error=0.1)}


def panel(dataset="a", label="annotated", **more):
    """Return the declaration of a UMAP panel."""
    return {
        "plot": UMAP,
        "table": "cells",
        "where": {"dataset": dataset},
        "options": {"label": label, "legend": False},
    } | more


def axes_of(figure):
    """Return all axes, in panel order."""
    return [ax for band in figure.subfigs for cell in band.subfigs for ax in cell.axes]


def drawn_colours(ax):
    """Return the colours of the points of a panel."""
    return {to_hex(colour) for colour in ax.collections[0].get_facecolors()}


def test_panels_flow_into_rows_of_their_declared_width(tables):
    spec = {
        "width": 8,
        "columns": 4,
        "panels": [
            panel(span=2, height=2),
            panel(span=2, height=3, letter=False),
            panel(span=1, height=1.5),
        ],
    }
    figure = draw(spec, tables)
    assert figure.get_size_inches().tolist() == [8, 4.5]
    inches = [
        (cell.bbox.width / figure.dpi, cell.bbox.height / figure.dpi)
        for band in figure.subfigs
        for cell in band.subfigs
        if cell.axes
    ]
    assert inches == [pytest.approx(size, rel=0.02) for size in [(4, 3), (4, 3), (2, 1.5)]]
    letters = [t.get_text() for band in figure.subfigs for cell in band.subfigs for t in cell.texts]
    assert letters == ["a", "b"]


def test_panels_do_not_overlap(tables):
    figure = draw({"panels": [panel(span=6), panel("b", span=6), panel(title="Third")]}, tables)
    boxes = [ax.get_tightbbox() for ax in axes_of(figure)]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])
        assert figure.bbox.containsx(one.x0)
        assert figure.bbox.containsx(one.x1)


def test_a_type_has_one_colour_in_all_panels_of_a_data_set(tables):
    spec = {"panels": [panel(), panel(label="predicted"), panel("b")]}
    annotated, predicted, other = axes_of(draw(spec, tables))
    # Types B, NK, T in this order; annotated holds B and T, predicted NK and T.
    assert len(drawn_colours(annotated) & drawn_colours(predicted)) == 1
    assert len(drawn_colours(annotated) | drawn_colours(predicted)) == 3
    assert len(drawn_colours(other)) == 2


def test_given_colours_and_titles_win(tables):
    colours = {"scgpt": "#123456", "linear": "#654321"}
    spec = {"panels": [{"plot": BARS, "table": "scores"}]}
    (ax,) = axes_of(draw(spec, tables, colours=colours, titles={"f1": "Macro F1"}))
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == ["#123456", "#654321"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Macro F1"]


def test_method_colours_follow_declaration_and_spend_none_on_controls():
    roles = {"scgpt": "method", "majority": "negative_control", "linear": "method"}
    colours = method_colours(roles)
    assert colours["majority"] == CONTROLS["negative_control"]
    assert colours | {"new": method_colours(roles | {"new": "method"})["new"]} == method_colours(
        roles | {"new": "method"}
    )
    assert len(set(colours.values())) == 3


def test_panels_of_another_palette_number_their_categories_anew(tables):
    numbered = {"legend": False, "numbers": True}
    apart = [
        panel(options={"label": "annotated", **numbered}),
        panel(options={"label": "predicted", **numbered}, palette="predictions"),
    ]
    first, second = axes_of(draw({"panels": apart}, tables))
    assert drawn_colours(first) == drawn_colours(second)
    together = [{**entry, "palette": ""} for entry in apart]
    first, second = axes_of(draw({"panels": together}, tables))
    assert drawn_colours(first) != drawn_colours(second)
    assert {text.get_text() for text in second.texts} == {"2", "3"}


def test_drawn_numbers_are_the_drawn_rows(tables):
    spec = {
        "panels": [
            panel(),
            panel(label="predicted", letter=False),
            {"plot": BARS, "table": "scores"},
        ]
    }
    numbers = drawn_numbers(spec, tables)
    assert numbers.groupby("panel").size().to_dict() == {"a": 30, "a2": 30, "b": 2}
    first = numbers[numbers["panel"] == "a"]
    cells = tables["cells"]
    assert first["x"].tolist() == cells.loc[cells["dataset"] == "a", "x"].tolist()
    bars = numbers[numbers["panel"] == "b"].set_index("hue")
    assert bars["mean"].to_dict() == {"scgpt": 0.8, "linear": 0.7}


def test_where_takes_lists_and_compares_numbers_with_text(tables):
    spec = {"panels": [panel(where={"dataset": ["a", "b"], "seed": "0"})]}
    assert len(drawn_numbers(spec, tables)) == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "cell"}, r"no table 'cell'; known tables: \['cells', 'scores'\]"),
        ({"where": {"study": "a"}}, "has no column 'study'"),
        ({"where": {"dataset": "c"}}, r"dataset = 'c'; it has \['a', 'b'\]"),
        ({"options": {"label": "type"}}, r"lacks columns \['type'\]"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tables, change, message):
    with pytest.raises(ContractError, match=message):
        draw({"panels": [panel() | change]}, tables)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"panels": []}, r"figure\.panels: List should have at least 1 item"),
        ({"panels": [panel()], "wide": 3}, r"figure\.wide: unknown key\. Known keys: columns"),
        ({"panels": [panel(colour="red")]}, r"panels\.0\.colour: unknown key"),
        ({"panels": [{"plot": UMAP}]}, r"panels\.0\.table: required key is missing"),
        ({"panels": [panel(span=13)]}, r"panels\.0\.span: 13 is wider than a row of 12"),
        ({"panels": [panel(options={"label": "annotated", "size_": 1})]}, "unknown options"),
    ],
)
def test_wrong_declarations_are_refused(tables, spec, message):
    with pytest.raises(ConfigError, match=message):
        draw(spec, tables)


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_the_same_figure_gives_the_same_bytes(tables, tmp_path, suffix):
    spec = {"panels": [panel(span=6), {"plot": BARS, "table": "scores", "span": 6}]}
    contents = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}{suffix}"
        save(draw(spec, tables), path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert len(contents[0]) > 5000


def test_pdf_fonts_are_embedded_truetype_and_svg_needs_none(tables, tmp_path):
    spec = {"panels": [{"plot": BARS, "table": "scores"}]}
    save(draw(spec, tables), tmp_path / "figure.pdf")
    save(draw(spec, tables), tmp_path / "figure.svg")
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert "<text" not in (tmp_path / "figure.svg").read_text()


def test_drawing_leaves_global_settings_alone(tables, tmp_path):
    before = dict(mpl.rcParams)
    save(draw({"panels": [panel()]}, tables), tmp_path / "figure.png")
    assert dict(mpl.rcParams) == before


def test_callers_settings_do_not_change_the_figure(tables, tmp_path):
    spec = {"panels": [{"plot": BARS, "table": "scores"}]}
    save(draw(spec, tables), tmp_path / "plain.png")
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "savefig.dpi": 50}):
        save(draw(spec, tables), tmp_path / "changed.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "changed.png").read_bytes()


def test_other_formats_are_refused(tables, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write '.jpg' figures"):
        save(draw({"panels": [panel()]}, tables), tmp_path / "figure.jpg")
    assert list(tmp_path.iterdir()) == []
