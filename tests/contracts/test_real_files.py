"""Real files, where they are at hand, become data sets and tables by the blocks of the catalogue.

`pytest -rP tests/contracts/test_real_files.py` shows what was found in each. Real files in other
wrappings (BMMC, multiome, PBMC 10k) are read in the unit tests of their readers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from scgpt.data import contracts
from scgpt.data.io import read_h5ad
from scgpt.data.tables import read_table
from scgpt.files import read_json, sha256_file, write_json
from scgpt.plan.plan import load_plan
from scgpt.steps import dataset, knowledge

ROOT = Path(__file__).resolve().parents[2]
RAW = {}
for _path in sorted((ROOT / "config").glob("*.yaml")):
    RAW |= yaml.safe_load(_path.read_text())
PLAN = load_plan(RAW, "paper")

DATASETS = {
    "norman": (
        "perturb_norman_mcfaline_devel/norman19_devel_gears_schema.h5ad",
        {"n_cells": 3375, "n_genes": 500, "n_conditions": 33, "n_cell_types": 1},
        ["n_conditions: found 33, expected 236"],
    ),
    "census_pancreas": (
        "census_placenta_ibm/cellxgene.h5ad",
        {"n_cells": 220, "n_genes": 18357, "n_cell_types": 22, "n_donors": 26},
        [],
    ),
}
KNOWLEDGE = {
    "reactome": ("ReactomePathways.gmt", {}, {"n_sets": 2751}),
    "chip_atlas": (
        "chipatlas_BHLHE40.10.tsv",
        {"regulators": ["BHLHE40"]},
        {"n_regulators": 1, "n_targets": 15805},
    ),
    "gears_go_graph": ("gears_go_graph_subset.csv", {}, {}),
    "scgpt_gene_vocabulary": ("../vocab/default_gene_vocab.json", {}, {"n_genes": 48292}),
    "scgpt_census_vocabulary": ("../vocab/default_census_vocab.json", {}, {"n_genes": 60694}),
}


def placed(source, folder, name):
    """Copy a real file to where the step looks for it, with a record of it."""
    (folder / "raw").mkdir()
    shutil.copy2(source, folder / "raw" / name)
    entry = {"sha256": sha256_file(source), "size": source.stat().st_size, "url": str(source)}
    write_json(folder / "raw.json", {"files": {name: entry}})
    return {"raw": folder / "raw", "record": folder / "raw.json"}


def said(name, card):
    """Print what was found, and return it without what is absent."""
    found = {key: n for key, n in card["found"].items() if n is not None}
    print(f"{name}: {', '.join(f'{key} {n}' for key, n in found.items())}")
    for warning in card["warnings"]:
        print(f"  warning: {warning}")
    return found


@pytest.mark.parametrize("name", DATASETS)
def test_real_file_becomes_a_data_set_with_its_differences_named(shared_dir, tmp_path, name):
    path, expected, warnings = DATASETS[name]
    (wanted,) = PLAN.config.datasets[name].files
    places = placed(shared_dir / "data" / path, tmp_path, wanted)
    outputs = {"output": tmp_path / "x.h5ad", "card": tmp_path / "x.json"}
    spec = json.loads(PLAN.dataset_spec(name))
    dataset.run(spec, split=tmp_path / "x.tsv", **outputs, **places)
    card = read_json(outputs["card"])
    found = said(name, card)
    assert {key: found[key] for key in expected} == expected
    assert read_h5ad(outputs["output"], contracts.DATASET).n_obs == expected["n_cells"]
    differences = [warning for warning in card["warnings"] if ", expected " in warning]
    assert bool(differences) == bool(warnings)
    for start in warnings:
        assert any(warning.startswith(start) for warning in differences), start
    assert not card["twin"]
    units = len(read_table(tmp_path / "x.tsv", ("unit", "subset", "subgroup")))
    assert units == (expected["n_conditions"] if name == "norman" else 0)


@pytest.mark.parametrize("name", KNOWLEDGE)
def test_real_file_becomes_a_table(shared_dir, tmp_path, name):
    path, changed, expected = KNOWLEDGE[name]
    wanted = next(iter(PLAN.config.knowledge[name].files))
    places = placed(shared_dir / "data/genesets" / path, tmp_path, wanted)
    spec = json.loads(PLAN.catalogue.knowledge_spec(name))
    spec["params"] |= changed
    knowledge.run(spec, output=tmp_path / "x.tsv", card=tmp_path / "x.json", **places)
    found = said(name, read_json(tmp_path / "x.json"))
    assert {key: found[key] for key in expected} == expected
    assert all(n > 100 for key, n in found.items() if key not in ("n_regulators", "n_sets"))
