"""Fixtures shared by all test layers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the optional folder of extra test material, or skip."""
    folder = Path(os.environ.get("SCGPT_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"extra test material not present ({folder}); set SCGPT_SHARED to use it")
    return folder
