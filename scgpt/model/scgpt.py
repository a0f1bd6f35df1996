"""The scGPT network: encoders, one transformer, heads.

Shapes: B cells, L known tokens including <cls>, M of them asked for, Q of them computed,
U unknown tokens, T known and unknown ones, D width, C cell types, P batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scgpt.errors import ConfigError
from scgpt.model.embedding import (
    NormedTable,
    build_input_norm,
    build_value_encoder,
    start_gene_table,
)
from scgpt.model.heads import BatchDiscriminator, Classifier, build_gep, build_gepc
from scgpt.model.readout import (
    Labels,
    at_positions,
    side_by_side,
    split_groups,
    with_first,
    with_labels,
)
from scgpt.model.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgpt.model.config import ScGPTConfig

HEADS = ("gep", "gepc", "cell_embedding", "cls", "dar")
"""What a forward pass can be asked for."""

_NEED_ONLY_THE_CELL = {"cell_embedding", "cls", "dar"}
_SEE_LABELS = {"gep", "gepc"}


class ScGPT(nn.Module):
    """A transformer over the genes of a cell, with the heads that `config` asks for.

    Parameters
    ----------
    config
        Sizes and options.
    seed
        Seed of the starting weights; PyTorch's global generator is left as it was.
    layers_start_equal
        Give all layers the same starting weights, as the official code does by accident.

    Notes
    -----
    There is no positional encoding: the order of genes does not matter, except that the cell
    embedding of style `cls` is read at position 0.

    References
    ----------
    Cui et al. 2024, scGPT: toward building a foundation model for single-cell multi-omics using
    generative AI, Nature Methods, doi:10.1038/s41592-024-02201-0.
    """

    def __init__(
        self, config: ScGPTConfig, *, seed: int = 0, layers_start_equal: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(config)
        if layers_start_equal:
            self.transformer.start_layers_equal()

    def _build(self, config: ScGPTConfig) -> None:
        width = config.d_model
        self.gene_encoder = NormedTable(config.n_tokens, width, pad_id=config.pad_id)
        start_gene_table(self.gene_encoder)
        self.value_encoder = build_value_encoder(config)
        self.generation_flag = nn.Embedding(2, width) if config.generative else None
        self.perturbation_encoder = (
            nn.Embedding(config.n_perturbation_flags, width, padding_idx=config.perturbation_pad_id)
            if config.n_perturbation_flags
            else None
        )
        self.batch_encoder = (
            NormedTable(config.n_batch_labels, width) if config.embeds_batch else None
        )
        self.modality_encoder = (
            NormedTable(config.n_modalities, width, pad_id=config.modality_pad_id)
            if config.n_modalities
            else None
        )
        self.input_norm = build_input_norm(config)
        self.transformer = Transformer(config)
        self.gep = build_gep(config)
        self.gepc = build_gepc(config)
        self.cls = (
            Classifier(width, config.n_classes, n_layers=config.n_layers_cls, activation=nn.ReLU)
            if config.n_classes
            else None
        )
        self.dar = BatchDiscriminator(width, config.n_batch_labels) if config.dar else None

    def forward(
        self,
        gene_ids_BL: Tensor,
        values_BL: Tensor | None,
        padding_BL: Tensor | None = None,
        *,
        batch_labels_B: Tensor | None = None,
        modality_ids_BL: Tensor | None = None,
        perturbation_flags_BL: Tensor | None = None,
        unknown_gene_ids_BU: Tensor | None = None,
        cell_prompt_BD: Tensor | None = None,
        positions_BM: Tensor | None = None,
        heads: Sequence[str] = ("gep",),
    ) -> dict[str, Tensor]:
        """Run the network and the heads asked for, and no more of it than they read.

        Parameters
        ----------
        gene_ids_BL, values_BL, padding_BL
            Token ids, their values, and True where a token is padding. `values_BL` None runs the
            genes without values; `padding_BL` None says that nothing is padded.
        batch_labels_B, modality_ids_BL, perturbation_flags_BL
            Labels, for networks that have a use for them.
        unknown_gene_ids_BU
            Genes whose value is to be generated; padding among them needs no mask.
        cell_prompt_BD
            Cell embedding written over position 0 of the input embedding.
        positions_BM
            Known tokens for which `gep` and `gepc` are wanted, as those of a loss; None: all of
            them (M = L). With M = 0 only unknown ones are predicted.
        heads
            Any of `HEADS`.

        Returns
        -------
        `gep` (B, M), `gepc` (B, M), `cell_embedding` (B, D; not normalised to length 1 except in
        style w-pool), `cls` (B, C), `dar` (B, P). With an explicit zero model, `gep_zero_prob` and
        `gepc_zero_prob` (B, M) hold the probability of being **non-zero**. With unknown genes,
        `gep_unknown` and so on (B, U) hold the same for those.

        Raises
        ------
        ConfigError
            If a head is unknown or not part of this network, or a needed label is missing.
        """
        self._check(heads, batch_labels_B, modality_ids_BL, perturbation_flags_BL)
        labels = self._label_vectors(batch_labels_B, modality_ids_BL, values_BL, heads)
        if set(heads) <= _NEED_ONLY_THE_CELL:
            positions_BM, unknown_gene_ids_BU = gene_ids_BL[:, :0], None
        genes_BLD, genes_BUD = self._gene_vectors(gene_ids_BL, unknown_gene_ids_BU)
        known_BLD = self._known_input(genes_BLD, values_BL, batch_labels_B, perturbation_flags_BL)
        if cell_prompt_BD is not None:
            known_BLD = torch.cat([cell_prompt_BD.unsqueeze(1), known_BLD[:, 1:]], dim=1)
        unknown_BUD = None if genes_BUD is None else self._unknown_input(genes_BUD)
        hidden = self._transform(known_BLD, padding_BL, unknown_BUD, positions_BM)
        genes_BTD = side_by_side(at_positions(genes_BLD, positions_BM), genes_BUD)
        labels = None if labels is None else labels.at(positions_BM)
        return self._read_out(hidden, genes_BTD, labels, values_BL, positions_BM, heads=heads)

    def _read_out(
        self,
        hidden: tuple[Tensor, Tensor, Tensor | None],
        genes_BTD: Tensor,
        labels: Labels | None,
        values_BL: Tensor | None,
        positions_BM: Tensor | None,
        *,
        heads: Sequence[str],
    ) -> dict[str, Tensor]:
        """Run the heads on what `_transform` returned."""
        known_BQD, hidden_BMD, hidden_BUD = hidden
        output = {}
        if "gep" in heads:
            hidden_BTD = with_labels(side_by_side(hidden_BMD, hidden_BUD), labels)
            predicted = self.gep(hidden_BTD, values_BL, positions_BM)
            output |= split_groups("gep", predicted, hidden_BUD)
        if set(heads) == {"gep"}:
            return output
        cell_BD = self.pool(known_BQD, values_BL)
        if "gepc" in heads:
            predicted = self.gepc(*self._gepc_inputs(cell_BD, genes_BTD, labels))
            output |= split_groups("gepc", predicted, hidden_BUD)
        output |= {name: getattr(self, name)(cell_BD) for name in ("cls", "dar") if name in heads}
        return output | ({"cell_embedding": cell_BD} if "cell_embedding" in heads else {})

    def _transform(
        self,
        known_BLD: Tensor,
        padding_BL: Tensor | None,
        unknown_BUD: Tensor | None,
        positions_BM: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run the layers; return what cells are pooled from, and the tokens to be predicted."""
        if positions_BM is None or self.config.cell_embedding != "cls":
            known_BLD, unknown_BUD = self.transformer(known_BLD, padding_BL, unknown_BUD)
            return known_BLD, at_positions(known_BLD, positions_BM), unknown_BUD
        known_BQD, unknown_BUD = self.transformer(
            known_BLD, padding_BL, unknown_BUD, queries_BQ=with_first(positions_BM)
        )
        return known_BQD, known_BQD[:, 1:], unknown_BUD

    def encode(
        self,
        gene_ids_BL: Tensor,
        values_BL: Tensor | None,
        padding_BL: Tensor | None = None,
        *,
        batch_labels_B: Tensor | None = None,
        perturbation_flags_BL: Tensor | None = None,
    ) -> Tensor:
        """Return the transformer's output, shape (B, L, D)."""
        self._check((), batch_labels_B, None, perturbation_flags_BL)
        _, x_BLD = self.embed(
            gene_ids_BL,
            values_BL,
            batch_labels_B=batch_labels_B,
            perturbation_flags_BL=perturbation_flags_BL,
        )
        return self.transformer(x_BLD, padding_BL)[0]

    def raw_attention_scores(
        self,
        gene_ids_BL: Tensor,
        values_BL: Tensor,
        padding_BL: Tensor | None = None,
        *,
        layer: int = -1,
        batch_labels_B: Tensor | None = None,
        perturbation_flags_BL: Tensor | None = None,
    ) -> Tensor:
        """Return the query-key products of one layer, (B, H, L, L): neither scaled nor masked.

        The earlier layers run normally, with padding masked. Row: the attending gene; column: the
        one attended to.
        """
        self._check((), batch_labels_B, None, perturbation_flags_BL)
        _, x_BLD = self.embed(
            gene_ids_BL,
            values_BL,
            batch_labels_B=batch_labels_B,
            perturbation_flags_BL=perturbation_flags_BL,
        )
        index = range(self.config.n_layers)[layer]
        x_BLD, _ = self.transformer(x_BLD, padding_BL, n_layers=index)
        return self.transformer.layers[index].attention.raw_scores(x_BLD)

    def embed(
        self,
        gene_ids_BL: Tensor,
        values_BL: Tensor | None,
        *,
        batch_labels_B: Tensor | None = None,
        perturbation_flags_BL: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the gene vectors and the input of the transformer, both (B, L, D)."""
        genes_BLD = self.gene_encoder(gene_ids_BL)
        return genes_BLD, self._known_input(
            genes_BLD, values_BL, batch_labels_B, perturbation_flags_BL
        )

    def embed_unknown(self, gene_ids_BU: Tensor) -> Tensor:
        """Return the transformer's input for genes whose value is to be generated, (B, U, D)."""
        return self._unknown_input(self.gene_encoder(gene_ids_BU))

    def _gene_vectors(
        self, known_ids_BL: Tensor, unknown_ids_BU: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Look up the vectors of known and unknown genes.

        Both at once, because every look-up costs a gradient as large as the whole table.
        """
        vectors_BTD = self.gene_encoder(side_by_side(known_ids_BL, unknown_ids_BU))
        if unknown_ids_BU is None:
            return vectors_BTD, None
        n_known = known_ids_BL.shape[1]
        return vectors_BTD[:, :n_known], vectors_BTD[:, n_known:]

    def _known_input(
        self,
        genes_BLD: Tensor,
        values_BL: Tensor | None,
        batch_labels_B: Tensor | None,
        perturbation_flags_BL: Tensor | None,
    ) -> Tensor:
        x_BLD = genes_BLD
        if values_BL is not None:
            x_BLD = self.value_encoder.combine(genes_BLD, values_BL)
        if self.perturbation_encoder is not None:
            x_BLD = x_BLD + self.perturbation_encoder(perturbation_flags_BL)
        return x_BLD if self.input_norm is None else self.input_norm(x_BLD, batch_labels_B)

    def _unknown_input(self, genes_BUD: Tensor) -> Tensor:
        if self.generation_flag is None:
            msg = "this network cannot generate: it was built with generative=False"
            raise ConfigError(msg)
        # Row 1 marks genes to be generated; row 0 exists in the released files and has no use.
        return genes_BUD + self.generation_flag.weight[1]

    def pool(self, hidden_BLD: Tensor, values_BL: Tensor | None) -> Tensor:
        """Return one vector per cell, shape (B, D), in the style of `config.cell_embedding`."""
        if self.config.cell_embedding == "cls":
            return hidden_BLD[:, 0]
        if self.config.cell_embedding == "avg-pool":
            # Padding counts, as in the official model: the result depends on how much there is.
            return hidden_BLD.mean(dim=1)
        if values_BL is None:
            msg = "cell_embedding 'w-pool' weights positions by their values; none were given"
            raise ConfigError(msg)
        return F.normalize((hidden_BLD * values_BL.unsqueeze(-1)).sum(dim=1), dim=1)

    def _label_vectors(
        self,
        batch_labels_B: Tensor | None,
        modality_ids_BL: Tensor | None,
        values_BL: Tensor | None,
        heads: Sequence[str],
    ) -> Labels | None:
        """Add up the batch and modality vectors of tokens and of cells, if a head sees them."""
        if not self.config.has_labels or not _SEE_LABELS & set(heads):
            return None
        batch_B1D = 0
        if self.batch_encoder is not None:
            batch_B1D = self.batch_encoder(batch_labels_B).unsqueeze(1)
            if self.modality_encoder is None:
                return Labels(batch_B1D, batch_B1D.squeeze(1))
        modalities_BLD = self.modality_encoder(modality_ids_BL)
        pooled_B1D = self.pool(modalities_BLD, values_BL).unsqueeze(1)
        return Labels(batch_B1D + modalities_BLD, (batch_B1D + pooled_B1D).squeeze(1))

    def _gepc_inputs(
        self, cell_BD: Tensor, genes_BTD: Tensor, labels: Labels | None
    ) -> tuple[Tensor, Tensor]:
        """Attach labels to the cell side, and to the gene side too in the multi-omic variant."""
        if labels is None:
            return cell_BD, genes_BTD
        cell_BS = torch.cat([cell_BD, labels.cell_BD], dim=-1)
        return cell_BS, with_labels(genes_BTD, labels) if self.config.multiomic else genes_BTD

    def _check(
        self,
        heads: Sequence[str],
        batch_labels_B: Tensor | None,
        modality_ids_BL: Tensor | None,
        perturbation_flags_BL: Tensor | None,
    ) -> None:
        """Refuse heads this network has not, and calls without a label it needs."""
        for head in heads:
            if head not in HEADS:
                msg = f"unknown head {head!r}; known: {', '.join(HEADS)}"
                raise ConfigError(msg)
            if head != "cell_embedding" and getattr(self, head) is None:
                msg = f"this network has no {head!r} head; set it in its ScGPTConfig"
                raise ConfigError(msg)
        sees_labels = bool(_SEE_LABELS & set(heads))
        uses_batch = self.config.input_norm == "dsbn" or (self.config.embeds_batch and sees_labels)
        uses_modality = self.modality_encoder is not None and sees_labels
        for name, needed, given in (
            ("batch_labels_B", uses_batch, batch_labels_B),
            ("modality_ids_BL", uses_modality, modality_ids_BL),
            ("perturbation_flags_BL", self.perturbation_encoder is not None, perturbation_flags_BL),
        ):
            if needed and given is None:
                msg = f"this network needs {name}; none were given"
                raise ConfigError(msg)
