"""The mapping of tensor names to and from the official ones."""

from __future__ import annotations

import pytest

from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream_names import from_official, to_official_name

SIZES = {"n_tokens": 9, "pad_id": 8, "d_model": 8, "n_heads": 2, "n_layers": 2, "d_ff": 8}
NETWORKS = {
    "pre-training": {"generative": True, "gepc": "inner product"},
    "everything": {
        "gepc": "inner product",
        "explicit_zero": True,
        "n_classes": 3,
        "n_batch_labels": 2,
        "dar": True,
        "input_norm": "dsbn",
        "multiomic": True,
        "n_modalities": 3,
    },
    "old": {"input_norm": "batchnorm", "n_classes": 3, "n_layers_cls": 2},
    "category": {"value_encoding": "category", "pad_value": 51},
    "scaling": {"value_encoding": "scaling", "gepc": "concat query"},
    "perturbation": {"n_perturbation_flags": 3, "gep": "affine", "explicit_zero": True},
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("attention", ["Wqkv", "in_proj", "_impl"])
def test_names_go_to_official_and_back(network: str, attention: str) -> None:
    names = list(ScGPT(ScGPTConfig(**SIZES, **NETWORKS[network])).state_dict())
    official = [
        to_official_name(name, category_values=network == "category", attention=attention)
        for name in names
    ]
    assert len(set(official)) == len(names)
    assert [from_official(name) for name in official] == names
    assert [from_official(f"module.{name}") for name in official] == names


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("encoder.embedding.weight", "gene_encoder.table.weight"),
        ("transformer_encoder.layers.3.self_attn.Wqkv.bias", "attention.qkv.bias"),
        ("transformer_encoder.layers.3.self_attn.in_proj_weight", "attention.qkv.weight"),
        ("transformer_encoder.layers.3.self_attn._impl.Wqkv.weight", "attention.qkv.weight"),
        ("transformer_encoder.layers.3.self_attn._impl.out_proj.bias", "attention.out.bias"),
        ("transformer_encoder.layers.3.norm2.weight", "norm_2.weight"),
        ("bn.running_mean", "input_norm.running_mean"),
        ("dsbn.bns.1.running_var", "input_norm.by_batch.1.running_var"),
        ("decoder.zero_logit.4.bias", "gep.nonzero.4.bias"),
        ("mvc_decoder.W_zero_logit.weight", "gepc.nonzero.weight"),
        ("cls_decoder._decoder.5.weight", "cls.blocks.5.weight"),
    ],
)
def test_well_known_names(official: str, ours: str) -> None:
    ours = f"transformer.layers.3.{ours}" if "layers.3" in official else ours
    assert from_official(official) == ours


@pytest.mark.parametrize(
    "name",
    [
        "encoder.foo",
        "transformer_encoder.layers.0.self_attn.q_proj.weight",
        "gep.expression.0.bias",
    ],
)
def test_unknown_names_have_no_counterpart(name: str) -> None:
    assert from_official(name) is None


def test_our_own_unknown_names_are_an_error() -> None:
    with pytest.raises(KeyError, match=r"head\.weight"):
        to_official_name("head.weight")
