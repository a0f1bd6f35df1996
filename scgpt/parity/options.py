"""Official constructor options, translated into ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgpt.errors import ContractError
from scgpt.model.checkpoint import read_checkpoint_json, read_vocab
from scgpt.parity.case import GENERATOR, META_FILE, MULTIOMIC, PRETRAINING, Case

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PERTURBATION_PAD_ID = 2
N_PERTURBATION_FLAGS = 3

_SIZES = {"ntoken": None, "d_model": "embsize", "nhead": "nheads", "d_hid": "d_hid"}
_SIZES |= {"nlayers": "nlayers", "embsize": "embsize", "nheads": "nheads"}
_COMMON = {
    *("n_cls", "nlayers_cls", "n_layers_cls", "vocab", "dropout", "pad_token", "pad_value"),
    *("do_mvc", "mvc_decoder_style", "domain_spec_batchnorm", "n_input_bins", "cell_emb_style"),
    *("ecs_threshold", "explicit_zero_prob", "pre_norm"),
    *("use_fast_transformer", "fast_transformer_backend"),
}
_BATCH = {"do_dab", "use_batch_labels", "num_batch_labels", "input_emb_style"}
_BY_CLASS = {
    MULTIOMIC: {"use_mod", "ntokens_mod", "vocab_mod"},
    GENERATOR: {"pert_pad_id", "decoder_activation", "decoder_adaptive_bias"},
    PRETRAINING: {"use_generative_training", "use_sim_decoder"},
}
_INPUT_NORMS = {
    False: "none",
    "do_affine": "none",
    True: "dsbn",
    "dsbn": "dsbn",
    "batchnorm": "batchnorm",
}


def model_options(case: Case) -> dict[str, Any]:
    """Return the fields of `ScGPTConfig` that the options of `case` ask for.

    Dropout is set to 0: stored training steps were made without it.

    Raises
    ------
    ContractError
        If an option is unknown for the class or cannot be honoured, by name.
    """
    _refuse(case)
    given = case.constructor
    options: dict[str, Any] = {
        "dropout": 0.0,
        "cell_embedding": given.get("cell_emb_style", "cls"),
        "ecs_threshold": given.get("ecs_threshold", 0.3),
        "explicit_zero": bool(given.get("explicit_zero_prob", False)),
        "gepc": given.get("mvc_decoder_style", "inner product") if given.get("do_mvc") else None,
        "n_layers_cls": given.get("nlayers_cls", given.get("n_layers_cls", 3)),
        "pad_value": given.get("pad_value", 0),
        "value_encoding": given.get("input_emb_style", "continuous"),
        "input_norm": _input_norm(case),
        "n_classes": _n_classes(case),
    }
    if "pad_token" in given:
        options["pad_id"] = _pad_id(case)
    if case.model_class == GENERATOR:
        # Whether a generator normalises its input changed over time; its tensors tell.
        del options["input_norm"], options["value_encoding"]
        return options | _generator_options(case)
    options |= _batch_options(given)
    if case.model_class == MULTIOMIC:
        options |= _modality_options(case)
    options["generative"] = bool(given.get("use_generative_training", False))
    return options


def _refuse(case: Case) -> None:
    known = set(_SIZES) | _COMMON | _BY_CLASS.get(case.model_class, set())
    if case.model_class != GENERATOR:
        known |= _BATCH
    given = case.constructor
    for name in sorted(set(given) - known):
        _fail(case, f"unknown option {name!r} of {case.model_class}; known: {sorted(known)}")
    for name, size in _SIZES.items():
        if name in given and size is not None and given[name] != case.sizes.get(size):
            _fail(case, f"option {name!r} is {given[name]}, sizes say {case.sizes.get(size)}")
    if given.get("fast_transformer_backend", "flash") != "flash":
        _fail(case, "option 'fast_transformer_backend' must be 'flash'; no model uses another")
    if given.get("use_sim_decoder"):
        _fail(case, "option 'use_sim_decoder' is not supported: no released model uses it")
    if case.model_class == GENERATOR and given.get("n_input_bins"):
        _fail(case, "option 'n_input_bins' makes the official TransformerGenerator fail")
    _check_sizes(case)


def _check_sizes(case: Case) -> None:
    """Compare the sizes that the case names with those that its weights come with."""
    args = read_checkpoint_json(case.folder / "args.json")
    for name, size in case.sizes.items():
        if isinstance(args, dict) and name in args and args[name] != size:
            _fail(case, f"sizes say {name} {size}, args.json says {args[name]}")


def _input_norm(case: Case) -> str:
    asked = case.constructor.get("domain_spec_batchnorm", False)
    if asked not in _INPUT_NORMS:
        _fail(case, f"option 'domain_spec_batchnorm' is {asked!r}; known: {list(_INPUT_NORMS)}")
    return _INPUT_NORMS[asked]


def _n_classes(case: Case) -> int:
    n_classes = case.constructor.get("n_cls", 1)
    # The pre-training branch builds no classifier for a single class.
    return 0 if case.model_class == PRETRAINING and n_classes <= 1 else n_classes


def _pad_id(case: Case) -> int:
    vocab = read_vocab(case.folder / "vocab.json")
    token = case.constructor["pad_token"]
    if token not in vocab:
        _fail(case, f"option 'pad_token' is {token!r}, which is not in vocab.json")
    return vocab[token]


def _batch_options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "n_batch_labels": given.get("num_batch_labels") or 0,
        "batch_embedding": bool(given.get("use_batch_labels", False)),
        "dar": bool(given.get("do_dab", False)),
    }


def _modality_options(case: Case) -> dict[str, Any]:
    """Return the modality options; the padding id is the one seen at padded positions."""
    given = case.constructor
    options: dict[str, Any] = {"multiomic": True, "n_modalities": 0}
    if not given.get("use_mod", False):
        return options
    options["n_modalities"] = given.get("ntokens_mod") or 0
    if not options["n_modalities"]:
        _fail(case, "option 'use_mod' needs 'ntokens_mod'")
    vocab = given.get("vocab_mod")
    if isinstance(vocab, dict) and given.get("pad_token", "<pad>") in vocab:
        options["modality_pad_id"] = vocab[given.get("pad_token", "<pad>")]
    elif "in.mod_types" in case.arrays and "in.pad_mask" in case.arrays:
        padded = np.unique(case.arrays["in.mod_types"][case.arrays["in.pad_mask"]])
        options["modality_pad_id"] = int(padded[0]) if len(padded) == 1 else None
    return options


def _generator_options(case: Case) -> dict[str, Any]:
    """Return the options of the perturbation model; older ones have a plain decoder."""
    given = case.constructor
    return {
        "n_perturbation_flags": N_PERTURBATION_FLAGS,
        "perturbation_pad_id": given.get("pert_pad_id", DEFAULT_PERTURBATION_PAD_ID),
        "decoder_activation": given.get("decoder_activation"),
        "decoder_adaptive_bias": bool(given.get("decoder_adaptive_bias", False)),
    }


def _fail(case: Case, problem: str) -> None:
    msg = f"{case.folder / META_FILE}: {problem}"
    raise ContractError(msg)
