"""Foreign libraries: seeded and shut in, so that nothing of theirs stays in the process."""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from scgpt.methods.packages.isolation import isolated_library, unused_module


def seed_all(seed):
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def draws():
    """Return a number of every global generator."""
    return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002


def printed(code):
    """Return the words that a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_the_seed_and_its_keys_decide_the_draws():
    seen = []
    for seed, keys in ((1, ()), (1, ()), (2, ()), (1, ("fit",))):
        with isolated_library(seed, *keys):
            seen.append(draws())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_nothing_of_the_library_stays(capfd, monkeypatch):
    monkeypatch.setenv("SCGPT_KEPT", "before")
    seed_all(0)
    expected = draws()
    filters, threads = list(warnings.filters), torch.get_num_threads()
    seed_all(0)
    with isolated_library(5, threads=1):
        os.environ["SCGPT_KEPT"] = "after"
        os.environ["SCGPT_LEFT"] = "behind"
        warnings.simplefilter("error")
        print("chatter")
        draws()
        assert torch.get_num_threads() == 1
    assert draws() == expected
    assert os.environ["SCGPT_KEPT"] == "before"
    assert "SCGPT_LEFT" not in os.environ
    assert list(warnings.filters) == filters
    assert torch.get_num_threads() == threads
    assert capfd.readouterr().out == ""


def test_a_failure_inside_restores_too():
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    with pytest.raises(ValueError, match="inside"), isolated_library(1):
        raise ValueError("inside")
    assert np.random.random() == expected  # noqa: NPY002


def test_a_module_that_is_only_named_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "slow_library.py").write_text("def analyse():\n    return 1\n")
    (tmp_path / "names_it.py").write_text("from slow_library import analyse\n")
    monkeypatch.syspath_prepend(tmp_path)
    with unused_module("slow_library", "analyse"):
        names_it = importlib.import_module("names_it")
    with pytest.raises(RuntimeError, match="'slow_library' was called"):
        names_it.analyse()
    real = importlib.import_module("slow_library")
    assert real.analyse() == 1
    with unused_module("slow_library", "analyse"):
        assert importlib.import_module("slow_library") is real
    with pytest.raises(ImportError, match="other"), unused_module("absent_library", "analyse"):
        exec("from absent_library import other")
    assert "absent_library" not in sys.modules


def test_gears_is_imported_without_what_it_never_calls_here():
    code = (
        "import sys\n"
        "from scgpt.methods.packages.gears import _import_package\n"
        "_import_package()\n"
        "print('gears' in sys.modules, 'dcor' in sys.modules)\n"
    )
    assert printed(code) == ["True", "False"]


def test_numba_does_not_change_the_number_of_threads_in_the_midst():
    code = (
        "import numba, torch\n"
        "from scgpt.training.determinism import isolated_torch\n"
        "torch.set_num_threads(1)\n"
        "with isolated_torch('cpu', threads=1):\n"
        "    numba.get_num_threads()\n"
        "    print(torch.get_num_threads())\n"
        "print(torch.get_num_threads())\n"
    )
    assert printed(code) == ["1", "1"]
