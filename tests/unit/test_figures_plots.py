"""Plot functions: what they draw of a table, and what they refuse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from scgpt.errors import ConfigError, ContractError
from scgpt.figures.bars import grouped_bars
from scgpt.figures.heatmap import confusion_matrix, embedding_heatmap
from scgpt.figures.labels import spread
from scgpt.figures.plot import Plot, find_plot
from scgpt.figures.style import PALETTE, assign_colours
from scgpt.figures.umap import category_legend, umap


@pytest.fixture
def ax():
    """Return axes of a figure that no window or global state knows."""
    return Figure().subplots()


@pytest.fixture
def cells():
    """Return a table of cells with coordinates, both labels and an embedding."""
    rng = np.random.default_rng(0)
    types = rng.choice(["T", "B", "NK"], 60, p=[0.6, 0.3, 0.1])
    table = pd.DataFrame(rng.normal(size=(60, 4)), columns=[f"dim_{i}" for i in range(4)])
    return table.assign(
        cell=[f"cell {i}" for i in range(60)],
        x=rng.normal(size=60),
        y=rng.normal(size=60),
        annotated=types,
        predicted=np.where(rng.random(60) < 0.8, types, "mono"),
    )


@pytest.fixture
def scores():
    """Return summaries with replicates of two methods and two controls on two metrics."""
    rows = []
    for metric, floor in (("accuracy", 0.3), ("macro_f1", 0.1)):
        for method, role, mean in (
            ("scgpt", "method", 0.8),
            ("linear", "method", 0.7),
            ("majority", "negative_control", floor),
            ("truth", "positive_control", 1.0),
        ):
            rows += [
                {
                    "dataset": "ms",
                    "metric": metric,
                    "method": method,
                    "role": role,
                    "mean": mean,
                    "standard_error": 0.02,
                    "floor": floor,
                    "ceiling": 1.0,
                    "replicate": str(split),
                    "value": mean + 0.02 * (split - 1),
                }
                for split in range(3)
            ]
    return pd.DataFrame(rows)


OPTIONS = {
    umap: {"label": "annotated"},
    category_legend: {"labels": ["annotated"]},
    confusion_matrix: {"true": "annotated", "predicted": "predicted", "count": None},
    embedding_heatmap: {"label": "annotated"},
}


@pytest.mark.parametrize("plot", OPTIONS, ids=lambda plot: plot.name)
def test_empty_tables_missing_columns_and_holes_are_refused(plot, cells, ax):
    options = OPTIONS[plot]
    with pytest.raises(ContractError, match=f"{plot.name}: the table has no row"):
        plot(cells.iloc[:0], ax, **options)
    with pytest.raises(ContractError, match=rf"{plot.name}: .* lacks columns \['annotated'\]"):
        plot(cells.drop(columns="annotated"), ax, **options)
    with pytest.raises(ContractError, match=r"missing values in \{'annotated': 1\}"):
        plot(cells.assign(annotated=[None, *cells["annotated"][1:]]), ax, **options)
    with pytest.raises(ConfigError, match=rf"{plot.name}: unknown options \['colour'\]"):
        plot(cells, ax, colour="red", **options)


@pytest.mark.parametrize("plot", OPTIONS, ids=lambda plot: plot.name)
def test_plots_leave_their_table_alone(plot, cells, ax):
    before = cells.copy()
    plot(cells, ax, **OPTIONS[plot])
    pd.testing.assert_frame_equal(cells, before)


def test_bars_refuse_what_they_cannot_draw(scores, ax):
    with pytest.raises(ContractError, match="no row"):
        grouped_bars(scores.iloc[:0], ax)
    with pytest.raises(ContractError, match=r"lacks columns \['method'\]"):
        grouped_bars(scores.drop(columns="method"), ax)
    with pytest.raises(ContractError, match=r"lacks columns \['mean'\]; summarise"):
        grouped_bars(scores.drop(columns="mean"), ax)
    with pytest.raises(ContractError, match="2 different means for .* choose one"):
        grouped_bars(pd.concat([scores, scores.assign(mean=0.1, dataset="b")]), ax)
    with pytest.raises(ContractError, match=r"no rows for \['f1'\] in x_order"):
        grouped_bars(scores, ax, x_order=["f1"])
    with pytest.raises(ContractError, match="controls only"):
        grouped_bars(scores[scores["role"] != "method"], ax)
    with pytest.raises(ConfigError, match="choose 'marks' or 'bars'"):
        grouped_bars(scores, ax, controls="none")


def test_umap_draws_each_cell_once_at_its_place_in_its_colour(cells, ax):
    umap(cells, ax, label="annotated")
    (points,) = ax.collections
    assert points.get_rasterized()
    drawn = {
        (round(x, 6), round(y, 6), to_hex(colour))
        for (x, y), colour in zip(points.get_offsets(), points.get_facecolors(), strict=True)
    }
    colours = assign_colours(cells["annotated"])
    rows = zip(cells["x"], cells["y"], cells["annotated"], strict=True)
    assert drawn == {(round(x, 6), round(y, 6), colours[name]) for x, y, name in rows}


def test_umap_legend_stands_outside_the_points(cells):
    figure = Figure(layout="constrained")
    ax = figure.subplots()
    umap(cells, ax, label="annotated")
    figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    n_cells = cells["annotated"].value_counts()
    assert texts == [f"{name} ({n_cells[name]})" for name in ("B", "NK", "T")]


def test_umap_numbers_many_types_on_their_own_cells(ax):
    names = [f"type {i:02d}" for i in range(12)]
    table = pd.DataFrame({"x": np.arange(12.0), "y": 0.0, "label": names})
    umap(table, ax, legend=False)
    written = {text.get_text(): text.get_position() for text in ax.texts}
    assert written == {str(i + 1): (float(i), 0.0) for i in range(12)}


def test_legend_counts_cells_of_each_column(cells):
    rows = category_legend.numbers(cells, labels=["annotated", "predicted"]).set_index("label")
    assert (
        rows["n_annotated"].to_dict() == {"mono": 0} | cells["annotated"].value_counts().to_dict()
    )
    assert rows["n_predicted"].sum() == 60


def test_confusion_shares_by_hand(ax):
    table = pd.DataFrame(
        [("B", "B", 3), ("B", "T", 1), ("T", "T", 0), ("T", "NK", 2), ("gone", "B", 0)],
        columns=["true", "predicted", "count"],
    )
    rows = confusion_matrix.numbers(table)
    assert rows.loc[rows["count"] > 0].to_numpy().tolist() == [
        ["B", "B", 3, 0.75],
        ["B", "T", 1, 0.25],
        ["T", "NK", 2, 1.0],
    ]
    # A type without annotated cells has no row; predicted, it has a column.
    assert list(dict.fromkeys(rows["true"])) == ["B", "T"]
    assert list(dict.fromkeys(rows["predicted"])) == ["B", "NK", "T"]
    confusion_matrix(table, ax)
    assert ax.images[0].get_array().tolist() == [[0.75, 0, 0.25], [0, 1, 0]]
    assert ax.images[0].get_clim() == (0, 1)
    assert [text.get_text() for text in ax.texts] == [".75", ".25", "1"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B (4)", "T (2)"]


def test_confusion_adds_up_cells_and_counts_alike(cells):
    options = {"true": "annotated", "predicted": "predicted"}
    counted = cells.groupby(["annotated", "predicted"]).size().rename("count").reset_index()
    pd.testing.assert_frame_equal(
        confusion_matrix.numbers(cells, **options, count=None),
        confusion_matrix.numbers(counted, **options),
        check_dtype=False,
    )
    with pytest.raises(ContractError, match="must hold counts"):
        confusion_matrix.numbers(counted.assign(count=-1), **options)


def test_confusion_with_long_names_uses_numbers_that_the_rows_explain(ax):
    names = [f"a cell type with a long name {i}" for i in range(3)]
    table = pd.DataFrame({"true": names[:2], "predicted": names[1:], "count": [1, 2]})
    confusion_matrix(table, ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"{names[0]} (1)  1",
        f"{names[1]} (2)  2",
    ]
    # The third is only predicted: no row explains its number, so the column keeps the name.
    columns = [label.get_text() for label in ax.get_xticklabels()]
    assert columns == ["1", "2", f"{names[2]}  3"]


def test_embedding_is_sorted_by_type_and_scaled_to_length_one(cells, ax):
    rows = embedding_heatmap.prepare(cells, label="annotated")
    assert rows["label"].tolist() == sorted(cells["annotated"])
    values = rows.filter(like="dim_").to_numpy()
    assert np.linalg.norm(values, axis=1) == pytest.approx(np.ones(60))
    by_cell = cells.set_index("cell").loc[rows["cell"]].filter(like="dim_").to_numpy()
    assert values == pytest.approx(by_cell / np.linalg.norm(by_cell, axis=1, keepdims=True))
    embedding_heatmap(cells, ax, label="annotated")
    np.testing.assert_allclose(ax.images[0].get_array(), values)
    low, high = ax.images[0].get_clim()
    assert low == -high


def test_embedding_numbers_are_tidy_and_complete(cells):
    options = {"label": "annotated", "scale": "none"}
    tidy = embedding_heatmap.numbers(cells, **options)
    assert list(tidy) == ["row", "cell", "label", "dimension", "value"]
    wide = tidy.pivot_table(index="cell", columns="dimension", values="value")
    expected = cells.set_index("cell").filter(like="dim_")
    assert wide.loc[expected.index].to_numpy() == pytest.approx(expected.to_numpy())


def test_large_embeddings_are_thinned_without_losing_a_rare_type():
    labels = np.repeat(["common", "middle", "rare"], [4000, 900, 2])
    table = pd.DataFrame({"cell_type": labels, "dim_0": np.arange(4902.0) + 1, "dim_1": 1.0})
    rows = embedding_heatmap.prepare(table, max_cells=100, scale="none")
    counts = rows["label"].value_counts()
    assert counts.to_dict() == {"common": 82, "middle": 18, "rare": 2}
    common = rows.loc[rows["label"] == "common", "dim_0"]
    assert common.iloc[[0, -1]].tolist() == [1, 4000]


def test_embedding_refuses_what_has_no_direction_or_dimension(cells):
    with pytest.raises(ContractError, match="no column starts with 'emb'"):
        embedding_heatmap.prepare(cells, label="annotated", prefix="emb")
    with pytest.raises(ContractError, match="all zero"):
        zero = cells.assign(**{f"dim_{i}": 0.0 for i in range(4)})
        embedding_heatmap.prepare(zero, label="annotated")
    with pytest.raises(ContractError, match="infinite"):
        embedding_heatmap.prepare(cells.assign(dim_0=np.inf), label="annotated")
    with pytest.raises(ConfigError, match="choose 'l2' or 'none'"):
        embedding_heatmap.prepare(cells, label="annotated", scale="z")


def heights(ax):
    """Return the heights of the bars by colour, in drawing order."""
    found = {}
    for bar in ax.patches:
        found.setdefault(to_hex(bar.get_facecolor()), []).append(round(bar.get_height(), 9))
    return found


def all_heights(ax):
    """Return the heights of all bars, sorted."""
    return sorted(height for own in heights(ax).values() for height in own)


def test_bars_show_means_errors_replicates_and_both_marks(scores, ax):
    grouped_bars(scores, ax, colours={"scgpt": "#0000ff", "linear": "#00ff00"})
    assert heights(ax) == {"#0000ff": [0.8, 0.8], "#00ff00": [0.7, 0.7]}
    whiskers = [line.get_segments()[0][:, 1] for line in ax.collections if is_whisker(line)]
    assert sorted(map(tuple, np.round(whiskers, 9))) == [(0.68, 0.72)] * 2 + [(0.78, 0.82)] * 2
    dots = np.concatenate(
        [c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets()) > 1]
    )
    expected = scores.loc[scores["role"] == "method", "value"]
    assert sorted(np.round(dots, 9)) == sorted(np.round(expected, 9))
    marks = {
        (round(line.get_segments()[0][0, 1], 9), line.get_linestyle()[0][1] is not None)
        for line in ax.collections
        if is_mark(line) and to_hex(line.get_color()[0]) != "#ffffff"
    }
    assert marks == {(0.3, True), (0.1, True), (1.0, False)}


def is_whisker(collection):
    """Tell error bars (vertical segments) from other collections."""
    segments = getattr(collection, "get_segments", list)()
    return bool(segments) and segments[0][0, 0] == segments[0][1, 0]


def is_mark(collection):
    """Tell floor and ceiling marks (horizontal segments) from other collections."""
    segments = getattr(collection, "get_segments", list)()
    return bool(segments) and segments[0][0, 1] == segments[0][1, 1]


def test_controls_can_be_bars(scores, ax):
    grouped_bars(scores, ax, controls="bars", legend=False)
    assert all_heights(ax) == [0.1, 0.3, 0.7, 0.7, 0.8, 0.8, 1.0, 1.0]


def test_a_score_without_value_is_named_not_drawn_as_zero(scores, ax):
    gone = (scores["method"] == "linear") & (scores["metric"] == "macro_f1")
    scores.loc[gone, ["mean", "standard_error", "value"]] = np.nan
    grouped_bars(scores, ax)
    assert all_heights(ax) == [0.7, 0.8, 0.8]
    assert [text.get_text() for text in ax.texts].count("n/a") == 1


def test_scores_outside_the_usual_range_stay_visible(scores, ax):
    scores.loc[scores["method"] == "linear", ["mean", "value"]] = -0.4
    grouped_bars(scores, ax)
    assert ax.get_ylim()[0] <= -0.42


@pytest.mark.parametrize(("limits", "base"), [((-1, 1), 0), ((0.5, 1), 0.5)])
def test_bars_start_at_zero_or_at_the_end_nearest_to_it(scores, ax, limits, base):
    grouped_bars(scores, ax, limits=limits)
    assert {bar.get_y() for bar in ax.patches} == {base}
    tops = sorted(bar.get_y() + bar.get_height() for bar in ax.patches)
    assert tops == pytest.approx([0.7, 0.7, 0.8, 0.8])


def test_bars_stand_in_the_order_asked_for_and_facets_apart(scores, ax):
    both = pd.concat([scores, scores.assign(dataset="pancreas")])
    options = {"facet": "dataset", "x_order": ["macro_f1", "accuracy"], "facet_order": ["pancreas"]}
    rows = grouped_bars.numbers(both, hue_order=["linear", "scgpt"], **options)
    assert rows["facet"].unique().tolist() == ["pancreas"]
    assert rows["x"].unique().tolist() == ["macro_f1", "accuracy"]
    assert rows["hue"].unique().tolist() == ["linear", "scgpt"]
    grouped_bars(both, ax, facet="dataset")
    ticks = ax.get_xticks()
    assert ticks[1] - ticks[0] == ticks[3] - ticks[2] == 1
    assert ticks[2] - ticks[1] > 1


def test_bars_work_from_a_plain_summary(scores, ax):
    plain = scores.drop_duplicates(["metric", "method"])[
        ["metric", "method", "mean", "standard_error"]
    ]
    grouped_bars(plain, ax)
    assert len(ax.patches) == 8


def test_spread_keeps_the_gap_and_moves_nothing_that_fits():
    assert spread(np.array([0.1, 0.5, 0.9]), low=0, high=1, gap=0.2).tolist() == [0.1, 0.5, 0.9]
    moved = spread(np.array([0.5, 0.5, 0.5, 0.95, 0.96]), low=0, high=1, gap=0.1)
    assert (np.diff(moved) >= 0.1 - 1e-12).all()
    assert moved[:3] == pytest.approx([0.4, 0.5, 0.6])
    assert moved[-1] <= 1
    assert spread(np.array([0.0, 0.01]), low=0, high=1, gap=0.3) == pytest.approx([0, 0.3])


def test_find_plot_names_what_is_there():
    assert isinstance(find_plot("scgpt.figures.umap:umap"), Plot)
    with pytest.raises(ConfigError, match=r"it has \['category_legend', 'umap'\]"):
        find_plot("scgpt.figures.umap:tsne")
    with pytest.raises(ConfigError, match="cannot import 'scgpt.figures.none'"):
        find_plot("scgpt.figures.none:umap")
    with pytest.raises(ConfigError, match="write it as 'module:function'"):
        find_plot("")


def test_colours_are_stable_distinct_and_limited():
    assert len(set(PALETTE)) == len(PALETTE) == 48
    assert assign_colours(["T", "B", "B"]) == assign_colours(["B", "T"])
    assert list(assign_colours(["a", "B", "c"])) == ["a", "B", "c"]
    with pytest.raises(ConfigError, match="49 categories, but only 48 colours"):
        assign_colours([str(i) for i in range(49)])
