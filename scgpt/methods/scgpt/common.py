"""What all scGPT methods share: parameters, genes, tokens, and where the weights start."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from scgpt.errors import ConfigError, DataError
from scgpt.library.models import LoadedModel, load_model
from scgpt.methods.scgpt.params import NetworkParams, OptimiserParams
from scgpt.methods.task_data import SHOWN, lognorm_matrix, shown, training_cells, variable_genes
from scgpt.model.checkpoint import vocab_digest
from scgpt.model.config import ScGPTConfig
from scgpt.model.receipt import LoadReceipt
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream import open_model
from scgpt.tokens.binning import bin_values
from scgpt.tokens.keys import name_keys
from scgpt.tokens.tokens import TokenizedCells, tokenize
from scgpt.tokens.vocab import GeneVocab
from scgpt.training.batches import BatchOptions, CellBatches
from scgpt.training.determinism import derive_seed, isolated_torch
from scgpt.training.finetune import FinetuneLoss, freeze_encoders
from scgpt.training.inference import run_cell_heads
from scgpt.training.loop import train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import scipy.sparse as sp
    from anndata import AnnData

    from scgpt.methods.base import MethodContext
    from scgpt.training.config import TrainingConfig
    from scgpt.training.finetune import FinetuneRecipe
    from scgpt.training.loop import TrainingResult

logger = logging.getLogger(__name__)

FEW_MATCHED = 0.5


class ScGPTParams(NetworkParams, OptimiserParams):
    """Parameters of every fine-tuned scGPT.

    The defaults describe a small network trained from scratch on a few hundred cells on a CPU
    (few cells need small batches: the classifier starts to learn after about 100 steps). With
    `init: checkpoint` the sizes come from the checkpoint, and the published recipe is
    `learning_rate: 1e-4`, `lr_decay: 0.9`, `epochs: 10`, `batch_size: 32`, `dropout: 0.2`,
    `attention_dropout: null`, `ties: random`, `amp: fp16`, `buckets: false`.
    """

    n_hvg: int | None = Field(default=None, ge=1)
    """Use at most this many of the highly variable genes; None uses all that the task marked."""

    ties: Literal["upper", "random"] = "upper"
    """What becomes of a value equal to several bin edges: the upper bin, as in pretraining, or a
    random one of them, as in the published fine-tuning."""

    include_zero: bool = False
    """Feed all genes, or only those a cell expresses."""

    max_length: int | None = Field(default=None, ge=2)
    """Longest sequence including `<cls>`; longer cells are sampled. None for no limit."""

    freeze_encoders: bool = False
    """Keep the gene and value encoders as loaded."""

    buckets: bool = True
    """Put cells of similar length together, to save padding."""


class StartedModel(NamedTuple):
    """A network about to be trained, its vocabulary and, from a checkpoint, its receipt."""

    model: ScGPT
    vocab: GeneVocab
    receipt: LoadReceipt | None


def start_model(
    params: NetworkParams,
    context: MethodContext,
    *,
    genes: np.ndarray,
    options: Mapping[str, Any],
    fresh: Mapping[str, str],
) -> StartedModel:
    """Build the network from scratch or from the checkpoint of the context.

    Parameters
    ----------
    params, context
        Of the method.
    genes
        Genes of the data; they make the vocabulary of a network from scratch.
    options
        Fields of `ScGPTConfig` that the task decides (heads, classes).
    fresh
        Tensors that may start at random although there is a checkpoint: name pattern -> reason.

    Raises
    ------
    ConfigError
        If `init` and the checkpoint of the context contradict each other.
    CheckpointError
        If a tensor of the checkpoint does not fit and is not among `fresh`.
    """
    seed = derive_seed(context.seed, "weights")
    rates = {"dropout": params.dropout, "attention_dropout": params.attention_dropout}
    if params.init == "checkpoint":
        folder = _checkpoint_folder(context)
        loaded = open_model(folder, allow=dict(fresh), seed=seed, **rates, **options)
        logger.info("%s", loaded.receipt.summary())
        vocab = GeneVocab.from_mapping(loaded.vocab, origin=str(folder))
        return StartedModel(loaded.model, vocab, loaded.receipt)
    if context.checkpoint is not None:
        msg = (
            f"the checkpoint {context.checkpoint} was given to a method with init=scratch; "
            "set init to checkpoint, or declare the method without a model"
        )
        raise ConfigError(msg)
    vocab = GeneVocab.from_genes(genes)
    config = ScGPTConfig(
        n_tokens=len(vocab),
        pad_id=vocab.pad_id,
        d_model=params.d_model,
        n_layers=params.n_layers,
        n_heads=params.n_heads,
        d_ff=params.d_ff,
        n_bins=params.n_bins,
        **rates,
        **options,
    )
    return StartedModel(ScGPT(config, seed=seed), vocab, None)


def load_network(
    params: NetworkParams, context: MethodContext, *, genes: np.ndarray
) -> LoadedModel:
    """Return a network as it is, for the library's encoder: pretrained, or with random weights.

    Parameters
    ----------
    params, context
        Of the method.
    genes
        Genes of the data; they make the vocabulary of a network with random weights.

    Raises
    ------
    ConfigError
        If `init` and the checkpoint of the context contradict each other.
    CheckpointError
        If a tensor of the checkpoint has no place.
    """
    if params.init == "checkpoint":
        loaded = load_model(_checkpoint_folder(context), device=context.device)
        logger.info("%s", loaded.receipt.summary())
        return loaded
    model, vocab, _ = start_model(params, context, genes=genes, options={}, fresh={})
    digest = vocab_digest({token: i for i, token in enumerate(vocab.tokens)})
    receipt = LoadReceipt(f"random weights, seed {context.seed}", (), digest)
    return LoadedModel(model.eval(), vocab, receipt).to(context.device)


def _checkpoint_folder(context: MethodContext) -> Path:
    if context.checkpoint is None:
        msg = (
            "init=checkpoint needs a pretrained model, but none was given; name one in the "
            "declaration of the method (`model:`), or set init to scratch"
        )
        raise ConfigError(msg)
    return context.checkpoint


def choose_genes(data: AnnData, params: ScGPTParams) -> np.ndarray:
    """Return the names of the genes to use, sorted.

    All genes the task marked as highly variable, or the `n_hvg` of them with the largest variance
    of log-normalised expression among the training cells (ties: first by name).
    """
    genes = variable_genes(data)
    if params.n_hvg is None or params.n_hvg >= len(genes):
        return genes
    values = lognorm_matrix(data, training_cells(data), genes).astype(np.float64)
    variance = values.multiply(values).mean(axis=0) - np.square(values.mean(axis=0))
    order = np.argsort(-np.asarray(variance).ravel(), kind="stable")
    return np.sort(genes[order[: params.n_hvg]])


def genes_in_vocabulary(genes: np.ndarray, vocab: GeneVocab) -> np.ndarray:
    """Return the genes the vocabulary knows; say how many it does not.

    Raises
    ------
    DataError
        If it knows none.
    """
    report = vocab.match_report(genes)
    if not report.n_matched:
        msg = (
            f"none of the {len(genes)} genes is in the vocabulary of {len(vocab)} tokens; the data "
            f"have {', '.join(genes[:SHOWN])}; expected gene symbols such as "
            f"{', '.join(vocab.tokens[:3])}"
        )
        raise DataError(msg)
    few = report.n_matched < FEW_MATCHED * report.n_genes
    logger.log(logging.WARNING if few else logging.INFO, "%s", report)
    return genes[vocab.ids(genes) >= 0]


def left_out_note(genes: np.ndarray, known: np.ndarray) -> list[str]:
    """Return a note on the genes that the vocabulary does not know, if there are any."""
    if len(known) == len(genes):
        return []
    unknown = np.setdiff1d(genes, known)
    return [
        f"{len(unknown)} of {len(genes)} genes are not in the vocabulary of the model and are not "
        f"fed: {shown(unknown)}"
    ]


def tokenize_cells(
    values: sp.csr_matrix,
    *,
    cells: np.ndarray,
    gene_ids: np.ndarray,
    cls_id: int,
    n_bins: int,
    params: ScGPTParams,
    seed: int,
) -> TokenizedCells:
    """Bin expression and make token sequences; all that is random is keyed by cell name.

    Parameters
    ----------
    values
        Expression of the genes used, shape (n_cells, n_genes).
    cells
        Names of the rows.
    gene_ids
        Token id of every column.
    cls_id, n_bins
        Token id of `<cls>` and number of bins, of the network.
    params, seed
        Of the method.
    """
    keys = name_keys(cells)
    bins = bin_values(values, n_bins=n_bins, ties=params.ties, seed=seed, cell_keys=keys)
    return tokenize(
        bins,
        gene_ids,
        cls_id=cls_id,
        include_zero=params.include_zero,
        max_length=params.max_length,
        seed=seed,
        cell_keys=keys,
    )


def cell_batches(
    data: AnnData,
    cells: np.ndarray,
    *,
    started: StartedModel,
    genes: np.ndarray,
    params: ScGPTParams,
    seed: int,
    training: bool,
    mask_ratio: float = 0.0,
    **labels: np.ndarray | None,
) -> CellBatches:
    """Return some cells of the task data as batches for the network.

    Parameters
    ----------
    data, cells
        Task data, and positions of the cells to use.
    started
        The network and its vocabulary.
    genes
        Names of the genes to feed, all in the vocabulary.
    params, seed
        Of the method; the seed of the job.
    training
        Shuffle; without it the order stays.
    mask_ratio
        Share of tokens masked.
    **labels
        `labels`, `batch_labels`, `groups` of `CellBatches`.
    """
    config = started.model.config
    tokens = tokenize_cells(
        lognorm_matrix(data, cells, genes),
        cells=data.obs_names.to_numpy().astype(str)[cells],
        gene_ids=started.vocab.ids(genes),
        cls_id=started.vocab.cls_id,
        n_bins=config.n_bins,
        params=params,
        seed=derive_seed(seed, "tokens"),
    )
    options = BatchOptions(
        batch_size=params.batch_size,
        shuffle=training,
        buckets=params.buckets,
        mask_ratio=mask_ratio,
        redraw_masks=training,
        pad_value=config.pad_value,
        mask_value=config.mask_value,
    )
    return CellBatches(
        tokens,
        pad_id=started.vocab.pad_id,
        options=options,
        seed=derive_seed(seed, "batches"),
        **labels,
    )


def fine_tune(
    model: ScGPT,
    recipe: FinetuneRecipe,
    train_batches: CellBatches,
    valid_batches: CellBatches | None,
    *,
    config: TrainingConfig,
    context: MethodContext,
) -> TrainingResult:
    """Train a network on the objectives of a recipe; without validation the last epoch counts."""
    if recipe.freeze_encoders:
        freeze_encoders(model)
    if valid_batches is None:
        logger.warning("no validation cells: the weights of the last epoch are used")
    return train_network(
        model,
        context,
        loss_fn=FinetuneLoss(recipe),
        train_batches=train_batches,
        valid_batches=valid_batches,
        config=config,
        fingerprint=recipe.fingerprint,
    )


def train_network(model: ScGPT, context: MethodContext, **options: Any) -> TrainingResult:
    """Run the training loop as the context says; `options` are further arguments of `train`."""
    with isolated_torch(context.device, threads=context.threads):
        return train(
            model,
            seed=context.seed,
            device=context.device,
            scratch=context.scratch,
            progress=context.progress,
            **options,
        )


def read_heads(
    model: ScGPT,
    batches: CellBatches,
    *,
    heads: Sequence[str],
    config: TrainingConfig,
    context: MethodContext,
) -> dict[str, np.ndarray]:
    """Return what some heads of a trained network say about every cell."""
    with isolated_torch(context.device, threads=context.threads):
        return run_cell_heads(model, batches, heads=heads, device=context.device, config=config)


def unit_length(embedding: np.ndarray) -> np.ndarray:
    """Return vectors divided by their length, in double precision."""
    embedding = embedding.astype(np.float64)
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
