"""The command line: one verb per step of the workflow, and the verbs people call by hand.

A step is stated once: the options of a workflow verb are the arguments of `run` in its module of
`scgpt.steps`. Only the module of the verb that is called is imported.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import inspect
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

STEPS = {
    "dataset": "read or simulate a data set",
    "fetch": "fetch the files of a data set",
    "twin": "write simulated files that stand in for a download",
    "knowledge": "read a knowledge base into a table",
    "model": "bring a model into one layout, or draw one at random",
    "task-data": "divide a data set for a task",
    "predict": "fit a method and predict",
    "score": "score the predictions of a split",
    "coordinates": "tabulate what figures draw of a job",
    "table": "summarise a task",
    "figure": "draw a figure from tables",
    "report": "write the HTML report",
    "data-cards": "write the page of data cards",
    "manifest": "list every result with its digest",
}
"""Verbs of the workflow; the module of a verb has its name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0, or 2 with one message for a user's mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _refuse_official_package()
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("scgpt").setLevel(logging.INFO)
        _limit_threads(words)
        options = _parser(words).parse_args(words)
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


def _limit_threads(words: list[str]) -> None:
    # BLAS and OpenMP read these once, when numpy or torch is first imported: before the options of
    # a verb are known, since they stand in its module.
    parser = argparse.ArgumentParser(prog="scgpt", add_help=False, allow_abbrev=False)
    parser.add_argument("--threads", type=positive)
    threads = parser.parse_known_args(words)[0].threads
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
        os.environ["NUMBA_NUM_THREADS"] = str(threads)


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scgpt", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    called = next((word for word in words if not word.startswith("-")), None)
    for verb, text in STEPS.items():
        step = verbs.add_parser(verb, help=text, description=text)
        if verb == called:
            _derive(step, importlib.import_module(f"scgpt.steps.{verb.replace('-', '_')}").run)
    _add_user_verbs(verbs)
    return parser


def _derive(parser: argparse.ArgumentParser, run: Any) -> None:
    """Give a verb one option per argument of its function; the annotation says how to read it."""
    arguments = inspect.signature(run).parameters
    for name, argument in arguments.items():
        needed = argument.default is argument.empty
        options = {} if needed else {"default": argument.default}
        flag = f"--{name.replace('_', '-')}"
        match argument.annotation:
            case "Path" | "Path | None":
                parser.add_argument(flag, type=Path, required=needed, **options)
            case "list[Path]":
                parser.add_argument(flag, type=Path, required=needed, nargs="+", **options)
            case "dict[str, Path]":
                parser.add_argument(flag, action=_Named, default={}, metavar="NAME=FILE")
            case "dict[str, Any]":
                parser.add_argument(flag, type=_json, required=needed, metavar="JSON")
            case "int":
                kind = positive if name == "threads" else int
                parser.add_argument(flag, type=kind, required=needed, **options)
            case "str":
                parser.add_argument(flag, required=needed, **options)
            case other:
                msg = f"{run.__module__}: argument {name} is {other}, which no option can be"
                raise TypeError(msg)
    if "threads" not in arguments:
        parser.add_argument("--threads", type=positive, help="CPU threads")
    parser.set_defaults(
        run=lambda options: run(**{name: vars(options)[name] for name in arguments})
    )


class _Named(argparse.Action):
    """Collects `NAME=FILE`, given any number of times."""

    def __call__(self, _parser: Any, namespace: Any, values: Any, _option: Any = None) -> None:
        name, _, path = values.partition("=")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: Path(path)})


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


def _add_user_verbs(verbs: Any) -> None:
    parser = _verb(verbs, "data", _data, "list, fetch or check data sets and checkpoints")
    parser.add_argument("action", choices=("list", "fetch", "check"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in 'scgpt data list'")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of the project")
    parser = _verb(verbs, "parity", _parity, "compare our model with stored reference outputs")
    parser.add_argument("folders", type=Path, nargs="+", metavar="CASE_DIR")
    parser = _verb(verbs, "schema", _schema, "write the JSON Schema of the configuration")
    parser.add_argument("--output", type=Path, required=True)
    embed.add_arguments(_verb(verbs, "embed", embed.run, embed.HELP))


def _verb(verbs: Any, name: str, run: Any, text: str) -> Any:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


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
