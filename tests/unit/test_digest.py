"""The digest changes with behaviour, through imports, and with nothing else."""

from __future__ import annotations

import pytest

from scgpt.errors import ConfigError
from scgpt.plan import digest as code

HELPER = '''"""Helper."""
def double(x):
    """Twice."""
    return 2 * x
'''
ENTRY = '''"""Entry."""
def run(x):
    from scgpt.helper import double  # found although it is imported lazily
    return double(x)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "scgpt"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helper.py").write_text(HELPER)
    (folder / "entry.py").write_text(ENTRY)
    (folder / "other.py").write_text("VALUE = 1\n")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    return folder


def digest():
    code._parse.cache_clear()
    return code.code_digest("scgpt.entry:run")


def test_comments_docstrings_and_layout_do_not_count(package):
    before = digest()
    text = HELPER.replace("Twice.", "Two times.").replace("2 * x", "(2 * x)  # why not")
    (package / "helper.py").write_text(text + "\n\n# the end\n")
    assert digest() == before


def test_behaviour_of_an_imported_module_counts(package):
    before = digest()
    (package / "helper.py").write_text(HELPER.replace("2 * x", "3 * x"))
    assert digest() != before


def test_unrelated_module_does_not_count(package):
    (package / "__init__.py").write_text("from scgpt.other import VALUE\n")
    entry = package / "entry.py"
    entry.write_text(entry.read_text() + "from scgpt import helper\n")
    before = digest()
    (package / "other.py").write_text("VALUE = 2\n")
    assert digest() == before


def test_missing_and_broken_modules_are_named(package):
    with pytest.raises(ConfigError, match=r"module 'scgpt\.nothing' does not exist"):
        code.code_digest("scgpt.nothing")
    (package / "helper.py").write_text("def broken(:\n")
    with pytest.raises(ConfigError, match=r"helper\.py:1: not valid Python"):
        digest()
