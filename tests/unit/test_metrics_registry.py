"""Registry: finding metrics by module, and turning results into rows without inventing numbers."""

from __future__ import annotations

import math
import subprocess
import sys
import types

import numpy as np
import pytest

from scgpt.errors import ConfigError, ContractError, MetricUndefined
from scgpt.metrics.registry import ROW_COLUMNS, Score, compute, metric, metrics_of


def declared(function, *, bounds=(0.0, 1.0)):
    """Decorate a function as a metric and return its entry."""
    function.__doc__ = function.__doc__ or "Return something."
    decorated = metric(task="toy", higher_is_better=True, bounds=bounds, reference="text")(function)
    return decorated.__metric__


@pytest.fixture
def toy_module(monkeypatch):
    """Make an importable module from metric functions and return its name."""

    def make(name, *functions):
        module = types.ModuleType(name)
        for function in functions:
            function.__module__ = name
            setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
        return name

    return make


def toy_metric(name, task="toy"):
    def function(values):
        """Mean of the values.

        More words.
        """
        return float(np.mean(values))

    function.__name__ = name
    return metric(task=task, higher_is_better=False, bounds=(0, 9), reference="doi")(function)


def test_declaration_keeps_the_function_and_records_how_to_read_it():
    function = toy_metric("mean_value", task=("toy", "other"))
    assert function([1, 3]) == 2
    entry = function.__metric__
    assert (entry.name, entry.title, entry.tasks) == (
        "mean_value",
        "mean value",
        ("toy", "other"),
    )
    assert (entry.higher_is_better, entry.bounds, entry.reference) == (False, (0.0, 9.0), "doi")
    assert entry.description == "Mean of the values."
    assert entry.required == ("values",)


def test_metrics_of_takes_the_task_only_and_keeps_the_order_of_the_file(toy_module):
    name = toy_module("toy_a", toy_metric("z"), toy_metric("a"), toy_metric("b", task="other"))
    assert [entry.name for entry in metrics_of([name], "toy")] == ["z", "a"]


def test_an_imported_metric_is_not_taken_twice(toy_module):
    shared = toy_metric("shared")
    first = toy_module("toy_first", shared)
    second = toy_module("toy_second", toy_metric("own"))
    sys.modules[second].shared = shared
    assert [entry.name for entry in metrics_of([first, second], "toy")] == ["shared", "own"]


def test_two_metrics_of_one_name_are_refused(toy_module):
    names = [toy_module("toy_first", toy_metric("f")), toy_module("toy_second", toy_metric("f"))]
    with pytest.raises(ConfigError, match="'f' is defined in toy_first and toy_second"):
        metrics_of(names, "toy")


def test_unknown_module_and_task_without_metric_are_refused(toy_module):
    with pytest.raises(ConfigError, match="'scgpt.metrics.nothing' does not exist"):
        metrics_of(["scgpt.metrics.nothing"], "toy")
    with pytest.raises(ConfigError, match="no metric for task 'tox'"):
        metrics_of([toy_module("toy_a", toy_metric("f"))], "tox")


def test_a_missing_import_inside_a_metric_module_is_not_called_a_wrong_name(tmp_path, monkeypatch):
    (tmp_path / "broken_metrics.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        metrics_of(["broken_metrics"], "toy")


def test_declaration_refuses_what_it_cannot_use():
    def unnamed(*arrays):
        """Return."""

    with pytest.raises(ConfigError, match="name every array"):
        declared(unnamed)
    with pytest.raises(ConfigError, match="bounds"):
        declared(lambda x: 0.0, bounds=(1, 1))

    def undocumented(x):
        return 0.0

    with pytest.raises(ConfigError, match="docstring"):
        metric(task="toy", higher_is_better=True, bounds=(0, 1), reference="r")(undocumented)


def test_compute_gives_the_metric_only_what_it_names():
    def ratio(part, whole):
        return part[0] / whole[0]

    (row,) = compute(declared(ratio), {"part": [1, 1], "whole": [4, 4], "secret": [0]})
    assert row == {"metric": "ratio", "group": "", "value": 0.25, "n": 2, "note": ""}
    assert tuple(row) == ROW_COLUMNS


def test_compute_passes_an_optional_array_when_there_is_one():
    def weighted(values, weights=None):
        return float(np.average(values, weights=weights))

    entry = declared(weighted)
    assert compute(entry, {"values": [0, 1]})[0]["value"] == 0.5
    assert compute(entry, {"values": [0, 1], "weights": [1, 3]})[0]["value"] == 0.75


def test_compute_makes_one_row_per_group():
    def by_type(labels):
        return {"B": Score(0.5, 4, "few"), "T": 1}

    rows = compute(declared(by_type), {"labels": "BBBBT"})
    assert rows == [
        {"metric": "by_type", "group": "B", "value": 0.5, "n": 4, "note": "few"},
        {"metric": "by_type", "group": "T", "value": 1.0, "n": 5, "note": ""},
    ]


def test_undefined_is_an_empty_value_with_the_reason():
    def never(labels):
        msg = "only one batch"
        raise MetricUndefined(msg)

    (row,) = compute(declared(never), {"labels": [1, 2]})
    assert (row["value"], row["note"], row["n"]) == (None, "only one batch", 2)


def test_one_undefined_group_does_not_hide_the_others():
    rows = compute(
        declared(lambda x: {"a": Score(None, 0, "no cell"), "b": 0.25}), {"x": [1, 2, 3]}
    )
    assert [(row["value"], row["note"]) for row in rows] == [(None, "no cell"), (0.25, "")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_non_finite_results_are_errors_not_numbers(value):
    with pytest.raises(ContractError, match="finite or raises MetricUndefined"):
        compute(declared(lambda x: value), {"x": [1]})
    with pytest.raises(ContractError, match="group 'g'"):
        compute(declared(lambda x: {"g": value}), {"x": [1]})


@pytest.mark.parametrize("value", ["0.5", True, np.array([0.5]), [0.5]])
def test_results_that_are_no_number_are_errors(value):
    with pytest.raises(ContractError, match="expected a number"):
        compute(declared(lambda x: value), {"x": [1]})


def test_results_outside_their_bounds_are_errors_but_rounding_is_not():
    with pytest.raises(ContractError, match="outside its declared bounds"):
        compute(declared(lambda x: 1.01), {"x": [1]})
    assert compute(declared(lambda x: 1 + 1e-12), {"x": [1]})[0]["value"] == pytest.approx(1)


def test_a_missing_value_without_reason_is_an_error():
    with pytest.raises(ContractError, match="needs a note"):
        compute(declared(lambda x: Score(None, 0)), {"x": [1]})


def test_a_missing_array_names_what_there_is():
    with pytest.raises(ContractError, match=r"needs \['y'\], but the task offers \['x'\]"):
        compute(declared(lambda x, y: 0.0), {"x": [1]})


def test_importing_the_classification_metrics_stays_light():
    code = (
        "import sys; import scgpt.metrics.classification; "
        "print(sorted({'sklearn', 'scipy', 'pandas', 'torch', 'anndata'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
