"""Models in folders of either layout: found by their files, loaded strictly, saved without loss."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import scgpt
from scgpt.errors import CheckpointError, ConfigError
from scgpt.library.models import OFFICIAL, OURS
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream import save_official

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from toy_model import toy_cells, toy_folder, toy_model

CASE = "tests/golden/model/base_cls_mvc_ecs_cce"


@pytest.fixture
def official(root, tmp_path):
    return Path(shutil.copytree(root / CASE, tmp_path / "official"))


@pytest.fixture
def ours(tmp_path):
    return toy_folder(tmp_path / "ours")


def test_both_layouts_are_told_apart_by_their_files(official, ours):
    loaded = scgpt.load_model(official)
    assert loaded.receipt.count("loaded") == len(loaded.receipt.rows) == 64
    assert loaded.extra["args"]["embsize"] == loaded.config.d_model == 64
    assert not loaded.model.training
    assert scgpt.load_model(str(ours)).config.generative


def test_saving_and_loading_changes_no_bit(official, tmp_path):
    first = scgpt.load_model(official)
    scgpt.save_model(first, tmp_path / "saved")
    second = scgpt.load_model(tmp_path / "saved")
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert first.vocab == second.vocab
    assert first.extra == second.extra
    assert first.digest() == second.digest()


def test_the_digest_sees_one_changed_weight_and_one_swapped_gene(tmp_path):
    loaded = toy_model(tmp_path)
    before = loaded.digest()
    with torch.no_grad():
        loaded.model.transformer.layers[1].linear_1.weight[3, 5] += 1e-6
    assert loaded.digest() != before
    other = toy_model(tmp_path / "other")
    object.__setattr__(other, "vocab", scgpt.load_model(tmp_path).vocab)
    assert other.digest() == before
    tokens = list(other.vocab.tokens)
    tokens[0], tokens[1] = tokens[1], tokens[0]
    object.__setattr__(other, "vocab", type(other.vocab)(tokens))
    assert other.digest() != before


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_missing_official_file_is_named(official, name):
    (official / name).unlink()
    with pytest.raises(CheckpointError, match=f": {name} missing; the official layout needs"):
        scgpt.load_model(official)


@pytest.mark.parametrize("name", OURS)
def test_a_missing_file_of_ours_is_named(ours, name):
    (ours / name).unlink()
    with pytest.raises(CheckpointError, match=f": {name} missing; the scgpt layout needs"):
        scgpt.load_model(ours)


def test_what_is_no_model_folder_is_one_clear_error(official, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        scgpt.load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="give the folder it is in"):
        scgpt.load_model(official / "best_model.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"expected best_model\.pt, args\.json and vocab"):
        scgpt.load_model(tmp_path / "empty")


def test_a_foreign_config_beside_the_official_files_does_not_matter(official):
    (official / "config.json").write_text('{"architectures": ["GPT2"]}')
    assert scgpt.load_model(official).receipt.count("loaded") == 64


def test_the_receipt_is_written_on_request(official, tmp_path):
    scgpt.load_model(official, receipt_path=tmp_path / "out" / "receipt.json")
    receipt = json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert len(receipt["tensors"]) == 64
    assert {row["status"] for row in receipt["tensors"]} == {"loaded"}


def test_a_tensor_without_a_place_is_refused_unless_allowed(official):
    state = torch.load(official / "best_model.pt", weights_only=True)
    state["adapter.weight"] = torch.zeros(3)
    torch.save(state, official / "best_model.pt")
    with pytest.raises(CheckpointError, match=r"adapter\.weight"):
        scgpt.load_model(official)
    allowed = scgpt.load_model(official, allow={"adapter.*": "not used here"})
    assert allowed.receipt.count("unused") == 1


def test_unknown_and_absent_devices_are_refused(ours):
    with pytest.raises(ConfigError, match="'gpu' is unknown"):
        scgpt.load_model(ours, device="gpu")
    with pytest.raises(ConfigError, match="is not there"):
        scgpt.load_model(ours, device=f"cuda:{torch.cuda.device_count()}")


def test_a_model_of_the_released_size_loads_and_embeds_in_seconds(tmp_path):
    # 12 x 512 with 60,697 tokens has the 163 tensors and the numbers of the released file.
    vocab = {f"GENE{i}": i for i in range(60_694)}
    vocab |= {"<pad>": 60_694, "<cls>": 60_695, "<eoc>": 60_696}
    config = ScGPTConfig(n_tokens=60_697, pad_id=60_694, gepc="inner product", generative=True)
    save_official(tmp_path / "model", ScGPT(config), vocab, {"max_seq_len": 1200})
    start = time.process_time()
    loaded = scgpt.load_model(tmp_path / "model", device="cpu")
    assert time.process_time() - start < 15
    assert loaded.receipt.count("loaded") == len(loaded.receipt.rows) == 163
    assert sum(tensor.numel() for tensor in loaded.model.state_dict().values()) == 51_330_049
    cells = toy_cells(4)
    cells.var_names = [f"GENE{i}" for i in range(cells.n_vars)]
    scgpt.embed(cells, loaded, threads=1)
    assert cells.obsm["X_scgpt"].shape == (4, 512)
    np.testing.assert_allclose(np.linalg.norm(cells.obsm["X_scgpt"], axis=1), 1, atol=1e-5)


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, time; start = time.perf_counter(); import scgpt; "
        "print(time.perf_counter() - start < 0.2, "
        "sorted({'numpy', 'torch', 'pandas', 'anndata', 'scgpt.library'} & set(sys.modules)), "
        "{'embed', 'load_model', 'attention'} <= set(dir(scgpt)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "True [] True"


def test_every_promised_function_is_there(root):
    for name in scgpt.__all__:
        assert getattr(scgpt, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'embd'"):
        scgpt.embd  # noqa: B018
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert scgpt.__version__ == project["project"]["version"]
