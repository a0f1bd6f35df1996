"""What the report is made from: typed, checked, and free of files and of presentation.

`ReportContext` is the whole; nested mappings with these keys validate into it. Missing numbers may
be None or NaN. Tables may carry more columns than a row type names; all other types refuse unknown
keys.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from scgpt.errors import ContractError
from scgpt.plan.config import Deviation, Role  # noqa: TC001 pydantic needs them

Outcome = Literal["confirmed", "not_confirmed", "undecided", "not_tested"]


def _plain(value: Any) -> Any:
    """Return Python's own value for a numpy scalar, and None for NaN or empty text."""
    value = value.item() if hasattr(value, "item") else value
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return None if missing else value


def _text(value: Any) -> Any:
    return "" if _plain(value) is None else value


Number = Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, BeforeValidator(_plain)]
Count = Annotated[int | None, BeforeValidator(_plain)]
Text = Annotated[str, BeforeValidator(_text)]


class Part(BaseModel):
    """A part of the context written by hand or code: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(BaseModel):
    """A row of a table: more columns than the report shows are fine."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ScoreRow(Row):
    """One row of `scgpt.metrics.statistics.with_bounds`."""

    dataset: str
    method: str
    metric: str
    group: Text = ""
    mean: Number
    standard_error: Number = None
    interval_low: Number = None
    interval_high: Number = None
    floor: Number = None
    ceiling: Number = None
    scaled: Number = None
    n_splits: Count = None
    n_seeds: Count = None
    note: Text = ""
    scaled_note: Text = ""


class ComparisonRow(Row):
    """One row of `scgpt.metrics.statistics.paired_difference`; `p_adjusted` if corrected."""

    dataset: str
    metric: str
    group: Text = ""
    a: str
    b: str
    mean: Number
    interval_low: Number = None
    interval_high: Number = None
    p_value: Number = None
    p_adjusted: Number = None
    n_pairs: Count = None
    note: Text = ""


class PublishedRow(Row):
    """A published value beside ours: by the paper itself, or by others who ran its method again."""

    dataset: str
    method: str
    metric: str
    value: Number
    kind: Literal["paper", "rerun"]
    source: str


class Image(Part):
    """A figure of the report; `image` is a data URI from `scgpt.report.images.data_uri`."""

    name: str
    title: str
    caption: str
    alt: str = Field(min_length=1)
    image: str = Field(pattern=r"^data:image/(png|svg\+xml);base64,[A-Za-z0-9+/]+=*$")
    numbers: str = ""


class Task(Part):
    """A task: what was asked, how the methods scored, what it looks like.

    `headline` names the ungrouped metrics of the main table, in order; by default all.
    """

    name: str
    title: str
    description: str
    scores: tuple[ScoreRow, ...] = ()
    headline: tuple[str, ...] = ()
    published: tuple[PublishedRow, ...] = ()
    comparisons: tuple[ComparisonRow, ...] = ()
    figures: tuple[Image, ...] = ()


class Cost(Row):
    """What the runs of a method cost on a data set: means over `n_runs`."""

    task: str
    dataset: str
    method: str
    n_runs: Count = None
    wall_seconds: Number
    peak_memory_mb: Number = None
    peak_gpu_memory_mb: Number = None
    device: Text = ""


class Method(Part):
    """A method or a control. `parameters` are the resolved ones."""

    name: str
    title: str
    role: Role
    description: str
    reference: str = ""
    tasks: tuple[str, ...] = ()
    parameters: dict[str, Any] = {}


class Metric(Part):
    """Definition of a metric, from `scgpt.metrics.registry.Metric`; no bound is None."""

    name: str
    title: str
    description: str
    reference: str
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None


class CountCheck(Part):
    """A count against the published one; `agrees` is None where the two cannot be compared."""

    count: str
    found: Count
    expected: Count
    agrees: bool | None = None


class SourceFile(Part):
    """A file that was fetched, and where it came from."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: Count = None
    url: Text = ""


class Dataset(Part):
    """A data set as used.

    `split` names the number of cells (or of what `split_of` says) in each part of a data set that
    comes divided.
    """

    name: str
    title: str
    n_cells: Count
    n_genes: Count
    n_types: Count = None
    n_batches: Count = None
    simulated: bool = False
    source: str
    licence: str
    reference: str = ""
    warnings: tuple[str, ...] = ()
    checks: tuple[CountCheck, ...] = ()
    files: tuple[SourceFile, ...] = ()
    split: dict[str, int] = {}
    split_of: str = "cells"
    split_sha256: Text = ""
    notes: tuple[str, ...] = ()


class InputFile(Part):
    """A file that entered from outside."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: Count = None


class Provenance(Part):
    """What is needed to do it again."""

    commit: str
    modified: bool = False
    command: str = ""
    packages: dict[str, str] = {}
    hardware: dict[str, str] = {}
    inputs: tuple[InputFile, ...] = ()


class Verdict(Part):
    """A claim of the paper and what this run says about it."""

    statement: str
    source: str
    outcome: Outcome
    reported: Number = None
    measured: Number = None
    interval_low: Number = None
    interval_high: Number = None
    note: Text = ""


class Scale(Part):
    """The budget of the run."""

    name: str
    description: str


class ReportContext(Part):
    """Everything the report shows, in the order in which it shows it."""

    title: str
    summary: str = ""
    scale: Scale
    date: str
    version: str = ""
    verdicts: tuple[Verdict, ...] = ()
    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    costs: tuple[Cost, ...] = ()
    metrics: tuple[Metric, ...]
    datasets: tuple[Dataset, ...]
    provenance: Provenance
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_are_defined(self) -> ReportContext:
        known = {
            "method": {entry.name for entry in self.methods},
            "metric": {entry.name for entry in self.metrics},
            "dataset": {entry.name for entry in self.datasets},
        }
        known["a"] = known["b"] = known["method"]
        rows = [r for t in self.tasks for r in (*t.scores, *t.published, *t.comparisons)]
        for row in (*rows, *self.costs):
            for key, names in known.items():
                value = getattr(row, key, None)
                if value is not None and value not in names:
                    msg = f"{type(row).__name__}: {key} {value!r} is not described in the report"
                    raise ValueError(msg)
        for task in self.tasks:
            absent = set(task.headline) - {row.metric for row in task.scores if not row.group}
            if absent:
                msg = f"task {task.name!r}: headline metrics {sorted(absent)} have no score"
                raise ValueError(msg)
        return self


class CardsContext(Part):
    """The page of data cards: everything that a scale prepares."""

    title: str
    scale: Scale
    date: str
    datasets: tuple[Dataset, ...]
    knowledge: tuple[Dataset, ...] = ()


def checked(context: dict[str, Any] | Part, model: type[Part] = ReportContext) -> Part:
    """Return the typed context.

    Parameters
    ----------
    context
        The mapping, or the typed context already.
    model
        What it must be.

    Raises
    ------
    ContractError
        Naming every key that is missing, unknown or of the wrong kind.
    """
    if isinstance(context, model):
        return context
    try:
        return model.model_validate(context)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])) or 'context'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        ]
        msg = f"report context: {len(problems)} problems: " + "; ".join(problems[:20])
        raise ContractError(msg) from error
