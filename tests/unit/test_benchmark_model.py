"""The benchmark of training steps runs, and refuses to time two versions that disagree."""

from __future__ import annotations

import importlib.util
import re

import pytest
import torch
from torch.nn import functional as F

TOY = (
    *("--layers", "2", "--d-model", "16", "--heads", "2", "--length", "12"),
    *("--vocabulary", "40", "--repeats", "1", "--bf16", "off"),
)


@pytest.fixture
def benchmark(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    path = root / "benchmarks" / "model.py"
    specification = importlib.util.spec_from_file_location("benchmark_model", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_both_versions_agree_and_ratios_are_printed(benchmark, capsys):
    threads = torch.get_num_threads()
    benchmark.main(TOY)
    printed = capsys.readouterr().out
    losses = re.findall(r"agree: loss (\S+), gradients of (\d+) tensors (\S+), at most", printed)
    # The flag of unknown genes has a gradient in generative steps only.
    assert [int(n_tensors) for _, n_tensors, _ in losses] == [42, 43, 43, 43]
    assert all(float(loss) <= 1e-5 and float(typical) <= 1e-5 for loss, _, typical in losses)
    ratios = re.findall(r"^  (plain|ours).*? (\d+\.\d\d)x", printed, flags=re.MULTILINE)
    assert [float(ratio) for side, ratio in ratios if side == "plain"] == [1.0] * 6
    assert sum(side == "ours" for side, _ in ratios) == 7
    assert all(float(ratio) > 0 for _, ratio in ratios)
    assert torch.get_num_threads() == threads


def test_versions_that_disagree_end_the_program(benchmark, capsys, monkeypatch):
    def project_all(self, attention, x_BTD, mask_TT, n_known):
        """The natural mistake: unknown tokens, too, pass through the output projection."""
        del n_known
        y_BTD, _ = attention(x_BTD, x_BTD, x_BTD, attn_mask=mask_TT, need_weights=False)
        return y_BTD

    monkeypatch.setattr(benchmark.Plain, "attend", project_all)
    with pytest.raises(SystemExit) as end:
        benchmark.main(TOY)
    assert "the versions do not agree: loss" in str(end.value.code)
    assert "generative step" in capsys.readouterr().out.splitlines()[-1]


def test_gradients_that_disagree_end_the_program(benchmark, monkeypatch):
    plain = benchmark.Plain.heads

    def detached(self, hidden_BLD, genes_BLD):
        gep_BL, _ = plain(self, hidden_BLD, genes_BLD)
        return gep_BL, plain(self, hidden_BLD, genes_BLD.detach())[1]

    monkeypatch.setattr(benchmark.Plain, "heads", detached)
    with pytest.raises(SystemExit, match="do not agree: gradients of"):
        benchmark.main(TOY)


def test_half_precision_is_timed_where_asked_for(benchmark, capsys):
    options = benchmark.parse([*TOY[:-1], "on"])
    benchmark.generative(options, 0.5)
    printed = capsys.readouterr().out
    assert re.search(
        r"ours bf16 against plain fp32: loss \S+, gradient cosine (0\.999|1\.0)", printed
    )
    assert re.search(r"^  ours bf16 .* \d+\.\d\dx", printed, flags=re.MULTILINE)


def test_plain_mask_hides_unknown_genes_from_each_other(benchmark):
    options = benchmark.parse(TOY)
    torch.manual_seed(1)
    network = benchmark.networks(options).plain
    ids_BT, values_BT = benchmark.cells(options)
    first = network.generate(ids_BT, values_BT[:, :8])[0]
    ids_BT[:, -1] = (ids_BT[:, -1] + 1) % options.vocabulary
    second = network.generate(ids_BT, values_BT[:, :8])[0]
    torch.testing.assert_close(first[:, :-1], second[:, :-1])
    assert not torch.allclose(first[:, -1], second[:, -1])
    assert F.mse_loss(first, second) > 0
