"""Tensor names of the official scGPT implementation, and ours."""

from __future__ import annotations

import re
from typing import Literal

AttentionNames = Literal["Wqkv", "in_proj", "_impl"]

# Official prefix -> ours. Order matters only in that the first match wins.
_PREFIXES = {
    "encoder.embedding.": "gene_encoder.table.",
    "encoder.enc_norm.": "gene_encoder.norm.",
    "flag_encoder.": "generation_flag.",
    "value_encoder.linear1.": "value_encoder.linear_1.",
    "value_encoder.linear2.": "value_encoder.linear_2.",
    "value_encoder.norm.": "value_encoder.norm.",
    "value_encoder.embedding.": "value_encoder.table.",
    "value_encoder.enc_norm.": "value_encoder.norm.",
    "pert_encoder.": "perturbation_encoder.",
    "batch_encoder.embedding.": "batch_encoder.table.",
    "batch_encoder.enc_norm.": "batch_encoder.norm.",
    "mod_encoder.embedding.": "modality_encoder.table.",
    "mod_encoder.enc_norm.": "modality_encoder.norm.",
    "dsbn.bns.": "input_norm.by_batch.",
    "bn.": "input_norm.",
    "decoder.fc.": "gep.expression.",
    "decoder.zero_logit.": "gep.nonzero.",
    "decoder.coeff_decoder.fc.": "gep.coefficient.expression.",
    "decoder.coeff_decoder.zero_logit.": "gep.coefficient.nonzero.",
    "decoder.bias_decoder.fc.": "gep.offset.expression.",
    "decoder.bias_decoder.zero_logit.": "gep.offset.nonzero.",
    "mvc_decoder.gene2query.": "gepc.gene_query.",
    "mvc_decoder.W.": "gepc.expression.",
    "mvc_decoder.W_zero_logit.": "gepc.nonzero.",
    "mvc_decoder.fc1.": "gepc.linear_1.",
    "mvc_decoder.fc2.": "gepc.linear_2.",
    "mvc_decoder.hidden_activation.": "gepc.activation.",
    "cls_decoder._decoder.": "cls.blocks.",
    "cls_decoder.out_layer.": "cls.out.",
    "grad_reverse_discriminator._decoder.": "dar.blocks.",
    "grad_reverse_discriminator.out_layer.": "dar.out.",
}
_LAYER_PARTS = {
    "self_attn.out_proj.": "attention.out.",
    "linear1.": "linear_1.",
    "linear2.": "linear_2.",
    "norm1.": "norm_1.",
    "norm2.": "norm_2.",
}
_QKV = re.compile(r"self_attn\.(?:_impl\.)?Wqkv\.(weight|bias)|self_attn\.in_proj_(weight|bias)")
_LAYER = re.compile(r"transformer_encoder\.(layers\.\d+\.)(.+)")
_OUR_LAYER = re.compile(r"transformer\.(layers\.\d+\.)(.+)")
_QKV_NAMES: dict[AttentionNames, str] = {
    "Wqkv": "self_attn.Wqkv.",
    "in_proj": "self_attn.in_proj_",
    "_impl": "self_attn._impl.Wqkv.",
}


def from_official(name: str) -> str | None:
    """Return our name of an official tensor, or None if there is no such tensor.

    All three official namings of attention are understood, and a leading `module.` is dropped.
    """
    name = name.removeprefix("module.")
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return _swap_prefix(name, _PREFIXES)
    part = layer[2]
    qkv = _QKV.fullmatch(part)
    if qkv is not None:
        ours = f"attention.qkv.{qkv[1] or qkv[2]}"
    else:
        ours = _swap_prefix(part.replace("self_attn._impl.", "self_attn."), _LAYER_PARTS)
    return None if ours is None else f"transformer.{layer[1]}{ours}"


def to_official_name(
    name: str, *, category_values: bool = False, attention: AttentionNames = "Wqkv"
) -> str:
    """Return the official name of one of our tensors.

    Parameters
    ----------
    name
        Our name.
    category_values
        Whether the value encoder is a table: its norm then has another official name.
    attention
        `Wqkv` as in released files, `in_proj` as in PyTorch's attention, `_impl` as in newer
        fine-tuned files.
    """
    layer = _OUR_LAYER.fullmatch(name)
    if layer is not None:
        return f"transformer_encoder.{layer[1]}{_layer_part(layer[2], attention)}"
    if category_values and name.startswith("value_encoder.norm."):
        return name.replace(".norm.", ".enc_norm.")
    official = _swap_prefix(name, _reverse(_PREFIXES))
    if official is None:
        msg = f"no official name for tensor {name!r}"
        raise KeyError(msg)
    return official


def _layer_part(part: str, attention: AttentionNames) -> str:
    if part.startswith("attention.qkv."):
        return _QKV_NAMES[attention] + part.removeprefix("attention.qkv.")
    official = _swap_prefix(part, _reverse(_LAYER_PARTS))
    if official is None:
        msg = f"no official name for layer tensor {part!r}"
        raise KeyError(msg)
    return official.replace("self_attn.", "self_attn._impl.") if attention == "_impl" else official


def _swap_prefix(name: str, prefixes: dict[str, str]) -> str | None:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None


def _reverse(prefixes: dict[str, str]) -> dict[str, str]:
    """Swap keys and values, longest first; of two keys with one value, keep the first."""
    reverse: dict[str, str] = {}
    for official, ours in prefixes.items():
        reverse.setdefault(ours, official)
    return dict(sorted(reverse.items(), key=lambda pair: -len(pair[0])))
