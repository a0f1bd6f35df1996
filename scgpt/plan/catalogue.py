"""What comes from outside and where it goes: data sets, knowledge bases, checkpoints.

Each has files with sources, and may have a twin: a function that writes small simulated files of
the same names and formats. A scale takes all its downloads either from the public or from twins.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from scgpt.errors import ConfigError
from scgpt.files import canonical_json
from scgpt.plan.checks import at, check_parameters
from scgpt.plan.config import DatasetConfig, KnowledgeConfig, ModelConfig
from scgpt.plan.static import function_parameters

if TYPE_CHECKING:
    from scgpt.plan.config import Config, Resource

TWIN_SEED = 0  # of all twins: they describe one simulated world


class Catalogue:
    """The downloads of one scale.

    Parameters
    ----------
    config
        The checked configuration.
    scale
        Name of the scale.
    """

    def __init__(self, config: Config, scale: str) -> None:
        self._config, self._scale = config, scale
        self.is_twin = config.scales[scale].source == "twin"

    @cached_property
    def resources(self) -> dict[str, Resource]:
        """Everything that is downloaded, by name."""
        return {
            **{k: v for k, v in self._config.datasets.items() if v.kind == "download"},
            **self._config.knowledge,
            **{k: v for k, v in self._config.models.items() if v.init == "fetched"},
        }

    @property
    def _root(self) -> str:
        # Public files are shared by all scales; twins belong to theirs.
        return f"results/{self._scale}/raw" if self.is_twin else "results/raw"

    def folder(self, name: str) -> str:
        """Return the folder of the fetched files."""
        return f"{self._root}/{name}"

    def record(self, name: str) -> str:
        """Return the file that says what was fetched from where."""
        return f"{self._root}/{name}.json"

    def dataset_records(self, name: str) -> list[str]:
        """Return the fetch record that a data set waits for; none if nothing is downloaded."""
        return [self.record(name)] if name in self.resources else []

    def datasets(self) -> list[str]:
        """Return the data sets that the scale's `catalogue` adds to those of its tasks."""
        return [name for name in self._chosen(self._config.datasets) if self._is_possible(name)]

    def knowledge(self) -> list[str]:
        """Return the knowledge bases of the scale's `catalogue`."""
        return [name for name in self._chosen(self._config.knowledge) if self._is_possible(name)]

    def _chosen(self, known: dict[str, Resource]) -> list[str]:
        wanted = self._config.scales[self._scale].catalogue
        return [name for name in known if wanted == "all" or name in wanted]

    def _is_possible(self, name: str) -> bool:
        # `all` means what can be had anywhere: no file of the user's, and offline only twins.
        if self._config.scales[self._scale].catalogue != "all":
            return True
        dataset, resource = self._config.datasets.get(name), self.resources.get(name)
        is_local = dataset is not None and dataset.kind == "local"
        return not (is_local or (self.is_twin and resource is not None and not resource.twin))

    def fetch_spec(self, name: str, *, public: bool = False) -> str:
        """Return what the `fetch` step needs to know.

        Parameters
        ----------
        name
            The resource.
        public
            Whether the real files are wanted, whatever the scale takes: what lies in `results/raw`
            is shared by all scales and must not depend on the one that is selected.

        Raises
        ------
        ConfigError
            If it is not downloaded.
        """
        resource = self._resource(name)
        spec = {
            "resource": name,
            "files": {key: block.model_dump() for key, block in resource.files.items()},
        }
        if resource.retrieve is not None and (public or not self.is_twin):
            spec |= {"retrieve": resource.retrieve, "params": resource.retrieve_params}
        return canonical_json(spec)

    def twin_spec(self, name: str) -> str:
        """Return what the `twin` step needs to know.

        Raises
        ------
        ConfigError
            If the resource has no twin.
        """
        resource = self._resource(name)
        if resource.twin is None:
            msg = f"'{name}' has no twin, but scale '{self._scale}' takes its downloads from twins"
            raise ConfigError(msg)
        return canonical_json(
            {
                "resource": name,
                "twin": resource.twin,
                "params": resource.twin_params,
                "files": sorted(resource.files),
                "seed": TWIN_SEED,
            }
        )

    def twin_entry(self, name: str) -> str:
        """Return the entry point of the twin."""
        return self._resource(name).twin or ""

    def model_folder(self, name: str) -> str:
        """Return the folder of a model, whatever made it."""
        return f"results/{self._scale}/models/{name}"

    def model(self, name: str) -> str:
        """Return the file that vouches for a model: its folder is complete when this is there."""
        return f"{self.model_folder(name)}/config.json"

    def model_source(self, name: str) -> str:
        """Return the file that the `model` step waits for: a fetch record, or another model."""
        block = self._config.models[name]
        return self.record(name) if block.like is None else self.model(block.like)

    def model_spec(self, name: str) -> str:
        """Return what the `model` step needs to know."""
        block = self._config.models[name]
        source = self.folder(name) if block.like is None else self.model_folder(block.like)
        return canonical_json(
            {
                "model": name,
                "source": source,
                **block.model_dump(include={"init", "like", "seed", "title", "reference"}),
            }
        )

    def knowledge_spec(self, name: str) -> str:
        """Return what the `knowledge` step needs to know."""
        block = self._config.knowledge[name]
        keys = {"form", "reader", "params", "title", "reference", "license", "notes"}
        spec = {"knowledge": name, "twin": self.is_twin, "expected": block.expected.model_dump()}
        return canonical_json({**spec, **block.model_dump(include=keys)})

    def check(self, needed: list[str]) -> None:
        """Check that everything the scale needs can be had, and the parameters of its twins.

        Parameters
        ----------
        needed
            The data sets and checkpoints that the tasks of the scale run.

        Raises
        ------
        ConfigError
            With the key path, what was found and the known names.
        """
        models = self._config.models
        needed = [models[n].like or n if n in models else n for n in needed]
        for name in dict.fromkeys([*needed, *self.datasets(), *self.knowledge()]):
            if name in self.resources:
                self._check_source(name, self.resources[name])
        for name in self.knowledge():
            block = self._config.knowledge[name]
            with at(f"knowledge.{name}.reader"):
                known = function_parameters(block.reader)
            check_parameters(block.params, known, f"knowledge.{name}.params", given=("files",))

    def _check_source(self, name: str, resource: Resource) -> None:
        parts = {DatasetConfig: "datasets", KnowledgeConfig: "knowledge", ModelConfig: "models"}
        where = f"{parts[type(resource)]}.{name}"
        if self.is_twin:
            with at(f"{where}.twin"):
                self.twin_spec(name)
                known = function_parameters(resource.twin)
            given = ("folder", "seed")
            check_parameters(resource.twin_params, known, f"{where}.twin_params", given=given)
        elif resource.retrieve is not None:
            with at(f"{where}.retrieve"):
                known = function_parameters(resource.retrieve)
            params = resource.retrieve_params
            check_parameters(params, known, f"{where}.retrieve_params", given=("folder",))

    def _resource(self, name: str) -> Resource:
        if name not in self.resources:
            known = ", ".join(self.resources) or "none"
            msg = f"'{name}' is not downloaded. Known names: {known}"
            raise ConfigError(msg)
        return self.resources[name]
