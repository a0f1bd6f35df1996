"""The Plan: which jobs a scale runs, with which resolved parameters, from which code.

Pure Python on the typed configuration. The Snakefile only asks the Plan; nothing here reads data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scgpt.errors import ConfigError
from scgpt.files import canonical_json
from scgpt.plan.catalogue import Catalogue
from scgpt.plan.checks import (
    at,
    check_figure,
    check_metrics,
    check_parameters,
    check_references,
)
from scgpt.plan.config import Config, Selection, parse_config
from scgpt.plan.digest import code_digest
from scgpt.plan.panels import spelled_out
from scgpt.plan.static import class_parameters, function_parameters, method_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgpt.plan.config import DatasetConfig, MethodConfig, ScaleConfig, TaskConfig


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
        self.catalogue = Catalogue(config, self.scale)

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

    @cached_property
    def prepared(self) -> list[str]:
        """All data sets that `snakemake datasets` makes: of the tasks, and of the catalogue."""
        wanted = {*self.datasets(), *self.catalogue.datasets()}
        return [name for name in self.config.datasets if name in wanted]

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

    def jobs(self, task: str, dataset: str | None = None, split: str | None = None) -> list[Job]:
        """Return the predictions of a task, or of one data set or split of it."""
        return [
            Job(task, name, part, method, seed)
            for name in ([dataset] if dataset else self.datasets(task))
            for part in ([split] if split else self.splits(task))
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
            and (not (block.method or block.methods) or self.drawn_methods(name))
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
                "twin": self.catalogue.is_twin and block.kind == "download",
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
        return merge(block.params, block.task_params.get(task, {}), self._at_scale(block))

    def score_spec(self, task: str) -> str:
        """Return what the `score` step needs to know."""
        block = self.config.tasks[task]
        return canonical_json({"task": task, "module": block.module, "metrics": block.metrics})

    def coordinates_spec(self, task: str) -> str:
        """Return what the `coordinates` step needs to know."""
        return canonical_json({"task": task, "module": self.config.tasks[task].module})

    def drawn_tables(self, figure: str) -> list[str]:
        """Return the files that a figure reads: tables of its task, and of the jobs it draws."""
        task = self.config.figures[figure].task
        names = [f"results/{self.scale}/tables/{task}_{kind}.tsv" for kind in ("scores", "summary")]
        jobs = [job.folder(self.scale) for job in self.drawn_jobs(figure)]
        kinds = self.config.tasks[task].drawn
        return names + [f"{folder}/{kind}.tsv" for folder in jobs for kind in kinds]

    def table_spec(self, task: str) -> str:
        """Return what the `table` step needs to know: the roles decide floor and ceiling."""
        block, methods = self.config.tasks[task], self.methods(task)
        return canonical_json(
            {
                "task": task,
                "roles": {name: self.config.methods[name].role for name in methods},
                "metrics": block.metrics,
                "headline": block.headline,
                "compared": self._first_run(block.compared, task),
            }
        )

    def figure_spec(self, figure: str) -> str:
        """Return the declaration of a figure, repeated panels spelled out, and the words to use."""
        block = self.config.figures[figure]
        datasets, methods = self.datasets(block.task), self.methods(block.task)
        spec = block.model_dump(include={"title", "width", "columns"})
        return canonical_json(
            {
                "task": block.task,
                "metrics": self.config.tasks[block.task].metrics,
                "figure": {
                    **spec,
                    "panels": spelled_out(self.config, block, datasets, self.drawn_methods(figure)),
                },
                "titles": {
                    **{name: self.config.datasets[name].title for name in datasets},
                    **{name: self.config.methods[name].title for name in methods},
                },
                "roles": {name: self.config.methods[name].role for name in methods},
            }
        )

    def drawn_methods(self, figure: str) -> list[str]:
        """Return the methods that a figure draws: the preferred one, and all others it names."""
        block = self.config.figures[figure]
        runs = self.methods(block.task)
        wanted = [self._first_run(block.method, block.task), *block.methods]
        return [name for name in dict.fromkeys(wanted) if name in runs]

    def drawn_jobs(self, figure: str) -> list[Job]:
        """Return the jobs a figure draws: first split, first seed, every data set and method."""
        task = self.config.figures[figure].task
        split = self.splits(task)[0]
        return [
            Job(task, dataset, split, method, self.seeds(method)[0])
            for dataset in self.datasets(task)
            for method in self.drawn_methods(figure)
        ]

    def _first_run(self, wanted: list[str], task: str) -> str | None:
        runs = self.methods(task)
        return next((name for name in wanted if name in runs), None)

    def report_spec(self) -> str:
        """Return everything the report says that stands in the configuration."""
        config = self.config
        keys = {"title", "description", "headline", "metrics"}
        tasks = {
            task: {
                **config.tasks[task].model_dump(include=keys),
                "splits": self.splits(task),
                "datasets": self.datasets(task),
                "figures": [name for name in self.figures if config.figures[name].task == task],
            }
            for task in self.tasks
        }
        return canonical_json(
            {
                "scale": self.scale,
                "description": self.settings.description,
                "datasets": self.datasets(),
                "tasks": tasks,
                "methods": self._described_methods(),
                "deviations": [
                    entry.model_dump()
                    for task in self.tasks
                    for entry in config.tasks[task].deviations
                ],
                "figures": {
                    name: config.figures[name].model_dump(include={"title", "caption"})
                    for name in self.figures
                },
            }
        )

    def cards_spec(self) -> str:
        """Return what the page of data cards shows."""
        return canonical_json(
            {
                "scale": self.scale,
                "description": self.settings.description,
                "datasets": self.prepared,
                "knowledge": self.catalogue.knowledge(),
            }
        )

    def _described_methods(self) -> list[dict[str, Any]]:
        described = []
        for name, block in self.config.methods.items():
            tasks = [task for task in self.tasks if name in self.methods(task)]
            if tasks:
                described.append(
                    {
                        "name": name,
                        **block.model_dump(include={"title", "role", "description", "reference"}),
                        "tasks": tasks,
                        "parameters": {task: self.method_params(task, name) for task in tasks},
                    }
                )
        return described

    def code(self, step: str, *entries: str) -> str:
        """Return the digest of a step's module and of the entry points it calls."""
        return code_digest(f"scgpt.steps.{step}", *entries)

    def check_parameters(self) -> None:
        """Check every parameter, metric and figure of this scale against what receives it.

        From the source, so that nothing heavy is imported: all names, and the values whose types
        are plain to read. The receiver checks the rest when the job starts.

        Raises
        ------
        ConfigError
            With the key path, what was found and the known names.
        """
        methods = {name for task in self.tasks for name in self.methods(task)}
        models = {self.config.methods[name].model for name in methods} - {None}
        bases = {base for name in methods for base in self.config.methods[name].knowledge}
        self.catalogue.check([*self.datasets(), *sorted(models), *sorted(bases)])
        for name in self.prepared:
            block = self.config.datasets[name]
            with at(f"datasets.{name}.reader"):
                known = function_parameters(block.reader)
            check_parameters(
                self._dataset_params(block), known, f"datasets.{name}.params", given=("files",)
            )
        for task in self.tasks:
            block = self.config.tasks[task]
            with at(f"tasks.{task}.module"):
                known = class_parameters(f"{block.module}:Params")
            check_parameters(self._task_params(block), known, f"tasks.{task}.params")
            check_metrics(task, block)
            for method in self.methods(task):
                with at(f"methods.{method}.tasks.{task}"):
                    known = method_parameters(self.config.methods[method].tasks[task])
                params = self.method_params(task, method)
                check_parameters(params, known, f"methods.{method}.params")
        for name in self.figures:
            block = self.config.figures[name]
            check_figure(name, block, self.config.tasks[block.task])

    def _at_scale(self, block: DatasetConfig | MethodConfig | TaskConfig) -> dict[str, Any]:
        """Return the parameters that differ at this scale, or at the one it is like."""
        found = block.scale_params.get(self.scale)
        return block.scale_params.get(self.settings.like, {}) if found is None else found

    def _dataset_params(self, block: DatasetConfig) -> dict[str, Any]:
        return merge(block.params, self._at_scale(block))

    def _task_params(self, block: TaskConfig) -> dict[str, Any]:
        return merge(block.params, self._at_scale(block))


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
