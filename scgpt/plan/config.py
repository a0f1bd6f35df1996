"""Typed configuration: the only definition of every key in `config/*.yaml`.

The same models check the YAML files before any job exists, generate the JSON Schema for editors
(`python -m scgpt schema`), and are what `config/README.md` explains.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from scgpt.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
Role = Literal["method", "negative_control", "positive_control", "attack"]


def _without_repeats(values: Any) -> Any:
    """Refuse a list that names something twice; it would run, and count, twice."""
    repeated = [] if isinstance(values, str) else [v for v in values if values.count(v) > 1]
    if repeated:
        shown = ", ".join(map(str, dict.fromkeys(repeated)))
        msg = f"{shown} stands there more than once; name each once"
        raise ValueError(msg)
    return values


Names = Annotated[list[str], AfterValidator(_without_repeats)]
Selection = Annotated[Literal["all"] | list[str], AfterValidator(_without_repeats)]
Seed = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """A mapping that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSpec(Strict):
    """One downloadable file: where it is, and how to know that it is the right one."""

    urls: list[str] = Field(min_length=1, description="Sources, tried in this order.")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Digest; null: recorded at the first download."
    )
    size: int | None = Field(None, gt=0, description="Size in bytes, if known.")
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$", description="Digest, where published.")
    git_blob: str | None = Field(None, pattern="^[0-9a-f]{40}$", description="Git's blob id.")
    format: str | None = Field(None, description="Kind of file, where its name does not tell.")
    license: str | None = Field(None, description="Licence, where it differs from the data set's.")


class Expected(Strict):
    """Published sizes; a different count is a named warning in the report, never an error."""

    n_cells: int | None = None
    n_genes: int | None = None
    n_peaks: int | None = None
    n_proteins: int | None = None
    n_batches: int | None = None
    n_donors: int | None = None
    n_cell_types: int | None = None
    n_conditions: int | None = Field(None, description="Perturbations, control not counted.")
    n_reference: int | None = Field(None, description="Cells of the reference.")
    n_query: int | None = Field(None, description="Cells of the query.")
    n_reference_types: int | None = Field(None, description="Cell types in the reference.")
    n_query_types: int | None = Field(None, description="Cell types in the query.")
    n_train: int | None = Field(None, description="Conditions for training, as the file has them.")
    n_valid: int | None = Field(None, description="Conditions for validation.")
    n_test: int | None = Field(None, description="Conditions for testing.")
    n_sets: int | None = Field(None, description="Gene sets of a knowledge base.")
    n_regulators: int | None = None
    n_targets: int | None = None
    source: str | None = Field(None, description="Where the numbers were published.")


class Resource(Strict):
    """Something that comes from outside: its files, whom to cite, what stands in for it."""

    title: str
    files: dict[str, FileSpec] = Field(default_factory=dict, description="Files to download.")
    retrieve: str | None = Field(
        None, description="Entry point `module:function` that makes the files, if no URL does."
    )
    retrieve_params: dict[str, Any] = Field(default_factory=dict)
    twin: str | None = Field(
        None, description="Entry point `module:function` that writes simulated stand-in files."
    )
    twin_params: dict[str, Any] = Field(default_factory=dict, description="Its sizes.")
    reference: str = Field(description="DOI or citation.")
    license: str
    notes: list[str] = Field(default_factory=list, description="Shown on the data card.")


class DatasetConfig(Resource):
    """One data set: how to get it, what it must contain, whom to cite."""

    kind: Literal["embedded", "simulated", "local", "download"] = Field(
        description="embedded: ships with a dependency; simulated: made here; "
        "local: a file of yours; download: fetched."
    )
    reader: str = Field(description="Entry point `module:function` that returns the data set.")
    params: dict[str, Any] = Field(default_factory=dict, description="Arguments of the reader.")
    scale_params: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Arguments of the reader that differ at a scale."
    )
    tasks: Names = Field(description="Tasks that may use the data set.")
    expected: Expected = Expected()


class KnowledgeConfig(Resource):
    """One knowledge base: gene sets, or edges from regulators to targets."""

    form: Literal["gene_sets", "edges"]
    reader: str = Field(description="Entry point `module:function` that returns the table.")
    params: dict[str, Any] = Field(default_factory=dict, description="Arguments of the reader.")
    expected: Expected = Expected()


class SplitConfig(Strict):
    """One way of dividing the cells; only the seed differs between the splits of a task."""

    seed: Seed


class Deviation(Strict):
    """Where this reproduction does something else than the paper, and why."""

    topic: str
    paper: str
    here: str
    reason: str


class TaskConfig(Strict):
    """One task: what is hidden, what is predicted, how it is scored."""

    title: str
    description: str
    module: str = Field(description="Module with Params, prepare, scoring_arrays, coordinates.")
    metrics: Names = Field(min_length=1, description="Modules whose metrics score the task.")
    headline: Names = Field(min_length=1, description="Metrics shown first, in this order.")
    compared: Names = Field(
        default_factory=list,
        description="Method that every other one is compared with, replicate by replicate: the "
        "first of these that the scale runs.",
    )
    drawn: Names = Field(
        default_factory=list,
        description="Tables of a single job that figures draw; the module's `coordinates` makes "
        "them.",
    )
    splits: dict[str, SplitConfig] = Field(min_length=1)
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of `prepare`.")
    scale_params: dict[str, dict[str, Any]] = Field(default_factory=dict)
    deviations: list[Deviation] = Field(default_factory=list)


class ModelConfig(Resource):
    """One model that methods start from: fetched, or made here."""

    init: Literal["fetched", "random"] = Field(
        "fetched", description="Where the weights come from; random: drawn, nothing is learnt."
    )
    like: str | None = Field(
        None, description="random: the model whose architecture and vocabulary it has."
    )
    seed: Seed = Field(0, description="random: of the weights.")


class MethodConfig(Strict):
    """One method, baseline or control: the same for all, scGPT included."""

    title: str
    description: str
    role: Role = "method"
    reference: str
    tasks: dict[str, str] = Field(
        min_length=1, description="Task -> entry point `module:Class`: the tasks it supports."
    )
    model: str | None = Field(None, description="Model it starts from (models.yaml).")
    knowledge: Names = Field(
        default_factory=list, description="Knowledge bases it reads (knowledge.yaml)."
    )
    stochastic: bool = Field(default=True, description="false: one seed is enough.")
    gpus: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    params: dict[str, Any] = Field(default_factory=dict)
    task_params: dict[str, dict[str, Any]] = Field(default_factory=dict)
    scale_params: dict[str, dict[str, Any]] = Field(default_factory=dict)


class PanelConfig(Strict):
    """One panel of a figure: a plot function, the table it reads, the rows it shows."""

    plot: str = Field(description="Entry point `module:function`.")
    table: str = Field(description="`scores`, `summary`, or a table of jobs that the task draws.")
    title: str = Field("", description="`{dataset}`, `{method}` stand for their titles.")
    where: dict[str, str | list[str]] = Field(
        default_factory=dict, description="Column of the table -> value or values to keep."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the plot.")
    repeat: Literal["dataset", "method"] | None = Field(
        None,
        description="dataset: once for every data set that the scale runs; method: once for every "
        "data set and every method drawn.",
    )
    score: str | None = Field(
        None, description="Metric whose mean stands in the title, of the panel's own method."
    )
    span: int | None = Field(None, ge=1, description="Units of width; null: the whole row.")
    height: float = Field(2.4, gt=0, description="Inches; a row is as high as its highest panel.")
    letter: bool = Field(default=True, description="false: belongs to the letter before.")
    palette: str = Field(
        "",
        description="Panels of one data set share colours and numbers of categories; a name sets "
        "those with the same name apart.",
    )


class FigureLayout(Strict):
    """Panels in rows: what it takes to draw a figure."""

    title: str = ""
    width: float = Field(7.1, gt=0, description="Inches.")
    columns: int = Field(12, ge=1, description="Units of width that a row holds.")
    panels: list[PanelConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _panels_fit(self) -> FigureLayout:
        for number, panel in enumerate(self.panels):
            if panel.span is not None and panel.span > self.columns:
                msg = f"panels.{number}.span: {panel.span} is wider than a row of {self.columns}"
                raise ValueError(msg)
        return self


class FigureConfig(FigureLayout):
    """One figure: panels drawn from tidy tables only."""

    title: str
    caption: str
    task: str
    method: Names = Field(
        default_factory=list,
        description="Method that is drawn: the first of these that the scale runs.",
    )
    methods: Names = Field(
        default_factory=list,
        description="Methods that are drawn besides: all of these that the scale runs.",
    )


class TaskRun(Strict):
    """What a scale runs of one task."""

    datasets: Selection
    methods: Selection
    splits: Selection = "all"


class Limits(Strict):
    """Upper bounds that make a scale small; null means no bound."""

    max_cells: int | None = Field(None, ge=20)
    max_genes: int | None = Field(None, ge=10)


class ScaleConfig(Strict):
    """A budget: seeds, size limits, and what runs."""

    description: str
    seeds: Annotated[list[Seed], AfterValidator(_without_repeats)] = Field(min_length=1)
    limits: Limits = Limits()
    like: str | None = Field(
        None, description="Scale whose `scale_params` hold here too, where none are given for this."
    )
    run: dict[str, TaskRun] = Field(min_length=1)
    figures: Selection = "all"
    source: Literal["public", "twin"] = Field(
        "public", description="Where downloads come from; twin: simulated stand-ins, offline."
    )
    catalogue: Selection = Field(
        default_factory=list,
        description="Data sets and knowledge bases that `snakemake datasets` makes besides.",
    )


class Config(Strict):
    """The whole configuration, all files of `config/` merged."""

    scale: str
    scales: dict[str, ScaleConfig]
    datasets: dict[str, DatasetConfig]
    knowledge: dict[str, KnowledgeConfig] = Field(default_factory=dict)
    tasks: dict[str, TaskConfig]
    models: dict[str, ModelConfig] = Field(default_factory=dict)
    methods: dict[str, MethodConfig]
    figures: dict[str, FigureConfig]


def parse_config(raw: dict[str, Any]) -> Config:
    """Check a merged configuration and return it typed.

    Raises
    ------
    ConfigError
        With the path of every wrong key, what was found, and the known names.
    """
    return typed(Config, raw)


def typed(model: type[Model], raw: Any, where: str = "") -> Model:
    """Return plain values as a typed model.

    Parameters
    ----------
    model
        The class.
    raw
        A mapping from YAML or JSON.
    where
        What to put before every key in a message.

    Raises
    ------
    ConfigError
        With the path of every wrong key, what was found, and the known names.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, model, where)) from None


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Turn a pydantic error into one line per wrong key, with the known names."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join([prefix] * bool(prefix) + [str(part) for part in item["loc"]])
        if item["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(model, item["loc"][:-1]))
            lines.append(f"{path}: unknown key. Known keys: {known}")
        elif item["type"] == "missing":
            lines.append(f"{path}: required key is missing")
        elif isinstance(item["input"], dict) and item["type"] == "value_error":
            # A rule between the keys of a mapping: its message begins with the key it is about.
            lines.append(f"{path}.{item['msg'].removeprefix('Value error, ')}")
        else:
            what = item["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: {what} (found {item['input']!r})")
    return "\n".join(lines)


def _known_keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Return the field names of the model that stands at `location` below `model`."""
    current = model
    for part in location:
        if _is_model(current):
            current = current.model_fields[part].annotation
        else:  # a mapping or list of models: any name or index leads to the same model
            current = _model_inside(current)
    found = current if _is_model(current) else _model_inside(current)
    return sorted(found.model_fields) if found is not None else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    for argument in getattr(annotation, "__args__", ()):
        if _is_model(argument):
            return argument
        inner = _model_inside(argument)
        if inner is not None:
            return inner
    return None
