"""Pictures as text, so that the report is one file."""

from __future__ import annotations

import base64
from pathlib import Path

from scgpt.errors import ContractError

MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def data_uri(path: str | Path) -> str:
    """Return a PNG or SVG file as a data URI.

    Raises
    ------
    ContractError
        If the file is of another kind or does not exist.
    """
    path = Path(path)
    if path.suffix not in MEDIA_TYPES:
        msg = f"{path}: the report takes {sorted(MEDIA_TYPES)}, not {path.suffix!r}"
        raise ContractError(msg)
    if not path.is_file():
        msg = f"{path}: no such figure; run the step that draws it first"
        raise ContractError(msg)
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{MEDIA_TYPES[path.suffix]};base64,{text}"
