"""Tables as the page shows them: rows and cells in their order, with footnotes.

Templates get no decision to take: what is best, which row is a control, which number has a footnote
is settled here, where it can be tested.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scgpt.report.context import (
        ComparisonRow,
        Cost,
        Dataset,
        Method,
        PublishedRow,
        ReportContext,
        ScoreRow,
        Task,
    )

ROLE_WORDS = {
    "method": "method",
    "negative_control": "negative control",
    "positive_control": "positive control",
    "attack": "attack on the metrics",
}
CONTROL_ROLES = ("negative_control", "positive_control", "attack")
OUTCOME_WORDS = {
    "confirmed": "confirmed",
    "not_confirmed": "not confirmed",
    "undecided": "undecided",
    "not_tested": "not tested",
}


class Footnotes:
    """Numbers for notes; the same note has the same number throughout one table."""

    def __init__(self, anchor: str) -> None:
        self.anchor = anchor
        self.notes: dict[str, int] = {}

    def mark(self, note: str) -> int | None:
        """Return the number of a note, or None for no note."""
        return self.notes.setdefault(note, len(self.notes) + 1) if note else None


@dataclass(frozen=True)
class ScoreCell:
    """A score as shown."""

    score: ScoreRow | None
    best: bool = False
    footnote: int | None = None


@dataclass(frozen=True)
class ScoreLine:
    """A method and its scores, in the order of the table's metrics."""

    method: Method
    cells: tuple[ScoreCell, ...]
    replicates: str


@dataclass(frozen=True)
class GroupTable:
    """Scores by group (cell type) and method, of one metric."""

    metric: str
    methods: tuple[str, ...]
    lines: tuple[tuple[str, tuple[ScoreCell, ...]], ...]
    footnotes: Footnotes


@dataclass(frozen=True)
class DatasetView:
    """All score tables of one task on one data set."""

    anchor: str
    dataset: Dataset
    metrics: tuple[str, ...]
    methods: tuple[ScoreLine, ...]
    controls: tuple[ScoreLine, ...]
    floors: tuple[float | None, ...]
    ceilings: tuple[float | None, ...]
    all_scores: tuple[tuple[ScoreRow, int | None], ...]
    groups: tuple[GroupTable, ...]
    footnotes: Footnotes
    all_footnotes: Footnotes


@dataclass(frozen=True)
class PublishedLine:
    """Published values of one score beside ours."""

    dataset: str
    method: str
    metric: str
    paper: tuple[PublishedRow, ...]
    rerun: tuple[PublishedRow, ...]
    ours: ScoreRow | None


@dataclass(frozen=True)
class TaskView:
    """A task as the page shows it."""

    task: Task
    datasets: tuple[DatasetView, ...]
    published: tuple[PublishedLine, ...]
    comparisons: tuple[tuple[ComparisonRow, int | None], ...]
    comparison_footnotes: Footnotes


@dataclass(frozen=True)
class View:
    """The page."""

    tasks: tuple[TaskView, ...]
    costs: dict[str, tuple[Cost, ...]]
    outcomes: dict[str, int]
    titles: dict[str, dict[str, str]] = field(default_factory=dict)


def view_of(context: ReportContext) -> View:
    """Arrange a context for the page."""
    costs = defaultdict(list)
    for cost in context.costs:
        costs[cost.method].append(cost)
    outcomes = {
        words: sum(verdict.outcome == outcome for verdict in context.verdicts)
        for outcome, words in OUTCOME_WORDS.items()
    }
    return View(
        tasks=tuple(_task_view(task, context) for task in context.tasks),
        costs={method: tuple(rows) for method, rows in costs.items()},
        outcomes=outcomes,
        titles={
            "method": {entry.name: entry.title for entry in context.methods},
            "metric": {entry.name: entry.title for entry in context.metrics},
            "dataset": {entry.name: entry.title for entry in context.datasets},
            "task": {entry.name: entry.title for entry in context.tasks},
        },
    )


def _task_view(task: Task, context: ReportContext) -> TaskView:
    used = {row.dataset for row in task.scores}
    notes = Footnotes(f"{task.name}-comparisons")
    return TaskView(
        task=task,
        datasets=tuple(
            _dataset_view(task, dataset, context)
            for dataset in context.datasets
            if dataset.name in used
        ),
        published=_published(task),
        comparisons=tuple((row, notes.mark(row.note)) for row in task.comparisons),
        comparison_footnotes=notes,
    )


def _dataset_view(task: Task, dataset: Dataset, context: ReportContext) -> DatasetView:
    scores = [row for row in task.scores if row.dataset == dataset.name]
    plain = {(row.method, row.metric): row for row in scores if not row.group}
    metrics = task.headline or tuple(dict.fromkeys(metric for _, metric in plain))
    notes = Footnotes(f"{task.name}-{dataset.name}")
    all_notes = Footnotes(f"{notes.anchor}-all")
    upwards = {entry.name: entry.higher_is_better for entry in context.metrics}
    rivals = {entry.name for entry in context.methods if entry.role == "method"}
    best = {metric: _best(plain, rivals, metric, upwards=upwards[metric]) for metric in metrics}
    lines = [
        _line(method, metrics, plain, best, notes)
        for method in context.methods
        if any((method.name, metric) in plain for metric in metrics)
    ]
    return DatasetView(
        anchor=notes.anchor,
        dataset=dataset,
        metrics=metrics,
        methods=tuple(line for line in lines if line.method.role not in CONTROL_ROLES),
        controls=tuple(line for line in lines if line.method.role in CONTROL_ROLES),
        floors=tuple(_bound(plain.values(), metric, "floor") for metric in metrics),
        ceilings=tuple(_bound(plain.values(), metric, "ceiling") for metric in metrics),
        all_scores=tuple((row, all_notes.mark(_all_notes(row))) for row in plain.values()),
        groups=_groups([row for row in scores if row.group], context, notes.anchor),
        footnotes=notes,
        all_footnotes=all_notes,
    )


def _best(
    scores: dict[tuple[str, str], ScoreRow], rivals: set[str], metric: str, *, upwards: bool
) -> float | None:
    means = [
        row.mean
        for (method, name), row in scores.items()
        if name == metric and method in rivals and row.mean is not None
    ]
    # One method alone is not the best of anything.
    return (max(means) if upwards else min(means)) if len(means) > 1 else None


def _line(
    method: Method,
    metrics: tuple[str, ...],
    scores: dict[tuple[str, str], ScoreRow],
    best: dict[str, float | None],
    notes: Footnotes,
) -> ScoreLine:
    cells, replicates = [], ""
    for metric in metrics:
        row = scores.get((method.name, metric))
        if row is None:
            cells.append(ScoreCell(None, footnote=notes.mark("not computed for this method")))
            continue
        is_best = method.role == "method" and row.mean is not None and row.mean == best[metric]
        cells.append(ScoreCell(row, is_best, notes.mark(_all_notes(row))))
        if row.n_splits is not None:
            replicates = replicates or f"{row.n_splits} × {row.n_seeds}"
    return ScoreLine(method, tuple(cells), replicates)


def _all_notes(row: ScoreRow) -> str:
    return "; ".join(note for note in (row.note, row.scaled_note) if note)


def _bound(scores: Iterable[ScoreRow], metric: str, name: str) -> float | None:
    values = (getattr(row, name) for row in scores if row.metric == metric)
    return next((value for value in values if value is not None), None)


def _groups(scores: list[ScoreRow], context: ReportContext, anchor: str) -> tuple[GroupTable, ...]:
    tables = []
    for metric in dict.fromkeys(row.metric for row in scores):
        own = {(row.group, row.method): row for row in scores if row.metric == metric}
        used = {method for _, method in own}
        methods = tuple(entry.name for entry in context.methods if entry.name in used)
        lines, notes = [], Footnotes(f"{anchor}-{metric}")
        for group in sorted({group for group, _ in own}, key=str.casefold):
            cells = []
            for method in methods:
                row = own.get((group, method))
                note = row.note if row else "the metric gives this group no row for this method"
                cells.append(ScoreCell(row, footnote=notes.mark(note)))
            lines.append((group, tuple(cells)))
        tables.append(GroupTable(metric, methods, tuple(lines), notes))
    return tuple(tables)


def _published(task: Task) -> tuple[PublishedLine, ...]:
    ours = {(r.dataset, r.method, r.metric): r for r in task.scores if not r.group}
    found: dict[tuple[str, str, str], list[PublishedRow]] = defaultdict(list)
    for row in task.published:
        found[row.dataset, row.method, row.metric].append(row)
    return tuple(
        PublishedLine(
            *key,
            paper=tuple(row for row in rows if row.kind == "paper"),
            rerun=tuple(row for row in rows if row.kind == "rerun"),
            ours=ours.get(key),
        )
        for key, rows in found.items()
    )
