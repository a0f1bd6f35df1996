"""The one description of a scGPT network: every option that decides which tensors exist."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from scgpt.errors import ConfigError

ValueEncoding = Literal["continuous", "category", "scaling"]
CellEmbedding = Literal["cls", "avg-pool", "w-pool"]
InputNorm = Literal["none", "batchnorm", "dsbn"]
GepcStyle = Literal["inner product", "inner product, detach", "concat query", "sum query"]
ExpressionDecoderStyle = Literal["mlp", "affine"]

LARGEST_VALUE = 512
"""Continuous values are clipped here from above; mask and padding values stay as they are."""


@dataclass(frozen=True, kw_only=True)
class ScGPTConfig:
    """Sizes and options of one scGPT network.

    Parameters
    ----------
    n_tokens, pad_id
        Rows of the gene table (genes and special tokens) and the row of the padding token.
    d_model, n_heads, n_layers, d_ff
        Width, attention heads, layers and inner width of the transformer. The released models
        have 512, 8, 12 and 512.
    dropout, attention_dropout
        `attention_dropout` applies to attention probabilities only; None means the same as
        `dropout`. Zero lets PyTorch choose its fast attention kernels during training on CPU.
    value_encoding, n_bins, pad_value, mask_value
        How an expression value becomes a vector. `n_bins`, `pad_value` and `mask_value` state the
        values the network was made for; only `category` builds tensors from them (a table of
        `n_bins + 2` rows, in which `pad_value` and `mask_value` are row numbers).
    cell_embedding
        `cls` is the output at position 0; `avg-pool` averages all positions, padding included, as
        the official model does; `w-pool` weights positions by their input value and normalises.
    input_norm
        Batch normalisation of the summed input embedding: none, one affine layer, or one
        statistics-only layer per batch (DSBN).
    n_batch_labels, batch_embedding
        Number of batches, and whether the decoders see an embedding of the batch.
    multiomic, n_modalities, modality_pad_id
        The multi-omic variant: labels of cell and modality enter both sides of the GEPC head.
    gepc, gep, explicit_zero, decoder_activation, decoder_adaptive_bias
        Style of the GEPC head (None: no such head) and of the GEP head; whether both also predict
        the probability of a non-zero value; the last two belong to the affine GEP head.
    n_classes, n_layers_cls
        Cell types of the classifier (0: no classifier) and its number of linear layers.
    dar
        Whether to build the batch discriminator behind a gradient reversal.
    n_perturbation_flags, perturbation_pad_id
        Rows of the table of perturbation flags (0: not a perturbation model) and its frozen row.
    generative
        Whether to build the flag that marks genes whose value is to be generated.
    ecs_threshold
        Similarity at which the elastic cell similarity objective is neutral. No tensor depends on
        it; it is kept with the weights because the objective is meaningless without it.

    Raises
    ------
    ConfigError
        If options contradict each other.
    """

    n_tokens: int
    pad_id: int
    d_model: int = 512
    n_heads: int = 8
    n_layers: int = 12
    d_ff: int = 512
    dropout: float = 0.2
    attention_dropout: float | None = None
    value_encoding: ValueEncoding = "continuous"
    n_bins: int = 51
    pad_value: float = -2
    mask_value: float = -1
    cell_embedding: CellEmbedding = "cls"
    input_norm: InputNorm = "none"
    n_batch_labels: int = 0
    batch_embedding: bool = True
    multiomic: bool = False
    n_modalities: int = 0
    modality_pad_id: int | None = None
    gep: ExpressionDecoderStyle = "mlp"
    gepc: GepcStyle | None = None
    explicit_zero: bool = False
    decoder_activation: str | None = None
    decoder_adaptive_bias: bool = False
    n_classes: int = 0
    n_layers_cls: int = 3
    dar: bool = False
    n_perturbation_flags: int = 0
    perturbation_pad_id: int = 0
    generative: bool = False
    ecs_threshold: float = 0.3

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ConfigError(problem)

    @property
    def attention_dropout_used(self) -> float:
        """Dropout of the attention probabilities."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def n_value_tokens(self) -> int:
        """Rows of the table of a `category` value encoder: bins, padding, mask."""
        return self.n_bins + 2

    @property
    def embeds_batch(self) -> bool:
        """Whether the decoders see an embedding of the batch."""
        return self.n_batch_labels > 0 and self.batch_embedding

    @property
    def has_labels(self) -> bool:
        """Whether the decoders see any label besides the token itself."""
        return self.embeds_batch or self.n_modalities > 0

    def replace(self, **changes: Any) -> ScGPTConfig:
        """Return a copy with some fields changed, checked again."""
        unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(self)})
        if unknown:
            msg = f"unknown model option {unknown[0]!r}; known: {', '.join(_names())}"
            raise ConfigError(msg)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-compatible dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ScGPTConfig:
        """Build from a dictionary, refusing unknown and missing fields by name."""
        unknown = sorted(set(fields) - set(_names()))
        if unknown:
            msg = f"unknown model option {unknown[0]!r}; known: {', '.join(_names())}"
            raise ConfigError(msg)
        for name in ("n_tokens", "pad_id"):
            if name not in fields:
                msg = f"model option {name!r} is missing; it has no default"
                raise ConfigError(msg)
        return cls(**fields)


def _names() -> list[str]:
    return [field.name for field in dataclasses.fields(ScGPTConfig)]


def _problems(config: ScGPTConfig) -> list[str]:
    """Return every contradiction in `config`, in words."""
    return [*_size_problems(config), *_choice_problems(config), *_label_problems(config)]


def _size_problems(config: ScGPTConfig) -> list[str]:
    problems = [
        f"{name} is {getattr(config, name)!r}; expected a whole number of at least {least}"
        for name, least in _LEAST.items()
        if not _is_whole(getattr(config, name)) or getattr(config, name) < least
    ]
    if problems:
        return problems
    if config.d_model % config.n_heads:
        problems.append(
            f"d_model {config.d_model} cannot be split into {config.n_heads} attention heads; "
            f"n_heads must divide d_model"
        )
    if not 0 <= config.pad_id < config.n_tokens:
        problems.append(f"pad_id {config.pad_id} is not a row of the {config.n_tokens} tokens")
    problems += [
        f"{name} is {rate!r}; expected a probability below 1"
        for name in ("dropout", "attention_dropout")
        if (rate := getattr(config, name)) is not None and not 0 <= rate < 1
    ]
    return problems


def _choice_problems(config: ScGPTConfig) -> list[str]:
    return [
        f"{name} is {getattr(config, name)!r}; expected one of {', '.join(map(repr, choices))}"
        for name, choices in _CHOICES.items()
        if getattr(config, name) not in choices
    ]


def _label_problems(config: ScGPTConfig) -> list[str]:
    checks = {
        "input_norm 'dsbn' needs n_batch_labels of at least 1": config.input_norm == "dsbn"
        and not config.n_batch_labels,
        "dar needs n_batch_labels of at least 1": config.dar and not config.n_batch_labels,
        "n_modalities needs multiomic=True": config.n_modalities and not config.multiomic,
        "a generative model cannot be multiomic": config.generative and config.multiomic,
        "a generative model has no input_norm": config.generative and config.input_norm != "none",
        f"with value_encoding 'category', pad_value {config.pad_value} must be a row of the table "
        f"of {config.n_value_tokens} values": config.value_encoding == "category"
        and config.pad_value not in range(-config.n_value_tokens, config.n_value_tokens),
        "a generative model needs gep='mlp'; 'affine' needs input values": config.generative
        and config.gep == "affine",
        "the affine GEP head cannot see batch or modality labels": config.gep == "affine"
        and config.has_labels,
        "decoder_activation and decoder_adaptive_bias need gep='affine'": config.gep != "affine"
        and (config.decoder_activation is not None or config.decoder_adaptive_bias),
        f"gepc {config.gepc!r} supports neither explicit_zero nor batch or modality labels; "
        "use 'inner product'": config.gepc in ("concat query", "sum query")
        and (config.explicit_zero or config.has_labels),
    }
    return [problem for problem, wrong in checks.items() if wrong]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_LEAST = {
    "n_tokens": 1,
    "pad_id": 0,
    "d_model": 1,
    "n_heads": 1,
    "n_layers": 1,
    "d_ff": 1,
    "n_bins": 2,
    "n_layers_cls": 1,
    "n_classes": 0,
    "n_batch_labels": 0,
    "n_modalities": 0,
    "n_perturbation_flags": 0,
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "value_encoding": get_args(ValueEncoding),
    "cell_embedding": get_args(CellEmbedding),
    "input_norm": get_args(InputNorm),
    "gep": get_args(ExpressionDecoderStyle),
    "gepc": (None, *get_args(GepcStyle)),
}
