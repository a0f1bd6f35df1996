"""Foreign libraries: seeded and shut in, so that nothing of theirs stays in the process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings

import numba
import numpy as np
import pytest
import torch

from scgpt.methods.isolation import import_uncompiled, isolated_library


def seed_all(seed):
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def draws():
    """Return a number of every global generator."""
    return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002


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


def test_a_module_is_imported_without_its_machine_code(tmp_path, monkeypatch):
    (tmp_path / "compiles_at_import.py").write_text(
        "import numba\n@numba.njit('float64(float64)')\ndef twice(x):\n    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import_uncompiled("compiles_at_import")
    assert not isinstance(sys.modules["compiles_at_import"].twice, numba.core.dispatcher.Dispatcher)
    assert sys.modules["compiles_at_import"].twice(2.0) == 4.0
    assert not numba.config.DISABLE_JIT
    with pytest.raises(ModuleNotFoundError):
        import_uncompiled("no_such_module")
    assert not numba.config.DISABLE_JIT


def test_the_analysis_that_gears_leaves_uncompiled_gives_the_same_values():
    code = (
        "import sys, numpy as np\n"
        "from scgpt.methods.isolation import import_uncompiled\n"
        "import_uncompiled('dcor') if sys.argv[1] == 'plain' else None\n"
        "import dcor\n"
        "a, b = np.random.default_rng(0).normal(size=(2, 40))\n"
        "print(dcor.distance_correlation(a, b), dcor.distance_correlation(a, a**2))\n"
    )
    plain, compiled = (
        np.fromstring(
            subprocess.run(
                [sys.executable, "-c", code, how], check=True, capture_output=True, text=True
            ).stdout,
            sep=" ",
        )
        for how in ("plain", "compiled")
    )
    assert plain == pytest.approx(compiled, rel=1e-9)
