"""The catalogue of downloads: where things go, what a scale takes, what its steps are told."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from scgpt.errors import ConfigError
from scgpt.plan.catalogue import Catalogue
from scgpt.plan.config import (
    DatasetConfig,
    Expected,
    FileSpec,
    KnowledgeConfig,
    ModelConfig,
    ScaleConfig,
    parse_config,
)

FILE = {"a.csv": {"urls": ["https://example.org/a.csv"]}}
READER = "scgpt.readers.matrix:read_curated_atlas"
DATASET = {
    "title": "A",
    "kind": "download",
    "reader": READER,
    "files": FILE,
    "twin": "scgpt.twins.perturbation:adamson",
    "tasks": [],
    "reference": "-",
    "license": "-",
}
KNOWLEDGE = {
    "title": "K",
    "form": "gene_sets",
    "reader": "scgpt.readers.knowledge:read_gmt",
    "params": {"file": "a.csv"},
    "files": FILE,
    "twin": "scgpt.twins.knowledge:gene2go",
    "reference": "-",
    "license": "-",
}


@pytest.fixture
def make(root):
    """Return a function that makes the catalogue of a scale, with blocks changed."""
    raw = {}
    for path in (root / "config").glob("*.yaml"):
        raw |= yaml.safe_load(path.read_text())
    raw["datasets"] |= {
        "mine": DATASET,
        "bare": DATASET | {"twin": None},
        "own": DATASET | {"kind": "local", "twin": None, "files": {}},
        "asked": DATASET
        | {
            "retrieve": "scgpt.fetch.census:retrieve",
            "retrieve_params": {"version": "1", "organ": "lung"},
        },
    }
    raw["knowledge"] |= {"facts": KNOWLEDGE}
    scale = raw["scales"]["tiny"]
    raw["scales"] |= {
        "some": scale | {"source": "public", "catalogue": ["facts", "mine", "pbmc68k"]},
        "none": scale | {"source": "public", "catalogue": []},
        "twins": scale | {"catalogue": ["bare", "mine", "own"]},
    }

    def catalogue(scale, **changed):
        blocks = {name: raw["datasets"][name] | block for name, block in changed.items()}
        config = parse_config(raw | {"datasets": raw["datasets"] | blocks})
        return Catalogue(config, scale)

    return catalogue


def test_public_files_are_shared_and_twins_belong_to_their_scale(make):
    assert make("some").record("mine") == "results/raw/mine.json"
    assert make("some").folder("mine") == "results/raw/mine"
    assert make("tiny").record("mine") == "results/tiny/raw/mine.json"
    assert make("twins").folder("mine") == "results/twins/raw/mine"


def test_only_downloads_wait_for_a_record(make):
    catalogue = make("tiny")
    assert catalogue.dataset_records("mine") == ["results/tiny/raw/mine.json"]
    assert catalogue.dataset_records("pbmc68k") == []
    assert {"mine", "facts", "scgpt_human"} <= set(catalogue.resources)
    assert "pbmc68k" not in catalogue.resources


def test_selection_keeps_the_order_of_the_configuration(make):
    assert make("some").datasets() == ["pbmc68k", "mine"]
    assert make("some").knowledge() == ["facts"]
    assert make("none").datasets() == make("none").knowledge() == []


def test_all_means_what_can_be_made_offline_and_a_list_means_itself(make):
    everything = make("tiny").datasets()
    assert "mine" in everything
    assert "pbmc68k" in everything
    assert not {"bare", "own"} & set(everything)
    assert make("twins").datasets() == ["mine", "bare", "own"]


def test_fetch_is_told_of_the_query_only_where_the_real_thing_is_wanted(make):
    spec = json.loads(make("some").fetch_spec("asked"))
    assert spec["retrieve"] == "scgpt.fetch.census:retrieve"
    assert spec["params"] == {"version": "1", "organ": "lung"}
    assert spec["files"]["a.csv"]["urls"] == FILE["a.csv"]["urls"]
    assert set(json.loads(make("tiny").fetch_spec("asked"))) == {"resource", "files"}
    assert set(json.loads(make("some").fetch_spec("mine"))) == {"resource", "files"}


def test_what_all_scales_share_does_not_depend_on_the_scale(make):
    public = make("some").fetch_spec("asked", public=True)
    assert json.loads(public)["retrieve"] == "scgpt.fetch.census:retrieve"
    assert (
        make("tiny").fetch_spec("asked", public=True) == public == make("some").fetch_spec("asked")
    )


def test_twin_is_told_what_to_write_and_all_twins_share_a_seed(make):
    catalogue = make("tiny")
    specs = [json.loads(catalogue.twin_spec(name)) for name in ("mine", "facts", "scgpt_human")]
    assert specs[0]["twin"] == DATASET["twin"] == catalogue.twin_entry("mine")
    assert specs[0]["files"] == ["a.csv"]
    assert len({spec["seed"] for spec in specs}) == 1


def test_knowledge_step_knows_whether_counts_can_be_compared(make):
    assert json.loads(make("tiny").knowledge_spec("facts"))["twin"] is True
    spec = json.loads(make("some").knowledge_spec("facts"))
    assert spec["twin"] is False
    assert spec["params"] == {"file": "a.csv"}


def test_unknown_and_missing_things_are_named(make):
    with pytest.raises(ConfigError, match="'pbmc68k' is not downloaded. Known names: adamson"):
        make("tiny").fetch_spec("pbmc68k")
    with pytest.raises(ConfigError, match="'bare' has no twin, but scale 'tiny' takes"):
        make("tiny").twin_spec("bare")
    with pytest.raises(ConfigError, match=r"datasets\.bare\.twin: 'bare' has no twin"):
        make("twins").check([])


@pytest.mark.parametrize(
    ("scale", "needed", "changed", "message"),
    [
        (
            "tiny",
            "mine",
            {"mine": {"twin_params": {"n_cell": 3}}},
            r"datasets\.mine\.twin_params\.n_cell: unknown key",
        ),
        (
            "tiny",
            "mine",
            {"mine": {"twin": "scgpt.twins.perturbation:adamso"}},
            r"datasets\.mine\.twin: .*adamso",
        ),
        (
            "some",
            "asked",
            {"asked": {"retrieve_params": {"versio": "1"}}},
            r"datasets\.asked\.retrieve_params\.versio: unknown key",
        ),
    ],
)
def test_wrong_parameters_stop_before_the_first_job(make, scale, needed, changed, message):
    make(scale).check([needed])
    with pytest.raises(ConfigError, match=message):
        make(scale, **changed).check([needed])


def test_other_scales_do_not_stop_this_one(make):
    make("some", bare={"twin_params": {"x": 1}}).check(["bare"])


@pytest.mark.parametrize(
    "block", [FileSpec, DatasetConfig, KnowledgeConfig, ModelConfig, Expected, ScaleConfig]
)
def test_every_key_is_explained(root, block):
    text = re.sub(r"(?s)```.*?```", "", (root / "config/README.md").read_text())
    named = " ".join(re.findall(r"`([^`\n]+)`", text))
    assert [name for name in block.model_fields if not re.search(rf"\b{name}\b", named)] == []
