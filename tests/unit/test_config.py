"""Wrong names and keys are found before any job exists, with path and known names."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

from scgpt.errors import ConfigError
from scgpt.plan.config import Config, parse_config
from scgpt.plan.plan import Plan, merge


@pytest.fixture
def raw(root):
    merged = {}
    for path in sorted((root / "config").glob("*.yaml")):
        merged |= yaml.safe_load(path.read_text())
    return merged


def edited(raw, path, value):
    changed = copy.deepcopy(raw)
    *parents, last = path.split(".")
    block = changed
    for name in parents:
        block = block[name]
    block[last] = value
    return changed


def load(raw, scale="tiny"):
    plan = Plan(parse_config(raw), scale)
    plan.check_parameters()
    return plan


@pytest.mark.parametrize("scale", ["tiny", "paper", "real", "rehearsal"])
def test_shipped_configuration_is_valid(raw, scale):
    plan = load(raw, scale)
    assert plan.tasks
    assert all(plan.jobs(task) for task in plan.tasks)


def test_rehearsal_runs_the_plan_of_the_paper(raw):
    paper, rehearsal = load(raw, "paper"), load(raw, "rehearsal")
    assert [paper.jobs(task) for task in paper.tasks] == [
        rehearsal.jobs(task) for task in rehearsal.tasks
    ]
    assert paper.prepared == rehearsal.prepared
    assert paper.catalogue.knowledge() == rehearsal.catalogue.knowledge()
    assert not paper.catalogue.is_twin
    assert rehearsal.catalogue.is_twin


def test_schema_file_is_current(root):
    stored = json.loads((root / "workflow/schemas/config.schema.json").read_text())
    assert stored == Config.model_json_schema(), (
        "run: python -m scgpt schema --output workflow/schemas/config.schema.json"
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("scales.tiny.run.annotation.methods", ["scgtp"], "methods: 'scgtp' is not defined. Known"),
        ("scales.tiny.run.annotation.datasets", ["pbmc"], "datasets: 'pbmc' is not defined. Known"),
        ("scales.tiny.run.annotation.splits", ["s"], "splits: 's' is not defined. Known"),
        ("scales.tiny.limits.max_cell", 3, "scales.tiny.limits.max_cell: unknown key. Known keys"),
        ("scales.tiny.seeds", [], "scales.tiny.seeds: List should have at least 1 item"),
        (
            "scales.tiny.seeds",
            [-1],
            "seeds.0: Input should be greater than or equal to 0 (found -1)",
        ),
        ("scales.tiny.seeds", [0, 0], "scales.tiny.seeds: 0 stands there more than once; name"),
        (
            "scales.tiny.run.annotation.methods",
            ["knn_pca", "knn_pca"],
            "scales.tiny.run.annotation.methods: knn_pca stands there more than once",
        ),
        ("tasks.annotation.splits.split_1", {"seed": -1}, "split_1.seed: Input should be greater"),
        ("tasks.annotation.headline", ["nmi"], "annotation.headline: 'nmi' is not defined. Known"),
        (
            "tasks.annotation.metrics",
            ["scgpt.metrics.foo"],
            "tasks.annotation.metrics.0: module 'scgpt.metrics.foo' does not exist",
        ),
        (
            "tasks.annotation.metrics",
            ["scgpt.metrics.integration"],
            "tasks.annotation.metrics: no metric for task 'annotation' in scgpt.metrics.integ",
        ),
        (
            "methods.knn_pca.params",
            {"n_neighbors": "ten"},
            "methods.knn_pca.params.n_neighbors: Input should be a valid integer",
        ),
        (
            "methods.knn_pca.params",
            {"n_neighbors": -3},
            "methods.knn_pca.params.n_neighbors: Input should be greater than or equal to 1 (found",
        ),
        (
            "tasks.annotation.params",
            {"n_pcs": "many"},
            "tasks.annotation.params.n_pcs: Input should be a valid integer",
        ),
        ("scales.tiny.run.annotate", {}, "scales.tiny.run.annotate.datasets: required key"),
        ("methods.knn_pca.parms", {}, "methods.knn_pca.parms: unknown key. Known keys"),
        ("methods.knn_pca.params", {"kk": 3}, "methods.knn_pca.params.kk: unknown key. Known"),
        ("methods.knn_pca.tasks", {"anno": "a:b"}, "methods.knn_pca.tasks: 'anno' is not defined"),
        (
            "methods.knn_pca.tasks",
            {"annotation": "scgpt.methods.nothing:KNN"},
            "methods.knn_pca.tasks.annotation: module 'scgpt.methods.nothing' does not exist",
        ),
        (
            "methods.knn_pca.tasks",
            {"annotation": "scgpt.methods.baselines.knn:Nothing"},
            "tasks.annotation: module 'scgpt.methods.baselines.knn' has no class 'Nothing'",
        ),
        ("methods.knn_pca.role", "control", "methods.knn_pca.role: Input should be 'method'"),
        ("methods.scgpt_scratch.model", "human", "methods.scgpt_scratch.model: 'human' is not"),
        ("datasets.pbmc68k.tasks", ["x"], "datasets.pbmc68k.tasks: 'x' is not defined"),
        ("datasets.twin_hpancreas.params", {"n": 1}, "twin_hpancreas.params.n: unknown key. Known"),
        ("scales.tiny.catalogue", ["x"], "scales.tiny.catalogue: 'x' is not defined. Known names"),
        ("datasets.adamson.twin", "scgpt.twins.x:y", "datasets.adamson.twin: module 'scgpt."),
        ("datasets.adamson.twin_params", {"n": 1}, "adamson.twin_params.n: unknown key. Known"),
        ("datasets.adamson.files", {}, "datasets.adamson.files: expected for kind download, and"),
        ("datasets.pbmc68k.files", {"a": {"urls": ["b"]}}, "pbmc68k.files: expected for kind"),
        ("tasks.annotation.params", {"n_pc": 1}, "tasks.annotation.params.n_pc: unknown key"),
        ("figures.fig2.method", ["scgtp"], "figures.fig2.method: 'scgtp' is not defined"),
    ],
)
def test_wrong_name_is_explained(raw, path, value, message):
    with pytest.raises(ConfigError) as caught:
        load(edited(raw, path, value))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        (
            {"plot": "scgpt.figures.umap:umapp"},
            "0.plot: 'scgpt.figures.umap:umapp' is not a plot. Known plots of the module: "
            "scgpt.figures.umap:umap, scgpt.figures.umap:category_legend",
        ),
        ({"plot": "scgpt.figures.umap:umap_rows"}, "0.plot: 'scgpt.figures.umap:umap_rows' is not"),
        ({"plot": "scgpt.figures.umap"}, "0.plot: 'scgpt.figures.umap' is not a plot"),
        ({"plot": "scgpt.figures.x:umap"}, "0.plot: module 'scgpt.figures.x' does not exist"),
        ({"options": {"lable": "x"}}, "0.options.lable: unknown key. Known keys: axis_name, col"),
        ({"table": "changes"}, "0.table: task 'annotation' has no 'changes'. Known names: scores"),
        ({"score": "nmi"}, "0.score: task 'annotation' has no 'nmi'. Known names: accuracy"),
        ({"span": 99}, "0.span: 99 is wider than a row of 12"),
    ],
)
def test_wrong_panel_is_explained(raw, panel, message):
    block = copy.deepcopy(raw["figures"]["fig2"])
    block["panels"][0] |= panel
    with pytest.raises(ConfigError) as caught:
        load(edited(raw, "figures.fig2", block))
    assert str(caught.value).startswith(f"figures.fig2.panels.{message}")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "models.scgpt_human.twin",
            None,
            "models.scgpt_human.twin: 'scgpt_human' has no twin, but",
        ),
        ("models.scgpt_human.twin_params", {"x": 1}, "scgpt_human.twin_params.x: unknown key"),
        ("datasets.myeloid.twin", None, "datasets.myeloid.twin: 'myeloid' has no twin, but scale"),
        ("knowledge.gene2go.twin", None, "knowledge.gene2go.twin: 'gene2go' has no twin"),
    ],
)
def test_rehearsal_needs_a_twin_of_everything_it_fetches(raw, path, value, message):
    with pytest.raises(ConfigError) as caught:
        load(edited(raw, path, value), "rehearsal")
    assert message in str(caught.value)
    load(edited(raw, path, value), "paper")


def test_names_are_shared_by_everything_that_is_fetched(raw):
    wrong = edited(raw, "knowledge.adamson", raw["knowledge"]["trrust"])
    with pytest.raises(
        ConfigError, match=r"knowledge\.adamson: the name is taken by datasets\.ada"
    ):
        load(wrong)


def test_parameters_of_a_query_are_checked(raw):
    wrong = edited(raw, "datasets.census_pancreas.retrieve_params", {"organs": "pancreas"})
    wrong = edited(wrong, "scales.paper.catalogue", ["census_pancreas"])
    with pytest.raises(ConfigError, match=r"census_pancreas\.retrieve_params\.organs: unknown key"):
        load(wrong, "paper")


def test_all_problems_are_reported_at_once(raw):
    wrong = edited(raw, "scales.tiny.run.annotation.methods", ["scgtp"])
    wrong = edited(wrong, "datasets.pbmc68k.tasks", ["annotation", "x"])
    with pytest.raises(ConfigError) as caught:
        load(wrong)
    assert len(str(caught.value).splitlines()) == 2


def test_unknown_scale_is_named(raw):
    with pytest.raises(ConfigError, match="scale: 'huge' is not defined. Known names: demo,"):
        load(edited(raw, "scale", "huge"), None)


def test_parameters_resolve_in_one_order(raw):
    raw = edited(raw, "methods.scgpt_scratch.params", {"epochs": 1, "batch_size": 8})
    raw = edited(raw, "methods.scgpt_scratch.task_params", {"annotation": {"epochs": 2}})
    assert load(raw).method_params("annotation", "scgpt_scratch")["epochs"] == 2
    raw = edited(raw, "methods.scgpt_scratch.scale_params", {"tiny": {"epochs": 3}})
    resolved = load(raw).method_params("annotation", "scgpt_scratch")
    assert (resolved["epochs"], resolved["batch_size"]) == (3, 8)


def test_merge_replaces_lists_and_merges_mappings():
    first = {"a": {"x": 1, "y": 2}, "b": [1, 2]}
    assert merge(first, {"a": {"y": 3}, "b": [9]}) == {"a": {"x": 1, "y": 3}, "b": [9]}
    assert first == {"a": {"x": 1, "y": 2}, "b": [1, 2]}


def test_methods_without_randomness_run_once_per_split(raw):
    plan = load(raw)
    jobs = plan.jobs("annotation", "pbmc68k")
    n_splits, n_seeds = len(plan.splits("annotation")), len(plan.settings.seeds)
    assert sum(job.method == "knn_pca" for job in jobs) == n_splits
    assert sum(job.method == "scgpt_scratch" for job in jobs) == n_splits * n_seeds
    assert len(set(jobs)) == len(jobs)


def test_new_dataset_block_adds_only_its_jobs(raw):
    raw = edited(raw, "scales.paper.run.annotation.datasets", "all")
    before = set(load(raw, "paper").jobs("annotation"))
    block = copy.deepcopy(raw["datasets"]["pbmc68k"])
    after = set(load(edited(raw, "datasets.another", block), "paper").jobs("annotation"))
    assert before < after
    assert {job.dataset for job in after - before} == {"another"}


def test_panels_repeat_over_methods_side_by_side(raw):
    plan = load(raw)
    figure = json.loads(plan.figure_spec("fig4a"))["figure"]
    rows = [panel for panel in figure["panels"] if "method" in panel["where"]]
    drawn = plan.drawn_methods("fig4a")
    assert drawn == ["scgpt_scratch_integration", "scvi", "harmony", "pca_hvg"]
    assert [panel["where"]["method"] for panel in rows] == drawn * 2
    assert [panel["letter"] for panel in rows] == [True, False, False, False] * 2
    assert rows[1]["title"] == "PBMC 10k\nscVI"
    assert rows[5]["title"] == "scVI"
    assert [panel["score"] for panel in rows] == ["avg_bio"] * 4 + ["avg_batch"] * 4


def test_figures_draw_what_their_task_tabulates(raw):
    plan = load(raw)
    tables = plan.drawn_tables("fig3")
    assert "results/tiny/tables/perturbation_summary.tsv" in tables
    jobs = [name for name in tables if "/seed-" in name]
    assert {name.rsplit("/", 1)[1] for name in jobs} == {"changes.tsv"}
    assert len(jobs) == 2  # one method on two data sets


def test_a_figure_without_any_of_its_methods_is_left_out(raw):
    raw = edited(raw, "scales.tiny.run.integration.methods", ["unintegrated"])
    assert "fig4a" not in load(raw).figures


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("methods.gears.knowledge", ["gene2gone"], "methods.gears.knowledge: 'gene2gone'"),
        ("figures.fig4a.methods", ["gears"], "figures.fig4a.methods: 'gears' is not defined"),
    ],
)
def test_wrong_references_of_methods_and_figures(raw, path, value, message):
    with pytest.raises(ConfigError, match=message):
        load(edited(raw, path, value))


BUDGETS = (("scgpt_scratch", "annotation"), ("scgpt_scratch_integration", "integration"))


def test_scgpt_from_scratch_has_the_training_budget_of_the_fine_tuned_one(raw):
    plan = load(raw, "paper")
    for scratch, task in BUDGETS:
        tuned, own = (plan.method_params(task, name) for name in ("scgpt", scratch))
        for name in ("epochs", "batch_size", "learning_rate", "lr_decay", "dropout"):
            assert own[name] == tuned[name], (task, name)
