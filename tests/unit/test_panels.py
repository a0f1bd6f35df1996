"""Panels that repeat, spelled out for data sets and methods."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scgpt.plan.config import Config
from scgpt.plan.panels import spelled_out

CONFIG = Path(__file__).parents[2] / "config"
DATASETS, METHODS = ["pbmc10k", "immune_human"], ["scvi", "harmony"]


@pytest.fixture(scope="module")
def config():
    merged = {}
    for path in sorted(CONFIG.glob("*.yaml")):
        merged |= yaml.safe_load(path.read_text())
    return Config.model_validate(merged)


def test_neighbours_that_repeat_do_so_data_set_by_data_set(config):
    block = config.figures["fig4a"]
    panels = spelled_out(config, block, DATASETS, METHODS)
    where = [(panel["where"].get("dataset"), panel["where"].get("method")) for panel in panels]
    of_one = [*METHODS, *METHODS, None, None]
    assert where == [(name, method) for name in DATASETS for method in of_one] + [(None, None)]
    # A row of methods has one letter; what follows keeps its own choice.
    assert [panel["letter"] for panel in panels[:6]] == [True, False, True, False, False, False]


def test_titles_name_data_set_and_method(config):
    first = spelled_out(config, config.figures["fig4a"], DATASETS, METHODS)[0]
    assert first["title"] == f"{config.datasets['pbmc10k'].title}\nscVI"
    assert "repeat" not in first
    assert first["score"] == "avg_bio"


def test_a_figure_without_data_sets_keeps_what_does_not_repeat(config):
    panels = spelled_out(config, config.figures["fig3"], [], [])
    assert len(panels) == 2
    assert all(not panel["where"].get("dataset") for panel in panels)
