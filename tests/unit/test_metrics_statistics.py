"""Summaries over replicates against hand-computed and scipy results."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgpt.errors import ContractError
from scgpt.metrics.statistics import (
    holm,
    paired_difference,
    summarise,
    with_bounds,
    with_replicates,
)


def table_of(values, *, method="scgpt", metric="accuracy", group="", dataset="ms"):
    """Return a metrics table from {(split, seed): value or note}."""
    rows = []
    for (split, seed), value in values.items():
        missing = isinstance(value, str)
        rows.append(
            {
                "task": "annotation",
                "dataset": dataset,
                "split": split,
                "method": method,
                "seed": seed,
                "metric": metric,
                "group": group,
                "value": np.nan if missing else value,
                "n": 10,
                "note": value if missing else "",
            }
        )
    return pd.DataFrame(rows)


def only(table):
    """Return the single row of a table."""
    assert len(table) == 1
    return table.iloc[0]


def test_seeds_are_averaged_inside_splits_before_the_error_is_taken():
    # Split means 0.2, 0.5, 0.8; the spread inside splits must not enter the error.
    values = {(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.5, (1, 1): 0.5, (2, 0): 1.0, (2, 1): 0.6}
    row = only(summarise(table_of(values)))
    assert row["mean"] == pytest.approx(0.5)
    assert row["standard_error"] == pytest.approx(0.3 / np.sqrt(3))
    half = stats.t.ppf(0.975, 2) * 0.3 / np.sqrt(3)
    assert row["interval_low"] == pytest.approx(0.5 - half)
    assert row["interval_high"] == pytest.approx(0.5 + half)
    assert (row["n_splits"], row["n_seeds"], row["replicates_over"]) == (3, 2, "split")
    assert row["note"] == ""


def test_splits_weigh_the_same_whatever_their_number_of_seeds():
    row = only(summarise(table_of({(0, 0): 0.0, (1, 0): 1.0, (1, 1): 1.0, (1, 2): 1.0})))
    assert row["mean"] == pytest.approx(0.5)
    assert row["note"] == "between 1 and 3 seeds per split"


def test_with_one_split_the_seeds_are_the_replicates():
    row = only(summarise(table_of({(0, seed): value for seed, value in enumerate([0.2, 0.4])})))
    interval = stats.t.interval(0.95, 1, loc=0.3, scale=0.1)
    assert row[["mean", "standard_error"]].tolist() == pytest.approx([0.3, 0.1])
    assert row[["interval_low", "interval_high"]].tolist() == pytest.approx(interval)
    assert (row["n_splits"], row["n_seeds"], row["replicates_over"]) == (1, 2, "seed")


def test_one_replicate_has_no_error_but_a_note():
    row = only(summarise(table_of({(0, 0): 0.7})))
    assert row["mean"] == 0.7
    assert row[["standard_error", "interval_low", "interval_high"]].isna().all()
    assert (row["replicates_over"], row["note"]) == ("none", "one replicate: no error")


def test_missing_values_are_left_out_and_noted_never_zero():
    row = only(summarise(table_of({(0, 0): 0.6, (1, 0): 0.8, (2, 0): "only one batch"})))
    assert row["mean"] == pytest.approx(0.7)
    assert row["n_splits"] == 2
    assert row["note"] == "no value: only one batch (1 of 3 runs)"
    row = only(summarise(table_of({(0, 0): "only one batch", (1, 0): "only one batch"})))
    assert np.isnan(row["mean"])
    assert (row["n_splits"], row["n_seeds"]) == (0, 0)
    assert row["note"] == "no value: only one batch"


def test_empty_text_read_back_from_a_file_is_not_lost(tmp_path):
    table = table_of({(0, 0): 0.6, (1, 0): 0.8})
    table.to_csv(tmp_path / "metrics.tsv", sep="\t", index=False)
    again = pd.read_csv(tmp_path / "metrics.tsv", sep="\t")
    assert again["group"].isna().all()
    pd.testing.assert_frame_equal(summarise(again), summarise(table))


def test_every_combination_has_its_row_in_the_order_of_the_table():
    parts = [
        table_of({(0, 0): 0.6, (1, 0): 0.8}, method=method, metric="recall_per_type", group=group)
        for method in ("scgpt", "a")
        for group in ("T", "B")
    ]
    summary = summarise(pd.concat(parts))
    assert summary[["method", "group"]].to_numpy().tolist() == [
        ["scgpt", "T"],
        ["scgpt", "B"],
        ["a", "T"],
        ["a", "B"],
    ]


def test_bad_tables_are_refused():
    table = table_of({(0, 0): 0.6})
    with pytest.raises(ContractError, match=r"lacks columns \['seed'\]"):
        summarise(table.drop(columns="seed"))
    with pytest.raises(ContractError, match="1 rows twice"):
        summarise(pd.concat([table, table]))
    with pytest.raises(ContractError, match="empty without a note"):
        summarise(table.assign(value=np.nan))
    with pytest.raises(ContractError, match="infinite"):
        summarise(table.assign(value=np.inf))
    with pytest.raises(ContractError, match="no row"):
        summarise(table.iloc[:0])


def test_replicates_stand_beside_their_summary():
    table = pd.concat(
        [
            table_of({(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.8}),
            table_of({(0, 0): "undefined"}, metric="macro_f1"),
        ]
    )
    both = with_replicates(summarise(table), table)
    own = both[both["metric"] == "accuracy"]
    assert own["replicate"].tolist() == ["0", "1"]
    assert own["value"].tolist() == pytest.approx([0.2, 0.8])
    assert own["mean"].tolist() == pytest.approx([0.5, 0.5])
    assert only(both[both["metric"] == "macro_f1"])[["mean", "value"]].isna().all()


ROLES = {
    "scgpt": "method",
    "majority": "negative_control",
    "random": "negative_control",
    "truth": "positive_control",
}


def benchmark(values, **options):
    """Return the summary of one value per method."""
    return summarise(
        pd.concat([table_of({(0, 0): v}, method=m, **options) for m, v in values.items()])
    )


def test_bounds_come_from_the_controls_own_rows():
    table = with_bounds(
        benchmark({"scgpt": 0.8, "majority": 0.3, "random": 0.4, "truth": 0.9}), ROLES
    ).set_index("method")
    assert set(table["floor"]) == {0.4}
    assert set(table["ceiling"]) == {0.9}
    assert table["scaled"].to_dict() == pytest.approx(
        {"scgpt": 0.8, "majority": -0.2, "random": 0.0, "truth": 1.0}
    )
    assert set(table["scaled_note"]) == {""}
    assert table.loc["truth", "role"] == "positive_control"


def test_bounds_do_not_cross_data_sets_metrics_or_groups():
    values = {"scgpt": 0.8, "majority": 0.3, "random": 0.4, "truth": 0.9}
    other = {"scgpt": 0.5, "majority": 0.0, "random": 0.1, "truth": 1.0}
    for key in ("dataset", "metric", "group"):
        both = pd.concat([benchmark(values), benchmark(other, **{key: "other"})])
        table = with_bounds(both, ROLES)
        assert table.loc[table[key] == "other", "floor"].unique().tolist() == [0.1]
        assert table.loc[table[key] != "other", "floor"].unique().tolist() == [0.4]


def test_where_lower_is_better_the_floor_is_the_lowest_control():
    table = with_bounds(
        benchmark({"scgpt": 2.0, "majority": 4.0, "random": 3.0, "truth": 1.0}),
        ROLES,
        higher_is_better={"accuracy": False},
    ).set_index("method")
    assert table.loc["scgpt", ["floor", "ceiling", "scaled"]].tolist() == [3.0, 1.0, 0.5]
    assert table.loc["majority", "scaled"] == pytest.approx(-0.5)


@pytest.mark.parametrize("ceiling", [0.4, 0.2])
def test_no_room_between_the_controls_gives_no_scaled_value(ceiling):
    table = with_bounds(
        benchmark({"scgpt": 0.8, "majority": 0.3, "random": 0.4, "truth": ceiling}), ROLES
    )
    assert table["scaled"].isna().all()
    assert set(table["scaled_note"]) == {
        f"not scaled: no room between floor 0.400 and ceiling {ceiling:.3f}"
    }


def test_without_a_control_nothing_is_scaled():
    table = with_bounds(benchmark({"scgpt": 0.8, "truth": 0.9}), ROLES)
    assert table["scaled"].isna().all()
    assert set(table["scaled_note"]) == {"not scaled: no negative control has a value"}
    table = with_bounds(benchmark({"scgpt": 0.8, "random": 0.1}), ROLES)
    assert set(table["scaled_note"]) == {"not scaled: no positive control has a value"}


def test_unknown_methods_and_roles_are_refused():
    summary = benchmark({"scgpt": 0.8, "new": 0.1})
    with pytest.raises(ContractError, match=r"\['new'\] have no role"):
        with_bounds(summary, ROLES)
    with pytest.raises(ContractError, match="unknown roles"):
        with_bounds(summary, ROLES | {"new": "baseline"})


def test_paired_difference_is_the_paired_t_test_over_splits():
    rng = np.random.default_rng(0)
    a, b = rng.random(5), rng.random(5)
    table = pd.concat(
        [
            table_of(
                {(s, 0): a[s] - 0.1 for s in range(5)} | {(s, 1): a[s] + 0.1 for s in range(5)}
            ),
            table_of({(s, 0): b[s] for s in range(5)}, method="other"),
        ]
    )
    row = only(paired_difference(table, "scgpt", "other"))
    expected = stats.ttest_rel(a, b)
    assert row["mean"] == pytest.approx((a - b).mean())
    assert row["p_value"] == pytest.approx(expected.pvalue)
    assert row[["interval_low", "interval_high"]].tolist() == pytest.approx(
        expected.confidence_interval(0.95)
    )
    assert (row["n_pairs"], row["note"]) == (5, "")
    swapped = only(paired_difference(table, "other", "scgpt"))
    assert swapped["mean"] == pytest.approx(-row["mean"])


def test_pairs_are_matched_by_name_not_by_order():
    a = table_of({(0, 0): 0.1, (1, 0): 0.2, (2, 0): 0.4})
    b = table_of({(2, 0): 0.3, (1, 0): 0.1, (3, 0): 0.9}, method="other")
    row = only(paired_difference(pd.concat([a, b]), "scgpt", "other"))
    assert row["mean"] == pytest.approx(0.1)
    assert row["n_pairs"] == 2
    assert "2 of 4 splits have both methods" in row["note"]


def test_seeds_are_the_pairs_of_a_single_split():
    a = table_of({(0, 0): 0.1, (0, 1): 0.5})
    b = table_of({(0, 0): 0.0, (0, 1): 0.2}, method="other")
    row = only(paired_difference(pd.concat([a, b]), "scgpt", "other"))
    assert (row["mean"], row["n_pairs"]) == (pytest.approx(0.2), 2)


def test_too_few_or_constant_differences_have_no_test():
    a, b = table_of({(0, 0): 0.3}), table_of({(0, 0): 0.1}, method="other")
    row = only(paired_difference(pd.concat([a, b]), "scgpt", "other"))
    assert row["mean"] == pytest.approx(0.2)
    assert row[["standard_error", "interval_low", "p_value"]].isna().all()
    assert row["note"] == "fewer than two pairs: no error"
    a = table_of({(s, 0): 0.1 * s + 0.3 for s in range(4)})
    b = table_of({(s, 0): 0.1 * s for s in range(4)}, method="other")
    row = only(paired_difference(pd.concat([a, b]), "scgpt", "other"))
    assert np.isnan(row["p_value"])
    assert "the same difference in every pair" in row["note"]
    with pytest.raises(ContractError, match=r"\['nobody'\] not in the table"):
        paired_difference(a, "scgpt", "nobody")


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, then 0.03 * 2 (not below the one before), 0.5.
    adjusted = holm([0.03, 0.01, np.nan, 0.5, 0.02])
    assert adjusted[[0, 1, 3, 4]].tolist() == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert np.isnan(adjusted[2])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_a_method_above_the_positive_control_is_said_beside_the_number():
    rows = {"a": 0.9, "b": 0.7, "null": 0.1, "top": 0.8}
    summary = pd.DataFrame(
        {"task": "t", "dataset": "d", "metric": "m", "group": "", "method": list(rows)}
    ).assign(mean=list(rows.values()), note=["one replicate", "", "", ""])
    roles = {"a": "method", "b": "method", "null": "negative_control", "top": "positive_control"}
    notes = with_bounds(summary, roles).set_index("method")["note"]
    assert notes["a"] == "one replicate; better than the positive control (0.800)"
    assert list(notes[["b", "null", "top"]]) == ["", "", ""]
    attacked = with_bounds(summary.assign(mean=[0.7, 0.7, 0.9, 0.8]), roles).set_index("method")
    assert "better than the positive control" in attacked["note"]["null"]
    downwards = with_bounds(summary, roles, higher_is_better={"m": False})
    assert "better" in downwards.set_index("method")["note"]["b"]
    assert "better" not in downwards.set_index("method")["note"]["a"]
