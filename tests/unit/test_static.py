"""What is read from the source is what the imported code says."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from pydantic import TypeAdapter, ValidationError

from scgpt.errors import ConfigError
from scgpt.figures.plot import find_plot
from scgpt.metrics.registry import metrics_of
from scgpt.plan.checks import load
from scgpt.plan.digest import ROOT
from scgpt.plan.static import class_parameters, method_parameters, metric_names, plot_parameters
from scgpt.steps.data import load as load_config

VALUES = (
    "ten",
    "l1",
    -3,
    0,
    0.5,
    7,
    True,
    None,
    [],
    ["a"],
    [0.5, -1],
    {},
    {"cls": 1.0},
    {"a": "b"},
)


@pytest.fixture(scope="module")
def config():
    return load_config(ROOT)


def receivers(config):
    """Yield the parameters as read, and the class that receives them."""
    for block in config.tasks.values():
        yield class_parameters(f"{block.module}:Params"), load(f"{block.module}:Params", "")
    for block in config.methods.values():
        for entry in block.tasks.values():
            yield method_parameters(entry), load(entry, "").Params


def is_valid(kind, value):
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def accepted_by_class(model, name, value):
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        # Rules between several fields stand at no field.
        return all(item["loc"][:1] != (name,) for item in error.errors())
    return True


def test_values_are_judged_as_their_receiver_judges_them(config):
    n_read = n_known = 0
    for read, model in receivers(config):
        assert set(read.known) == set(model.model_fields)
        n_known += len(read.known)
        n_read += len(read.types)
        for name, kind in read.types.items():
            for value in VALUES:
                if not is_valid(kind, value):
                    assert not accepted_by_class(model, name, value), (model, name, value)
    assert n_read > 0.9 * n_known


def test_metrics_are_those_that_are_declared(config):
    for name, task in config.tasks.items():
        read = [each for module in task.metrics for each in metric_names(module, name)]
        assert read == [entry.name for entry in metrics_of(task.metrics, name)]
    assert metric_names("scgpt.metrics.classification", "perturbation") == []


def test_options_of_plots_are_those_that_they_take(config):
    entries = {panel.plot for figure in config.figures.values() for panel in figure.panels}
    assert entries
    for entry in entries:
        plot = find_plot(entry)
        for name in plot_parameters(entry).known:
            plot._check({name: None})
        with pytest.raises(ConfigError) as caught:
            plot._check({"no_such_option": 1})
        for name in plot_parameters(entry).known:
            assert name in ("colours", "titles") or repr(name) in str(caught.value)


def test_the_plan_is_checked_without_importing_what_it_names():
    code = (
        "import sys; from pathlib import Path; from scgpt.plan.plan import Plan; "
        "from scgpt.steps.data import load; from scgpt.plan.digest import ROOT; "
        "Plan(load(ROOT), 'paper').check_parameters(); "
        "print(*({'torch', 'matplotlib', 'scanpy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_of_two_bases_the_first_one_counts(tmp_path, monkeypatch):
    body = """
from pydantic import BaseModel, Field

class Left(BaseModel):
    both: int = 1
    left: int

class Right(BaseModel):
    both: str
    right: float = Field(default=1.0, gt=0)

class Params(Left, Right):
    own: int = 0
"""
    (tmp_path / "two_bases.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("scgpt.plan.static.module_path", lambda _: tmp_path / "two_bases.py")
    read, model = class_parameters("two_bases:Params"), import_module("two_bases").Params
    assert set(read.known) == set(model.model_fields)
    assert set(read.required) == {n for n, f in model.model_fields.items() if f.is_required()}
    assert is_valid(read.types["both"], 3)
    assert not is_valid(read.types["both"], "text")
    assert not is_valid(read.types["right"], -1.0)
