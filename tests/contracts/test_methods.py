"""What every declared method must keep (contract C4), tested on toy data of its task."""

from __future__ import annotations

import importlib
import os
import random
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from scgpt.data import contracts
from scgpt.errors import ConfigError
from scgpt.methods.base import MethodContext, load_method, parse_params
from scgpt.metrics.registry import compute, metrics_of
from scgpt.model.checkpoint import save_checkpoint
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import toy_annotation
import toy_integration
import toy_perturbation

ROOT = Path(__file__).resolve().parents[2]

SCGPT = "scgpt.methods.scgpt.annotation:ScGPTAnnotation"
INTEGRATION = "scgpt.methods.scgpt.integration:ScGPTIntegration"
ZERO_SHOT = "scgpt.methods.scgpt.integration:ScGPTZeroShot"
PERTURBATION = "scgpt.methods.scgpt.perturbation:ScGPTPerturbation"
SCVI = "scgpt.methods.packages.scvi_tools:SCVI"
GEARS = "scgpt.methods.packages.gears:GEARS"
NETWORK = {
    "d_model": 32,
    "n_heads": 2,
    "n_layers": 1,
    "d_ff": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "lr_decay": 1.0,
    "amp": "off",
}
SMALL = {
    SCGPT: {**NETWORK, "epochs": 10},
    INTEGRATION: {**NETWORK, "epochs": 3, "batch_size": 16},
    ZERO_SHOT: {"d_model": 32, "n_heads": 2, "n_layers": 1, "d_ff": 32, "batch_size": 16},
    PERTURBATION: {**NETWORK, "epochs": 4},
    SCVI: {"max_epochs": 20, "batch_size": 32},
    GEARS: {"epochs": 1, "hidden_size": 8},
}
"""Parameters that make a method fast enough for the toy data, by entry point."""

QUICK = {name: {"epochs": 1} for name in (SCGPT, INTEGRATION, PERTURBATION)} | {
    SCVI: {"max_epochs": 1}
}
"""Further ones, for tests that do not look at the result."""

HISTORY_KEYS = {
    "epoch", "step", "phase", "objective", "value", "lr", "seconds", "cells_per_second",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One method of one task."""

    name: str
    task: str
    entry_point: str
    role: str = "method"
    params: dict = field(default_factory=dict, hash=False)
    model: str | None = None
    knowledge: tuple = ()

    def __str__(self):
        return f"{self.task}-{self.name}"


def declared():
    """Return every method of the configuration, once per task."""
    methods = yaml.safe_load((ROOT / "config" / "methods.yaml").read_text())["methods"]
    for name, block in methods.items():
        for task, entry_point in block["tasks"].items():
            params = {**block.get("params", {}), **block.get("task_params", {}).get(task, {})}
            params |= SMALL.get(entry_point, {})
            role, model = block.get("role", "method"), block.get("model")
            knowledge = tuple(block.get("knowledge", ()))
            yield Case(name, task, entry_point, role, params, model, knowledge)


CASES = [
    *declared(),
    Case(
        "pretrained",
        "annotation",
        SCGPT,
        params={**SMALL[SCGPT], "init": "checkpoint", "ties": "random", "max_length": 12},
        model="toy",
    ),
]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return a small pretrained model whose vocabulary lacks some genes of the toy data."""
    genes = [f"G{i}" for i in range(3, 60)]
    for task in ("integration", "perturbation"):
        genes += sorted(toy(task)[0].var_names)[5:]
    genes = sorted(set(genes))
    tokens = [*genes, "<pad>", "<cls>", "<eoc>"]
    config = ScGPTConfig(
        n_tokens=len(tokens),
        pad_id=len(genes),
        d_model=32,
        n_heads=2,
        n_layers=1,
        d_ff=32,
        gepc="inner product",
        generative=True,  # as the released networks are
    )
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, ScGPT(config, seed=1), tokens)
    return folder


@cache
def toy(task):
    """Return (data, truth) of a task; a new task adds its toy data here."""
    return {
        "annotation": lambda: toy_annotation.task_data(background=0.3),
        "integration": toy_integration.task_data,
        "perturbation": toy_perturbation.task_data,
    }[task]()


@cache
def knowledge():
    """Return the files of knowledge bases that fit the toy data."""
    genes = [*sorted(toy("perturbation")[0].var_names), "Z1", "Z2"]
    return toy_perturbation.write_knowledge(Path(tempfile.mkdtemp()), genes)


SCHEMAS = {
    "annotation": contracts.ANNOTATION_PREDICTION,
    "integration": contracts.INTEGRATION_PREDICTION,
    "perturbation": contracts.PERTURBATION_PREDICTION,
}


def asked(task, data):
    """Return the names that the rows of a prediction must have, in this order."""
    if task == "annotation":
        return list(data.obs_names[data.obs["split"] == "test"])
    return list(data.obs_names) if task == "integration" else list(data.uns["queries"])


def run(case, data, *, checkpoint=None, scratch=None, seed=0, quick=False):
    """Fit and predict; return prediction and method."""
    params = {**case.params, **(QUICK.get(case.entry_point, {}) if quick else {})}
    found = load_method(case.entry_point)
    context = MethodContext(
        seed=seed,
        checkpoint=checkpoint if case.model else None,
        truth=toy(case.task)[1] if case.role == "positive_control" else None,
        knowledge={name: knowledge()[name] for name in case.knowledge},
        scratch=scratch,
    )
    method = found(parse_params(found, params), context)
    method.fit(data)
    return method.predict(data), method


@pytest.fixture(params=CASES, ids=str, scope="module")
def case(request):
    return request.param


@pytest.fixture(scope="module")
def outcome(case, checkpoint):
    """Return prediction and method of the first run, which several tests look at."""
    return run(case, toy(case.task)[0].copy(), checkpoint=checkpoint)


def assert_equal(first, second):
    """Compare two predictions by the names of rows and genes, to the last bit."""
    assert set(first.obs_names) == set(second.obs_names)
    second = second[first.obs_names, first.var_names]
    assert list(first.obs) == list(second.obs)
    for column in first.obs:
        one, two = (p.obs[column] for p in (first, second))
        if one.dtype.name == "category":
            one, two = one.astype(str), two.astype(str)
        assert np.array_equal(one.to_numpy(), two.to_numpy()), column
    assert set(first.obsm) == set(second.obsm)
    for slot in first.obsm:
        assert np.array_equal(first.obsm[slot], second.obsm[slot]), slot
    for slot in (None, *first.layers):
        one, two = ((p.X if slot is None else p.layers[slot]) for p in (first, second))
        assert (one is None) == (two is None)
        assert one is None or np.array_equal(one, two), slot


def test_the_prediction_passes_its_schema(case, outcome):
    prediction = outcome[0].copy()
    schema = SCHEMAS[case.task]
    keys = dict.fromkeys(schema.keys, "toy") | {"seed": 0}
    contracts.check(contracts.stamp(prediction, schema, **keys), schema)


def test_the_rows_are_what_was_asked_for_in_its_order(case, outcome):
    data, _ = toy(case.task)
    prediction = outcome[0]
    assert list(prediction.obs_names) == asked(case.task, data)
    if case.task == "annotation":
        assert not prediction.obs["cell_type_pred"].isna().any()
    if case.task == "perturbation":
        assert list(prediction.var_names) == list(data.var_names)
    if "X_emb" in prediction.obsm:
        assert np.isfinite(prediction.obsm["X_emb"]).all()


def test_scgpt_embeddings_have_unit_length(case, outcome):
    if "scgpt_" not in case.entry_point or "X_emb" not in outcome[0].obsm:
        pytest.skip("for embeddings of scGPT")
    lengths = np.linalg.norm(outcome[0].obsm["X_emb"], axis=1)
    assert np.allclose(lengths, 1, atol=1e-5)


def test_the_input_is_not_changed(case, checkpoint):
    data, _ = toy(case.task)
    given = data.copy()
    run(case, given, checkpoint=checkpoint, quick=True)
    assert given.obs.equals(data.obs)
    assert given.var.equals(data.var)
    assert list(given.layers) == list(data.layers)
    assert list(given.obsm) == list(data.obsm)
    assert list(given.uns) == list(data.uns)
    for found, expected in (
        (given.X, data.X),
        (given.layers["lognorm"], data.layers["lognorm"]),
    ):
        for part in ("data", "indices", "indptr"):
            assert np.array_equal(getattr(found, part), getattr(expected, part))
    assert np.array_equal(given.obsm["X_pca"], data.obsm["X_pca"])


def test_same_seed_same_output_and_the_order_of_cells_and_genes_is_nothing(
    case, outcome, checkpoint
):
    data, _ = toy(case.task)
    rng = np.random.default_rng(7)
    shuffled = data[rng.permutation(data.n_obs)][:, rng.permutation(data.n_vars)].copy()
    np.random.seed(99)  # noqa: NPY002 a method must not look at the global generators
    torch.rand(5)
    prediction, _ = run(case, shuffled, checkpoint=checkpoint)
    assert list(prediction.obs_names) == asked(case.task, shuffled)
    assert_equal(outcome[0], prediction)


def test_global_state_is_left_alone(case, outcome, checkpoint):
    del outcome  # what imports leave behind on first use is not the method's doing

    def state():
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (
            numpy_state[1].tobytes(),
            numpy_state[2],
            random.getstate(),
            torch.get_rng_state().numpy().tobytes(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            list(warnings.filters),
            dict(os.environ),
            Path.cwd(),
        )

    data = toy(case.task)[0].copy()
    load_method(case.entry_point)
    before = state()
    run(case, data, checkpoint=checkpoint, quick=True)
    assert state() == before


class FileWatch:
    """Records the files this process opens while `active`."""

    active = False
    opened: tuple = ()

    @classmethod
    def hook(cls, event, arguments):
        if cls.active and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            mode, flags = arguments[1], arguments[2] or 0
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) or (mode and set(mode) & set("wax+"))
            path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100 Path would recurse
            cls.opened = (*cls.opened, (path, bool(writes)))


sys.addaudithook(FileWatch.hook)
PROGRAM_FILES = tuple(
    str(folder)
    for folder in {sys.prefix, sys.base_prefix, ROOT / "scgpt", "/proc", "/sys", "/dev", "/usr"}
)


def test_files_are_written_to_scratch_only_and_nothing_foreign_is_read(
    case, outcome, checkpoint, tmp_path, monkeypatch
):
    del outcome  # imports and compiled code are in place after a first run
    scratch = tmp_path / "scratch"
    monkeypatch.chdir(tmp_path)
    data = toy(case.task)[0].copy()
    monkeypatch.setattr(FileWatch, "opened", ())
    monkeypatch.setattr(FileWatch, "active", True)
    run(case, data, checkpoint=checkpoint, scratch=scratch, quick=True)
    FileWatch.active = False
    own = (str(scratch), *PROGRAM_FILES, *([str(checkpoint)] if case.model else []))
    own += tuple(str(knowledge()[name]) for name in case.knowledge)
    # Packages that look for others walk sys.path, where an editable install has a placeholder.
    opened = [path for path, _ in FileWatch.opened if "__editable__" not in path]
    foreign = [path for path in opened if not path.startswith(own)]
    assert foreign == []
    written = [path for path, writes in FileWatch.opened if writes and not path.startswith("/dev/")]
    assert [path for path in written if not path.startswith(str(scratch))] == []
    assert {path.name for path in tmp_path.iterdir()} <= {"scratch"}


def test_unknown_parameters_are_refused_with_the_known_ones(case):
    found = load_method(case.entry_point)
    with pytest.raises(ConfigError, match=r"\.no_such_key: unknown key\. Known keys: "):
        parse_params(found, {**case.params, "no_such_key": 1})


def test_history_rows_have_their_keys(outcome):
    for row in outcome[1].history:
        assert set(row) == HISTORY_KEYS
        assert np.isfinite(row["value"])


def score(task, prediction, truth):
    """Return the value of one telling metric of the task."""
    if task == "annotation":
        return toy_annotation.accuracy(prediction, truth)
    wanted = {"integration": "avg_bio", "perturbation": "discrimination_l2"}[task]
    metrics = metrics_of([f"scgpt.metrics.{task}"], task)
    arrays = importlib.import_module(f"scgpt.tasks.{task}").scoring_arrays(prediction, truth)
    rows = compute(next(metric for metric in metrics if metric.name == wanted), arrays)
    return next(row["value"] for row in rows if not row["group"])


def limits(task, truth):
    """Return what no negative control exceeds, what a positive one reaches, and a method beats."""
    if task == "annotation":
        majority = (truth.obs["cell_type"] == "T").mean()
        return majority, 1.0, majority + 0.2
    return {"integration": (0.18, 0.999, 0.7), "perturbation": (0.55, 0.95, 0.7)}[task]


def learns_in_seconds(case):
    """Tell whether the toy data suffice; scGPT and GEARS only reach the floor on them.

    What those two learn is held to account on more data, in their own tests and on the twins.
    """
    return case.task == "annotation" or not (case.name.startswith("scgpt") or case.name == "gears")


def test_scores_stand_where_the_role_puts_them(case, outcome):
    _, truth = toy(case.task)
    value = score(case.task, outcome[0], truth)
    floor, ceiling, beaten = limits(case.task, truth)
    if case.role == "positive_control":
        assert value >= ceiling
    elif case.role in ("negative_control", "attack"):
        assert value <= floor
    elif learns_in_seconds(case):
        assert value > beaten
    else:
        # Prepared vectors of cells tell something; changes learnt in seconds may tell nothing.
        assert (floor if case.task == "integration" else floor - 0.1) < value < ceiling
