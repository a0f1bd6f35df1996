"""Tidy tables between steps (C6 and the tables figures read): fixed columns, one row per value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scgpt.errors import ContractError
from scgpt.files import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

JOB_KEYS = ("task", "dataset", "split", "method", "seed")
SCORES = (*JOB_KEYS, "metric", "group", "value", "n", "note")
RUNS = (
    *JOB_KEYS,
    "wall_seconds",
    "peak_rss_bytes",
    "peak_gpu_bytes",
    "device",
    "params",
    "code",
    "commit",
    "prediction_sha256",
)
TEXT = ("task", "dataset", "split", "method", "metric", "group", "note", "cell", "label")


def write_table(table: pd.DataFrame, path: str | Path, columns: tuple[str, ...] = ()) -> None:
    """Write a tidy table as tab-separated text, atomically.

    Parameters
    ----------
    table
        One row per value.
    path
        Where to write; `.tsv`.
    columns
        The columns it must have, in this order; empty for any.

    Raises
    ------
    ContractError
        If a column is missing or unexpected.
    """
    if columns and set(table.columns) != set(columns):
        msg = f"{path}: columns are {list(table.columns)}, expected {list(columns)}"
        raise ContractError(msg)
    ordered = table[list(columns)] if columns else table
    with atomic_path(path) as temporary:
        # 9 significant digits keep every float32 exactly; double rounding noise stays out.
        ordered.to_csv(temporary, sep="\t", index=False, float_format="%.9g")


def read_table(path: str | Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a tidy table; text columns stay text, empty cells are missing values.

    Raises
    ------
    ContractError
        If the file is missing, empty, or lacks a column.
    """
    try:
        header = pd.read_csv(path, sep="\t", nrows=0).columns
        types = {name: "string" for name in TEXT if name in header}
        table = pd.read_csv(path, sep="\t", dtype=types, keep_default_na=False, na_values=[""])
    except FileNotFoundError as error:
        msg = f"{path}: no such table; run the step that makes it first"
        raise ContractError(msg) from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        msg = f"{path}: not a tab-separated table ({error}); delete it and make it again"
        raise ContractError(msg) from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        msg = f"{path}: columns {missing} are missing; it has {list(table.columns)}"
        raise ContractError(msg)
    return table
