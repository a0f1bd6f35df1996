"""From the official `args.json` and the tensors of a file to our model options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgpt.errors import CheckpointError, ConfigError
from scgpt.model.config import ScGPTConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

GENE_TABLE = "encoder.embedding.weight"
RELEASED_SIZES = {"d_model": 512, "n_layers": 12, "d_ff": 512}
RELEASED_HEADS = 8
_SIZES = {"embsize": "d_model", "nheads": "n_heads", "nlayers": "n_layers", "d_hid": "d_ff"}
_OPTIONS = {
    "dropout": "dropout",
    "n_bins": "n_bins",
    "pad_value": "pad_value",
    "mask_value": "mask_value",
    "n_layers_cls": "n_layers_cls",
    "input_emb_style": "value_encoding",
}

Shapes = dict[str, tuple[int, ...]]


def config_from_official(
    args: Mapping[str, Any],
    vocab: Mapping[str, int],
    shapes: Shapes,
    overrides: Mapping[str, Any],
) -> ScGPTConfig:
    """Return the options of the network that an official folder describes.

    Sizes come from `args.json` and the vocabulary, and must agree with the tensors. Which heads
    and encoders exist is read off the tensor names. What no file states (style of the cell
    embedding, a detached GEPC head) has to be among `overrides`.

    Parameters
    ----------
    args, vocab
        Contents of `args.json` and `vocab.json`.
    shapes
        Shape of each tensor of the file, by official name.
    overrides
        Fields of `ScGPTConfig` that win over everything found.

    Raises
    ------
    CheckpointError
        If the three files contradict each other.
    ConfigError
        If an override does.
    """
    fields = _sizes(args) | {
        ours: args[theirs] for theirs, ours in _OPTIONS.items() if args.get(theirs) is not None
    }
    pad_token = args.get("pad_token", "<pad>")
    if pad_token not in vocab:
        msg = f"args.json names the padding token {pad_token!r}, which is not in vocab.json"
        raise CheckpointError(msg)
    fields |= {"n_tokens": len(vocab), "pad_id": vocab[pad_token]}
    _compare_sizes(fields | dict(overrides), shapes)
    fields |= options_from_tensors(shapes)
    try:
        config = ScGPTConfig.from_dict(fields | dict(overrides))
    except ConfigError as error:
        msg = f"args.json, vocab.json and the tensors make no network: {error}"
        raise (ConfigError if overrides else CheckpointError)(msg) from error
    _check_heads(config, overrides)
    return config


def options_from_tensors(shapes: Shapes) -> dict[str, Any]:
    """Return the options that the presence and the shapes of tensors decide."""
    look = _Tensors(shapes)
    affine = look.any("decoder.coeff_decoder.")
    found: dict[str, Any] = {
        "value_encoding": look.value_encoding(),
        "gep": "affine" if affine else "mlp",
        "explicit_zero": look.any("decoder.zero_logit.")
        or look.any("decoder.coeff_decoder.zero_logit."),
        "gepc": look.gepc(),
        "generative": look.any("flag_encoder."),
        "n_perturbation_flags": look.rows("pert_encoder.weight")
        if affine or look.any("pert_encoder.")
        else 0,
        "dar": look.any("grad_reverse_discriminator."),
    }
    if look.any("value_encoder.embedding."):
        found["n_bins"] = look.rows("value_encoder.embedding.weight") - 2
    if look.any("cls_decoder."):
        found["n_classes"] = look.rows("cls_decoder.out_layer.weight")
        found["n_layers_cls"] = 1 + look.count(r"cls_decoder._decoder.", ndim=2)
    return found | look.batches() | look.modalities()


class _Tensors:
    """Questions about a set of official tensor names and shapes."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes

    def any(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)

    def count(self, prefix: str, *, ndim: int) -> int:
        return sum(
            name.startswith(prefix) and len(shape) == ndim for name, shape in self.shapes.items()
        )

    def rows(self, name: str) -> int:
        shape = self.shapes.get(name)
        if not shape:
            msg = f"{name} is missing, though other tensors show that the network has it"
            raise CheckpointError(msg)
        return shape[0]

    def value_encoding(self) -> str:
        if self.any("value_encoder.embedding.") or self.any("value_encoder.enc_norm."):
            return "category"
        return "continuous" if self.any("value_encoder.") else "scaling"

    def gepc(self) -> str | None:
        if not self.any("mvc_decoder."):
            return None
        if not self.any("mvc_decoder.fc1."):
            return "inner product"
        wide = self.shapes.get("mvc_decoder.fc1.weight", (0, 0))[1]
        width = self.shapes.get(GENE_TABLE, (0, 0))[1]
        return "concat query" if wide > width else "sum query"

    def batches(self) -> dict[str, Any]:
        """Return the number of batches and what uses it."""
        norms = {name.split(".")[2] for name in self.shapes if name.startswith("dsbn.bns.")}
        found: dict[str, Any] = {
            "input_norm": "dsbn" if norms else "batchnorm" if self.any("bn.") else "none"
        }
        if self.any("batch_encoder."):
            return found | {"n_batch_labels": self.rows("batch_encoder.embedding.weight")}
        if self.any("grad_reverse_discriminator."):
            n_batch_labels = self.rows("grad_reverse_discriminator.out_layer.weight")
            return found | {"n_batch_labels": n_batch_labels, "batch_embedding": False}
        return found | ({"n_batch_labels": len(norms), "batch_embedding": False} if norms else {})

    def modalities(self) -> dict[str, Any]:
        """Return what marks the multi-omic variant: modalities, or a GEPC head of double width."""
        n_modalities = self.rows("mod_encoder.embedding.weight") if self.any("mod_encoder.") else 0
        width = self.shapes.get(GENE_TABLE, (0, 0))[1]
        query = self.shapes.get("mvc_decoder.gene2query.weight", (0, 0))
        return {
            "n_modalities": n_modalities,
            "multiomic": bool(n_modalities or (self.any("mvc_decoder.W") and query[1] > width)),
        }


def _sizes(args: Mapping[str, Any]) -> dict[str, Any]:
    fields = {}
    for theirs, ours in _SIZES.items():
        if not isinstance(args.get(theirs), int) or isinstance(args[theirs], bool):
            msg = f"args.json: {theirs!r} is {args.get(theirs)!r}; expected a whole number"
            raise CheckpointError(msg)
        fields[ours] = args[theirs]
    return fields


def _compare_sizes(fields: Mapping[str, Any], shapes: Shapes) -> None:
    """Name the file that is wrong, where a list of misfitting tensors would only confuse."""
    table = shapes.get(GENE_TABLE)
    if table is None or len(table) != 2:
        msg = f"{GENE_TABLE} is missing or not a table: not the weights of a scGPT network"
        raise CheckpointError(msg)
    n_tokens, d_model = fields["n_tokens"], fields["d_model"]
    if table == (d_model, n_tokens) and n_tokens != d_model:
        msg = f"{GENE_TABLE} is transposed: {table} instead of {table[::-1]}"
        raise CheckpointError(msg)
    if table[1] != d_model:
        msg = f"args.json says embsize {d_model}, but {GENE_TABLE} has {table[1]} columns"
        raise CheckpointError(msg)
    if table[0] != n_tokens:
        msg = f"vocab.json has {n_tokens} tokens, but {GENE_TABLE} has {table[0]} rows"
        raise CheckpointError(msg)
    prefix = "transformer_encoder.layers."
    layers = {name.split(".")[2] for name in shapes if name.startswith(prefix)}
    if len(layers) != fields["n_layers"]:
        msg = f"args.json says nlayers {fields['n_layers']}, but the file has {len(layers)} layers"
        raise CheckpointError(msg)
    inner = shapes.get(f"{prefix}0.linear1.weight", (fields["d_ff"],))
    if inner not in ((fields["d_ff"],), (fields["d_ff"], d_model), (d_model, fields["d_ff"])):
        msg = f"args.json says d_hid {fields['d_ff']}, but {prefix}0.linear1 has {inner[0]} rows"
        raise CheckpointError(msg)


def _check_heads(config: ScGPTConfig, overrides: Mapping[str, Any]) -> None:
    """Refuse another number of heads where the sizes are those of the released models.

    No tensor depends on the number of heads, so elsewhere a wrong one that divides the width
    cannot be seen.
    """
    released = all(getattr(config, name) == size for name, size in RELEASED_SIZES.items())
    if released and config.n_heads != RELEASED_HEADS and "n_heads" not in overrides:
        msg = (
            f"args.json says nheads {config.n_heads}, but all released models of this size have "
            f"{RELEASED_HEADS}; pass n_heads={config.n_heads} if this one really differs"
        )
        raise CheckpointError(msg)
