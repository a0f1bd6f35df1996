"""Adapters from wildcards to the Plan; no logic of its own.

Inputs: the merged configuration. Outputs: `PLAN` (the scale asked for), `plan(wildcards)`.
"""

import sys
from functools import lru_cache

sys.path.insert(0, workflow.basedir)  # the package stands beside the Snakefile

from scgpt.plan.plan import Plan
from scgpt.plan.config import parse_config
from scgpt.errors import ConfigError
from scgpt.plan.digest import run_steps_in_this_python
from snakemake.exceptions import WorkflowError

run_steps_in_this_python()


def _checked_plan():
    try:
        plan = Plan(parse_config(config))
        plan.check_parameters()
    except ConfigError as error:
        raise WorkflowError(f"config: {error}") from None
    return plan


PLAN = _checked_plan()


@lru_cache
def plan_of(scale):
    return PLAN if scale == PLAN.scale else Plan(PLAN.config, scale)


def plan(wildcards):
    return plan_of(wildcards.scale)


def twin_folder(wildcards):
    return f"results/{wildcards.scale}/twins/{wildcards.resource}"


def one_of(names):
    return "|".join(names) or "(?!)"  # nothing matches where there are no names


wildcard_constraints:
    scale=one_of(PLAN.config.scales),
    task=one_of(PLAN.config.tasks),
    dataset=one_of(PLAN.config.datasets),
    knowledge=one_of(PLAN.config.knowledge),
    model=one_of(PLAN.config.models),
    resource=one_of(PLAN.catalogue.resources),
    split=one_of({name for task in PLAN.config.tasks.values() for name in task.splits}),
    method=one_of(PLAN.config.methods),
    figure=one_of(PLAN.config.figures),
    drawn=one_of({name for task in PLAN.config.tasks.values() for name in task.drawn}),
    seed=r"\d+",


def task_module(wildcards):
    return PLAN.config.tasks[wildcards.task].module


def method_of(wildcards):
    return PLAN.config.methods[wildcards.method]


def dataset_records(wildcards):
    """What a data set waits for: the record of its download, if it is downloaded."""
    return plan(wildcards).catalogue.dataset_records(wildcards.dataset)


def raw_flags(wildcards):
    records = dataset_records(wildcards)
    if not records:
        return ""
    folder = plan(wildcards).catalogue.folder(wildcards.dataset)
    return f"--raw {folder} --record {records[0]}"


def card_files(wildcards):
    """The cards of all data sets and knowledge bases that the scale prepares."""
    current = plan(wildcards)
    names = [f"datasets/{name}" for name in current.prepared]
    names += [f"knowledge/{name}" for name in current.catalogue.knowledge()]
    return [f"results/{wildcards.scale}/{name}.json" for name in names]


def method_inputs(wildcards):
    """The truth, for positive controls alone; checkpoint and knowledge, for methods that name them."""
    folder = "results/{scale}/{task}/{dataset}/{split}".format(**wildcards)
    method = method_of(wildcards)
    files = {"data": f"{folder}/data.h5ad"}
    if method.role == "positive_control":
        files["truth"] = f"{folder}/truth.h5ad"
    if method.model is not None:
        files["checkpoint"] = plan(wildcards).catalogue.model(method.model)
    for name in method.knowledge:
        files[f"knowledge_{name}"] = f"results/{wildcards.scale}/knowledge/{name}.tsv"
    return files


def method_flags(wildcards):
    files = method_inputs(wildcards)
    flags = [f"--truth {files['truth']}"] if "truth" in files else []
    if "checkpoint" in files:
        folder = plan(wildcards).catalogue.model_folder(method_of(wildcards).model)
        flags.append(f"--checkpoint {folder}")
    for name in method_of(wildcards).knowledge:
        flags.append(f"--knowledge {name}={files[f'knowledge_{name}']}")
    return " ".join(flags)


def job_folders(wildcards):
    jobs = plan(wildcards).jobs(wildcards.task, wildcards.dataset, wildcards.split)
    return [job.folder(wildcards.scale) for job in jobs]


def job_files(wildcards):
    names = ("prediction.h5ad", "run.json")
    return [f"{folder}/{name}" for folder in job_folders(wildcards) for name in names]


def per_split(name):
    def files(wildcards):
        scale, task, current = wildcards.scale, wildcards.task, plan(wildcards)
        return [
            f"results/{scale}/{task}/{dataset}/{split}/{name}"
            for dataset in current.datasets(task)
            for split in current.splits(task)
        ]

    return files


def figure_tables(wildcards):
    return plan(wildcards).drawn_tables(wildcards.figure)


def drawing_code(wildcards):
    """The plots of a figure, and the metrics of its task, which name the scores."""
    figure = PLAN.config.figures[wildcards.figure]
    plots = sorted({panel.plot for panel in figure.panels})
    return plots + PLAN.config.tasks[figure.task].metrics


def metric_modules(wildcards):
    return sorted(
        {
            name
            for task in plan(wildcards).tasks
            for name in PLAN.config.tasks[task].metrics
        }
    )


def report_files(wildcards):
    """Every table, figure and card that the report reads."""
    scale, current = wildcards.scale, plan(wildcards)
    names = [
        f"tables/{task}_{name}.tsv"
        for task in current.tasks
        for name in ("scores", "summary", "comparisons", "runs")
    ]
    names += [
        f"figures/{figure}.{suffix}"
        for figure in current.figures
        for suffix in ("png", "tsv")
    ]
    names += [f"datasets/{dataset}.json" for dataset in current.datasets()]
    names += [
        f"{task}/{dataset}/{split}/split.json"
        for task in current.tasks
        for dataset in current.datasets(task)
        for split in current.splits(task)
    ]
    return [f"results/{scale}/{name}" for name in names]
