"""Our network against stored outputs of the official implementation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from scgpt.errors import CheckpointError, ContractError, ScgptError
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.model.transformer import TransformerLayer
from scgpt.model.upstream import open_official
from scgpt.model.upstream_names import from_official
from scgpt.steps.parity import compare_case, run

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "model"
WHOLE = ("base_cls_mvc_ecs_cce", "integration_dsbn_zero_dab")
SHARED = (
    "avg_pool",
    "base_cls_mvc_ecs_cce",
    "batch_labels",
    "explicit_zero_no_batch",
    "integration_dsbn_zero_dab",
    "multiomic_mod_batch_dab",
    "perturb_default",
    "pretrain_generative",
)


def assert_agrees(folder: Path) -> list[str]:
    rows = compare_case(folder)
    assert [row for row in rows if not row.passed] == []
    return [row.name for row in rows]


@pytest.mark.parametrize("case", WHOLE)
def test_golden_case_agrees_in_every_output_and_in_the_training_step(case: str) -> None:
    names = assert_agrees(GOLDEN / case)
    assert {"mlm_output", "mvc_output", "cell_emb", "hidden.2", "generate_no_values"} <= set(names)
    assert {"train.loss.total", "train.grad_norms", "train.param_sum_after"} <= set(names)


@pytest.mark.parametrize("case", SHARED)
def test_every_stored_case_agrees(case: str, shared_dir: Path) -> None:
    folder = shared_dir / "reference" / "model" / case
    assert len(assert_agrees(folder)) >= 12


def test_every_stored_array_of_outputs_is_compared(shared_dir: Path) -> None:
    for case in SHARED:
        folder = shared_dir / "reference" / "model" / case
        with np.load(folder / "io.npz") as stored:
            names = {name.removeprefix("slow.") for name in stored.files}
        skipped = {
            name
            for name in names
            if not name.startswith(("in.", "fast.")) and name != "train.grad_names"
        } - {row.name for row in compare_case(folder)}
        assert skipped <= {"pp.gene_ids", "pp.ctrl", "pp.flags"}


def test_generative_layer_equals_the_official_one() -> None:
    with np.load(GOLDEN / "generative_layer.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    layer = TransformerLayer(
        ScGPTConfig(n_tokens=1, pad_id=0, d_model=64, n_heads=4, n_layers=1, d_ff=96)
    )
    prefix = "transformer.layers.1."
    weights = {
        from_official(name.removeprefix("weight.")).removeprefix(prefix): tensor
        for name, tensor in arrays.items()
        if name.startswith("weight.")
    }
    layer.load_state_dict(weights)
    known, unknown = layer.eval()(
        arrays["pass1.hidden_pcpt.0"], arrays["in.pcpt_pad"], arrays["pass1.hidden_gen.0"]
    )
    for ours, name, padding in (
        (known, "pass1.hidden_pcpt.1", "in.pcpt_pad"),
        (unknown, "pass1.hidden_gen.1", "in.gen_pad"),
    ):
        difference = (ours - arrays[name]).abs()[~arrays[padding]]
        assert float(difference.max().detach()) < 1e-5


def test_average_pooling_counts_padding_as_the_official_model_does() -> None:
    with np.load(GOLDEN / "avg_pool.npz") as stored:
        hidden = torch.from_numpy(stored["slow.transformer_output"])
        expected = torch.from_numpy(stored["slow.cell_emb"])
    config = ScGPTConfig(
        n_tokens=2, pad_id=0, d_model=64, n_heads=4, n_layers=1, d_ff=8, cell_embedding="avg-pool"
    )
    assert torch.allclose(ScGPT(config).pool(hidden, None), expected, atol=1e-6)


def test_raw_attention_scores_equal_the_official_ones(shared_dir: Path) -> None:
    with np.load(shared_dir / "reference" / "data" / "attention_grn.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    model = open_official(GOLDEN / WHOLE[0]).model.eval()
    scores = model.raw_attention_scores(arrays["src"], arrays["values"], layer=-1)
    assert float((scores.detach() - arrays["raw_qk"]).abs().max()) < 1e-4


def copy_case(tmp_path: Path, case: str = WHOLE[0]) -> Path:
    return Path(shutil.copytree(GOLDEN / case, tmp_path / "case"))


def change_arrays(folder: Path, **changes: np.ndarray) -> None:
    with np.load(folder / "io.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(folder / "io.npz", **(arrays | changes))


def change_meta(folder: Path, **options: object) -> None:
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    meta["constructor"] |= options
    path.write_text(json.dumps(meta))


def stored(folder: Path, name: str) -> np.ndarray:
    with np.load(folder / "io.npz") as arrays:
        return arrays[name]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("slow.mlm_output", 2e-4),
        ("slow.cell_emb", 2e-4),
        ("slow.loss_ecs", 1e-4),
        ("slow.generate_no_values", 2e-4),
        ("train.loss.gep", 0.1),
        ("train.total_grad_norm", 10.0),
        ("train.param_sum_after", 0.1),
        ("train.param_norm_after", 1e-4),
    ],
)
def test_a_changed_number_is_found(
    name: str, change: float, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_case(tmp_path)
    change_arrays(folder, **{name: stored(folder, name) + np.float32(change)})
    assert run([folder]) == 1
    shown = capsys.readouterr().out
    assert "1 of" in shown
    assert f"{name.removeprefix('slow.')} " in shown.split("DIFFERS")[0].splitlines()[-1] + " "


def test_one_wrong_gradient_is_found_and_named(tmp_path: Path) -> None:
    folder = copy_case(tmp_path)
    norms = stored(folder, "train.grad_norms").copy()
    norms[7] *= 1.01
    change_arrays(folder, **{"train.grad_norms": norms})
    failed = [row for row in compare_case(folder) if not row.passed]
    assert [row.name for row in failed] == ["train.grad_norms"]
    assert failed[0].note == stored(folder, "train.grad_names")[7]


def test_a_changed_weight_is_found(tmp_path: Path) -> None:
    folder = copy_case(tmp_path)
    state = torch.load(folder / "best_model.pt", weights_only=True)
    state["transformer_encoder.layers.1.self_attn.Wqkv.weight"][0, 0] += 0.5
    torch.save(state, folder / "best_model.pt")
    assert run([folder]) == 1


def test_agreeing_cases_return_zero(capsys: pytest.CaptureFixture) -> None:
    assert run([GOLDEN / WHOLE[0]]) == 0
    assert "all 20 agree" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n_experts": 4}, "unknown option 'n_experts'"),
        ({"use_mod": True}, "unknown option 'use_mod'"),
        ({"domain_spec_batchnorm": "both"}, "'domain_spec_batchnorm' is 'both'"),
        ({"fast_transformer_backend": "linear"}, "'fast_transformer_backend'"),
        ({"nhead": 8}, "'nhead' is 8, sizes say 4"),
        ({"pad_token": "<none>"}, "'pad_token' is '<none>'"),
        ({"cell_emb_style": "max-pool"}, "cell_embedding is 'max-pool'"),
    ],
)
def test_unknown_and_contradictory_options_are_refused_by_name(
    options: dict, complaint: str, tmp_path: Path
) -> None:
    folder = copy_case(tmp_path)
    change_meta(folder, **options)
    with pytest.raises(ScgptError, match=complaint.replace("(", r"\(")):
        compare_case(folder)


def test_heads_the_weights_lack_are_refused(tmp_path: Path) -> None:
    folder = copy_case(tmp_path)
    change_meta(folder, explicit_zero_prob=True)
    with pytest.raises(CheckpointError, match=r"decoder\.zero_logit\.0\.weight \(missing\)"):
        compare_case(folder)


def test_wrong_heads_in_args_are_found_from_the_sizes(tmp_path: Path) -> None:
    folder = copy_case(tmp_path)
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(args | {"nheads": 8}))
    with pytest.raises(ContractError, match=r"sizes say nheads 4, args\.json says 8"):
        compare_case(folder)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("meta.json", None, "no such file"),
        ("meta.json", b"{", "not JSON"),
        ("meta.json", b"{}", "'model_class' is missing"),
        ("io.npz", None, "no such file"),
        ("io.npz", b"PK\x03\x04cut", "not a readable archive"),
        ("best_model.pt", None, "no such file"),
        ("args.json", None, "no such file"),
        ("vocab.json", b"[]", "expected a JSON object"),
    ],
)
def test_a_bad_folder_is_one_clear_error(
    file: str, content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    folder = copy_case(tmp_path)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(ScgptError, match=complaint) as caught:
        compare_case(folder)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_missing_input_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no such folder"):
        compare_case(tmp_path / "nowhere")
    folder = copy_case(tmp_path)
    with np.load(folder / "io.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "in.values"}
    np.savez(folder / "io.npz", **kept)
    with pytest.raises(ContractError, match=r"array 'in\.values' is missing"):
        compare_case(folder)


def test_an_unknown_output_is_not_passed_over(tmp_path: Path) -> None:
    folder = copy_case(tmp_path)
    change_arrays(folder, **{"slow.attention_map": np.zeros((5, 24), np.float32)})
    failed = [row for row in compare_case(folder) if not row.passed]
    assert [row.name for row in failed] == ["attention_map"]
