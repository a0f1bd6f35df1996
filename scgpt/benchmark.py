"""The Plan: which jobs a scale runs, with which resolved parameters, from which code.

Pure Python on the typed configuration. The Snakefile only asks the Plan; nothing here reads data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scgpt.checks import check_call, check_params, check_references, load
from scgpt.config import Config, Selection, parse_config
from scgpt.errors import ConfigError
from scgpt.files import canonical_json
from scgpt.provenance import code_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgpt.config import DatasetConfig, ScaleConfig, TaskConfig


@dataclass(frozen=True, order=True)
class Job:
    """One prediction: a method on a split of a data set of a task, with a seed."""

    task: str
    dataset: str
    split: str
    method: str
    seed: int

    def folder(self, scale: str) -> str:
        """Return the folder of the job's results."""
        return (
            f"results/{scale}/{self.task}/{self.dataset}/{self.split}/{self.method}"
            f"/seed-{self.seed}"
        )


class Plan:
    """Everything one scale runs.

    Parameters
    ----------
    config
        The checked configuration.
    scale
        Name of the scale; `config.scale` if not given.

    Raises
    ------
    ConfigError
        For an unknown name or parameter anywhere, with its key path and the known names.
    """

    def __init__(self, config: Config, scale: str | None = None) -> None:
        self.config = config
        self.scale = config.scale if scale is None else scale
        self.settings: ScaleConfig = _look_up(config.scales, self.scale, "scale")
        check_references(config)

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks of the scale, in the order of the catalogue."""
        return [name for name in self.config.tasks if name in self.settings.run]

    def datasets(self, task: str | None = None) -> list[str]:
        """Return the data sets of a task, or of the whole scale."""
        if task is None:
            wanted = {name for each in self.tasks for name in self.datasets(each)}
            return [name for name in self.config.datasets if name in wanted]
        able = [name for name, block in self.config.datasets.items() if task in block.tasks]
        return _select(self.settings.run[task].datasets, able)

    def methods(self, task: str) -> list[str]:
        """Return the methods of a task at this scale."""
        able = [name for name, block in self.config.methods.items() if task in block.tasks]
        return _select(self.settings.run[task].methods, able)

    def splits(self, task: str) -> list[str]:
        """Return the splits of a task at this scale."""
        return _select(self.settings.run[task].splits, list(self.config.tasks[task].splits))

    def seeds(self, method: str) -> list[int]:
        """Return the seeds of a method: all, or the first for one without randomness."""
        seeds = self.settings.seeds
        return seeds if self.config.methods[method].stochastic else seeds[:1]

    def jobs(self, task: str, dataset: str | None = None) -> list[Job]:
        """Return the predictions of a task, or of one data set of it."""
        return [
            Job(task, name, split, method, seed)
            for name in ([dataset] if dataset else self.datasets(task))
            for split in self.splits(task)
            for method in self.methods(task)
            for seed in self.seeds(method)
        ]

    @cached_property
    def figures(self) -> list[str]:
        """Figures that this scale can draw: their task, and their method, run here."""
        able = [
            name
            for name, block in self.config.figures.items()
            if block.task in self.tasks
            and (block.method is None or block.method in self.methods(block.task))
        ]
        return _select(self.settings.figures, able)

    def dataset_spec(self, dataset: str) -> str:
        """Return what the `dataset` step needs to know."""
        block = self.config.datasets[dataset]
        return canonical_json(
            {
                "dataset": dataset,
                "reader": block.reader,
                "params": self._dataset_params(block),
                "limits": self.settings.limits.model_dump(),
                "expected": block.expected.model_dump(),
                "title": block.title,
                "kind": block.kind,
                "reference": block.reference,
                "license": block.license,
                "notes": block.notes,
            }
        )

    def task_spec(self, task: str, dataset: str, split: str) -> str:
        """Return what the `task-data` step needs to know."""
        block = self.config.tasks[task]
        return canonical_json(
            {
                "scale": self.scale,
                "task": task,
                "dataset": dataset,
                "split": split,
                "module": block.module,
                "params": self._task_params(block),
                "seed": block.splits[split].seed,
            }
        )

    def method_spec(self, task: str, method: str) -> str:
        """Return what the `predict` step needs to know about the method."""
        block = self.config.methods[method]
        return canonical_json(
            {
                "method": method,
                "entry": block.tasks[task],
                "role": block.role,
                "gpus": block.gpus,
                "params": self.method_params(task, method),
            }
        )

    def method_params(self, task: str, method: str) -> dict[str, Any]:
        """Resolve the parameters: `params` < `task_params[task]` < `scale_params[scale]`."""
        block = self.config.methods[method]
        return merge(
            block.params, block.task_params.get(task, {}), block.scale_params.get(self.scale, {})
        )

    def score_spec(self, task: str) -> str:
        """Return what the `score` step needs to know."""
        block = self.config.tasks[task]
        return canonical_json({"task": task, "module": block.module, "metrics": block.metrics})

    def coordinates_spec(self, task: str) -> str:
        """Return what the `coordinates` step needs to know."""
        return canonical_json({"task": task, "module": self.config.tasks[task].module})

    def table_spec(self, task: str) -> str:
        """Return what the `table` step needs to know: the roles decide floor and ceiling."""
        roles = {name: self.config.methods[name].role for name in self.methods(task)}
        return canonical_json(
            {"task": task, "roles": roles, "metrics": self.config.tasks[task].metrics}
        )

    def figure_spec(self, figure: str) -> str:
        """Return the panels of a figure, those that repeat over data sets spelled out."""
        block = self.config.figures[figure]
        panels = []
        for panel in block.panels:
            entry = panel.model_dump(exclude={"repeat"})
            if panel.repeat is None:
                panels.append(entry)
                continue
            for dataset in self.datasets(block.task):
                title = panel.title.replace("{dataset}", self.config.datasets[dataset].title)
                where = {**panel.where, "dataset": dataset}
                panels.append({**entry, "where": where, "title": title})
        titles = {name: self.config.methods[name].title for name in self.methods(block.task)}
        return canonical_json(
            {
                "figure": figure,
                "title": block.title,
                "caption": block.caption,
                "columns": block.columns,
                "panels": panels,
                "method_titles": titles,
                "dataset_titles": {
                    name: self.config.datasets[name].title for name in self.datasets(block.task)
                },
            }
        )

    def drawn_jobs(self, figure: str) -> list[Job]:
        """Return the jobs whose cells a figure draws: first split, first seed, every data set."""
        block = self.config.figures[figure]
        if block.method is None:
            return []
        return [
            Job(
                block.task,
                dataset,
                self.splits(block.task)[0],
                block.method,
                self.seeds(block.method)[0],
            )
            for dataset in self.datasets(block.task)
        ]

    def report_spec(self) -> str:
        """Return everything the report says that stands in the configuration."""
        config, tasks = self.config, {}
        for task in self.tasks:
            block = config.tasks[task]
            tasks[task] = {
                "title": block.title,
                "description": block.description,
                "headline": block.headline,
                "metrics": block.metrics,
                "splits": self.splits(task),
                "datasets": self.datasets(task),
                "figures": [name for name in self.figures if config.figures[name].task == task],
                "methods": [
                    {
                        "name": name,
                        "title": config.methods[name].title,
                        "role": config.methods[name].role,
                        "description": config.methods[name].description,
                        "reference": config.methods[name].reference,
                        "params": self.method_params(task, name),
                    }
                    for name in self.methods(task)
                ],
            }
        return canonical_json(
            {
                "scale": self.scale,
                "description": self.settings.description,
                "seeds": self.settings.seeds,
                "tasks": tasks,
                "figures": {
                    name: {
                        "title": config.figures[name].title,
                        "caption": config.figures[name].caption,
                    }
                    for name in self.figures
                },
            }
        )

    def code(self, step: str, *entries: str) -> str:
        """Return the digest of a step's module and of the entry points it calls."""
        return code_digest(f"scgpt.steps.{step}", *entries)

    def check_parameters(self) -> None:
        """Check every reader, task and method parameter of this scale against its typed class.

        Raises
        ------
        ConfigError
            With the key path, what was found and the known names.
        """
        for name in self.datasets():
            block = self.config.datasets[name]
            check_call(block.reader, self._dataset_params(block), f"datasets.{name}.params")
        for task in self.tasks:
            block = self.config.tasks[task]
            params = load(f"{block.module}:Params", f"tasks.{task}.module")
            check_params(params, self._task_params(block), f"tasks.{task}.params")
            for method in self.methods(task):
                where = f"methods.{method}"
                entry = load(self.config.methods[method].tasks[task], f"{where}.tasks.{task}")
                check_params(entry.Params, self.method_params(task, method), f"{where}.params")

    def _dataset_params(self, block: DatasetConfig) -> dict[str, Any]:
        return merge(block.params, block.scale_params.get(self.scale, {}))

    def _task_params(self, block: TaskConfig) -> dict[str, Any]:
        return merge(block.params, block.scale_params.get(self.scale, {}))


def merge(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, later ones winning: mappings are merged, lists and scalars replaced."""
    result: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            old = result.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            result[key] = merge(old, value) if both else value
    return result


def _look_up(mapping: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in mapping:
        msg = f"{where}: '{name}' is not defined. Known names: {', '.join(mapping)}"
        raise ConfigError(msg)
    return mapping[name]


def _select(selection: Selection, able: list[str]) -> list[str]:
    return able if selection == "all" else [name for name in able if name in selection]


def load_plan(raw: dict[str, Any], scale: str | None = None) -> Plan:
    """Check a merged raw configuration and return the Plan of a scale."""
    return Plan(parse_config(raw), scale)
