"""The command line: one verb per step of the workflow, and the verbs people call by hand.

Each verb imports what it needs when it runs: `--help` and the table verbs never load torch.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgpt.arguments import positive
from scgpt.errors import ConfigError, ScgptError
from scgpt.steps import embed

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0, or 2 with one message for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        _refuse_official_package()
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("scgpt").setLevel(logging.INFO)
        _limit_threads(getattr(options, "threads", None))
        return options.run(options) or 0
    except ScgptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output, `head` for one, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A full disk, a read-only folder, a missing permission: the user's machine, not our code.
        reason = str(error.strerror or error).splitlines()[0]
        print(f"error: {reason}: {error.filename or 'while reading or writing'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _refuse_official_package() -> None:
    try:
        version = importlib.metadata.version("scgpt")
    except importlib.metadata.PackageNotFoundError:
        return
    msg = (
        f"the package 'scgpt' {version} from PyPI is installed in this environment and has the "
        "same import name as this project; uninstall it (pip uninstall scgpt)"
    )
    raise ConfigError(msg)


def _limit_threads(threads: int | None) -> None:
    # BLAS and OpenMP read these once, when numpy or torch is first imported.
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
        os.environ["NUMBA_NUM_THREADS"] = str(threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scgpt", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (_add_data_verbs, _add_job_verbs, _add_report_verbs, _add_user_verbs):
        add(verbs)
    return parser


def _verb(verbs: Any, name: str, run: Any, help_text: str, *, spec: bool = True) -> Any:
    parser = verbs.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    if spec:
        parser.add_argument("--spec", type=_json, required=True, help="specification as JSON")
    return parser


def _paths(parser: Any, *names: str, required: bool = True, nargs: str | None = None) -> None:
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=required, nargs=nargs)


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"not JSON: {error}"
        raise argparse.ArgumentTypeError(msg) from None
    if not isinstance(value, dict):
        msg = f"expected a JSON object, found {type(value).__name__}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _add_data_verbs(verbs: Any) -> None:
    parser = _verb(verbs, "dataset", _dataset, "read or simulate a data set")
    _paths(parser, "output", "card", "split")
    _paths(parser, "raw", "record", required=False)
    parser = _verb(verbs, "fetch", _fetch, "fetch the files of a data set")
    _paths(parser, "folder", "record", "lock")
    _paths(parser, "twin", required=False)
    parser = _verb(verbs, "twin", _twin, "write simulated files that stand in for a download")
    _paths(parser, "folder", "record")
    parser = _verb(verbs, "knowledge", _knowledge, "read a knowledge base into a table")
    _paths(parser, "raw", "record", "output", "card")
    parser = _verb(verbs, "model", _model, "bring a model into one layout, or draw one at random")
    _paths(parser, "folder")
    parser = _verb(verbs, "task-data", _task_data, "divide a data set for a task")
    _paths(parser, "dataset", "data", "truth", "card")


def _add_job_verbs(verbs: Any) -> None:
    parser = _verb(verbs, "predict", _predict, "fit a method and predict")
    _paths(parser, "data", "output", "record")
    _paths(parser, "truth", "checkpoint", required=False)
    parser.add_argument(
        "--knowledge", action="append", default=[], metavar="NAME=FILE", help="table of a base"
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    parser.add_argument("--code", default="", help="digest of the code, for the record")
    parser.add_argument("--task-module", required=True)
    parser = _verb(verbs, "score", _score, "score the predictions of a split")
    _paths(parser, "jobs", nargs="+")
    _paths(parser, "truth", "scores", "runs")
    parser.add_argument("--code", default="", help="digest of the code")
    parser = _verb(verbs, "coordinates", _coordinates, "tabulate what figures draw of a job")
    _paths(parser, "data", "truth", "prediction", "output")
    parser.add_argument("--table", required=True, help="which of the task's tables")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")


def _add_report_verbs(verbs: Any) -> None:
    parser = _verb(verbs, "table", _table, "summarise a task")
    _paths(parser, "scores", "runs", nargs="+")
    _paths(parser, "all-scores", "summary", "comparisons", "all-runs")
    parser = _verb(verbs, "figure", _figure, "draw a figure from tables")
    _paths(parser, "tables", nargs="+")
    _paths(parser, "pdf", "png", "tsv")
    parser = _verb(verbs, "report", _report, "write the HTML report")
    _paths(parser, "results", "output")
    parser = _verb(verbs, "data-cards", _data_cards, "write the page of data cards")
    _paths(parser, "results", "output")
    parser = _verb(verbs, "manifest", _manifest, "list every result with its digest", spec=False)
    _paths(parser, "files", nargs="+")
    _paths(parser, "output")


def _add_user_verbs(verbs: Any) -> None:
    parser = _verb(
        verbs, "data", _data, "list, fetch or check data sets and checkpoints", spec=False
    )
    parser.add_argument("action", choices=("list", "fetch", "check"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in 'scgpt data list'")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of the project")
    parser = _verb(
        verbs, "parity", _parity, "compare our model with stored reference outputs", spec=False
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="CASE_DIR")
    parser = _verb(
        verbs, "schema", _schema, "write the JSON Schema of the configuration", spec=False
    )
    _paths(parser, "output")
    parser = _verb(verbs, "embed", embed.run, embed.HELP, spec=False)
    embed.add_arguments(parser)


def _dataset(options: argparse.Namespace) -> None:
    from scgpt.steps import dataset

    dataset.run(
        options.spec,
        output=options.output,
        card=options.card,
        split=options.split,
        raw=options.raw,
        record=options.record,
    )


def _fetch(options: argparse.Namespace) -> None:
    from scgpt.steps import fetch

    fetch.run(
        options.spec,
        folder=options.folder,
        record=options.record,
        lock=options.lock,
        twin=options.twin,
    )


def _twin(options: argparse.Namespace) -> None:
    from scgpt.steps import twin

    twin.run(options.spec, folder=options.folder, record=options.record)


def _knowledge(options: argparse.Namespace) -> None:
    from scgpt.steps import knowledge

    knowledge.run(
        options.spec,
        raw=options.raw,
        record=options.record,
        output=options.output,
        card=options.card,
    )


def _model(options: argparse.Namespace) -> None:
    from scgpt.steps import model

    model.run(options.spec, folder=options.folder)


def _task_data(options: argparse.Namespace) -> None:
    from scgpt.steps import task_data

    task_data.run(
        options.spec,
        dataset=options.dataset,
        data=options.data,
        truth=options.truth,
        card=options.card,
    )


def _predict(options: argparse.Namespace) -> None:
    from scgpt.steps import predict

    predict.run(
        options.spec,
        seed=options.seed,
        data=options.data,
        truth=options.truth,
        checkpoint=options.checkpoint,
        knowledge=_named_paths(options.knowledge),
        output=options.output,
        record=options.record,
        threads=options.threads,
        code=options.code,
        module=options.task_module,
    )


def _named_paths(pairs: list[str]) -> dict[str, Path]:
    return {name: Path(path) for name, _, path in (pair.partition("=") for pair in pairs)}


def _score(options: argparse.Namespace) -> None:
    from scgpt.steps import score

    score.run(
        options.spec,
        jobs=options.jobs,
        truth=options.truth,
        code=options.code,
        scores=options.scores,
        runs=options.runs,
    )


def _coordinates(options: argparse.Namespace) -> None:
    from scgpt.steps import coordinates

    coordinates.run(
        options.spec,
        data=options.data,
        truth=options.truth,
        prediction=options.prediction,
        table=options.table,
        output=options.output,
    )


def _table(options: argparse.Namespace) -> None:
    from scgpt.steps import table

    table.run(
        options.spec,
        scores=options.scores,
        runs=options.runs,
        all_scores=options.all_scores,
        summary=options.summary,
        comparisons=options.comparisons,
        all_runs=options.all_runs,
    )


def _figure(options: argparse.Namespace) -> None:
    from scgpt.steps import figure

    figure.run(
        options.spec, tables=options.tables, pdf=options.pdf, png=options.png, tsv=options.tsv
    )


def _report(options: argparse.Namespace) -> None:
    from scgpt.steps import report

    report.run(options.spec, results=options.results, output=options.output)


def _data_cards(options: argparse.Namespace) -> None:
    from scgpt.steps import data_cards

    data_cards.run(options.spec, results=options.results, output=options.output)


def _manifest(options: argparse.Namespace) -> None:
    from scgpt.steps import manifest

    manifest.run(files=options.files, output=options.output)


def _data(options: argparse.Namespace) -> int:
    from scgpt.steps import data

    if options.action == "list":
        return data.show(options.root, options.names)
    return (data.bring if options.action == "fetch" else data.examine)(options.root, options.names)


def _parity(options: argparse.Namespace) -> int:
    from scgpt.steps import parity

    return parity.run(options.folders)


def _schema(options: argparse.Namespace) -> None:
    from scgpt.files import write_json
    from scgpt.plan.config import Config

    write_json(options.output, Config.model_json_schema())
