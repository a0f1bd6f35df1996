"""Options of the command line that argparse itself can refuse, and what `--help` says."""

from __future__ import annotations

import re

import pytest

from scgpt.cli import main

PREDICT = ["predict", "--spec", "{}", "--data", "a", "--output", "b", "--record", "c"]
PREDICT += ["--seed", "0", "--task-module", "m"]
COORDINATES = ["coordinates", "--spec", "{}", "--data", "a", "--truth", "b", "--prediction", "c"]
COORDINATES += ["--output", "d", "--table", "cells"]
EMBED = ["embed", "a.h5ad", "--model", "m", "--out", "b.h5ad"]


@pytest.mark.parametrize("verb", [PREDICT, COORDINATES, EMBED], ids=lambda words: words[0])
@pytest.mark.parametrize("number", ["0", "-2", "two", "1.5"])
def test_threads_are_counted(verb, number, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*verb, f"--threads={number}"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert f"--threads: expected a whole number of at least 1, found '{number}'" in shown


def test_help_has_no_internal_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "read or simulate a data set" in shown
    assert not re.search(r"\(C\d\)", shown)
