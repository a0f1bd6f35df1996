"""Speed of training steps beside a plain implementation of the same network.

    python benchmarks/model.py [--layers 4] [--d-model 256] [--heads 4] [--length 600] [--batch 2]
        [--device cuda] [--threads 1] [--repeats 3] [--bf16 on] [--compile]

The plain version is what one writes first: PyTorch's own modules, heads on all positions, and in
the generative step a dense additive mask over all pairs of tokens. (The published code also runs
the generated half through identity projections and stores its attention weights.) Ours is what the
package runs: its network, losses and optimiser step.

Both have the same weights. Before anything is timed, losses and the gradients of all tensors have
to agree; otherwise the program says where they differ and ends with status 1. All versions are
timed in turn in one process (CPU seconds on one thread, else wall seconds); a ratio is the median
over rounds of the first line's seconds by those of the line. Peak memory is what the first run took
beyond what was in use before, gradients and Adam's moments included.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from measure import cosine_of, has_bf16, measure, require, same_gradients, show, step
from torch import Tensor, nn
from torch.nn import functional as F

from scgpt.library.models import checked_device
from scgpt.model.config import ScGPTConfig
from scgpt.model.objectives import masked_mse
from scgpt.model.scgpt import ScGPT
from scgpt.model.upstream import to_official
from scgpt.model.upstream_names import to_official_name
from scgpt.training.batches import CellBatch, masking_of
from scgpt.training.config import TrainingConfig
from scgpt.training.determinism import isolated_torch
from scgpt.training.finetune import FinetuneLoss, FinetuneRecipe
from scgpt.training.optim import Precision, apply_gradients, build_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Works = dict[str, Callable[[], object]]

SIZES = {"layers": 4, "d-model": 256, "heads": 4, "length": 600, "batch": 2, "vocabulary": 60_697}
MASK_RATIO, UNKNOWN_SHARES, DROPOUT = 0.4, (0.25, 0.5, 0.75), 0.2
LARGEST_BIN, MASK_VALUE = 50, -1.0
# A ReLU whose input rounds to the other side of zero changes one row of one gradient by 1e-5 or so.
LOSS_TOLERANCE, TYPICAL_TOLERANCE, WORST_TOLERANCE, ADAM_TOLERANCE = 1e-5, 1e-5, 1e-4, 1e-2
BF16, BF16_LOSS_TOLERANCE, BF16_COSINE = torch.bfloat16, 2e-2, 0.999
RECIPE = FinetuneRecipe(objectives={"gep": 1.0, "gepc": 1.0}, mask_ratio=MASK_RATIO)
TRAINING = TrainingConfig()


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    print(
        f"{options.layers} layers x {options.d_model}, {options.batch} cells x {options.length} "
        f"tokens, vocabulary {options.vocabulary:,}, {options.device}, {options.threads} threads, "
        f"{options.repeats} rounds, PyTorch {torch.__version__}"
    )
    if not options.bf16:
        print("bf16: left out, as asked for or because this processor does not compute in it")
    with isolated_torch(options.device, threads=options.threads):
        torch.manual_seed(0)
        finetuning(options)
        for share in UNKNOWN_SHARES:
            generative(options, share)
        dropout(options)
        adam(options)
        if options.compile:
            compiled(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (SIZES | {"threads": 1, "repeats": 3}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    options = parser.parse_args(arguments)
    options.device = checked_device(options.device)
    options.bf16 = options.bf16 == "on" or (options.bf16 == "auto" and has_bf16(options.device))
    return options


class Plain(nn.Module):
    """The straightforward network; tensors are named as in the released files."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        width = config.d_model
        self.encoder = nn.Module()
        self.encoder.embedding = nn.Embedding(config.n_tokens, width, padding_idx=config.pad_id)
        self.encoder.enc_norm = nn.LayerNorm(width)
        self.value_encoder = nn.Module()
        self.value_encoder.linear1 = nn.Linear(1, width)
        self.value_encoder.linear2 = nn.Linear(width, width)
        self.value_encoder.norm = nn.LayerNorm(width)
        self.flag_encoder = nn.Embedding(2, width)
        layer = nn.TransformerEncoderLayer(
            width, config.n_heads, config.d_ff, config.dropout, batch_first=True
        )
        self.transformer_encoder = nn.TransformerEncoder(
            layer, config.n_layers, enable_nested_tensor=False
        )
        self.decoder = nn.Module()
        self.decoder.fc = nn.Sequential(
            *(nn.Linear(width, width), nn.LeakyReLU()),
            *(nn.Linear(width, width), nn.LeakyReLU()),
            nn.Linear(width, 1),
        )
        self.mvc_decoder = nn.Module()
        self.mvc_decoder.gene2query = nn.Linear(width, width)
        self.mvc_decoder.W = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, gene_ids_BL: Tensor, values_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return GEP and GEPC of all tokens."""
        genes_BLD = self.genes(gene_ids_BL)
        hidden_BLD = self.transformer_encoder(genes_BLD + self.values(values_BL))
        return self.heads(hidden_BLD, genes_BLD)

    def generate(self, gene_ids_BT: Tensor, values_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return GEP and GEPC of all tokens; those without a value, at the end, are unknown."""
        n_known, n_tokens = values_BL.shape[1], gene_ids_BT.shape[1]
        genes_BTD = self.genes(gene_ids_BT)
        flag_BUD = self.flag_encoder.weight[1].expand_as(genes_BTD[:, n_known:])
        x_BTD = genes_BTD + torch.cat([self.values(values_BL), flag_BUD], dim=1)
        mask_TT = torch.full((n_tokens, n_tokens), float("-inf"), device=x_BTD.device)
        mask_TT[:, :n_known] = 0
        mask_TT.fill_diagonal_(0)
        for layer in self.transformer_encoder.layers:
            attended_BTD = self.attend(layer.self_attn, x_BTD, mask_TT, n_known)
            x_BTD = layer.norm1(x_BTD + attended_BTD)
            x_BTD = layer.norm2(x_BTD + layer.linear2(F.relu(layer.linear1(x_BTD))))
        return self.heads(x_BTD, genes_BTD)

    def attend(
        self, attention: nn.MultiheadAttention, x_BTD: Tensor, mask_TT: Tensor, n_known: int
    ) -> Tensor:
        """Attend as the mask says; only known tokens pass through the output projection."""
        qkv = F.linear(x_BTD, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        q_BHTE, k_BHTE, v_BHTE = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in qkv
        )
        y_BHTE = F.scaled_dot_product_attention(
            q_BHTE, k_BHTE, v_BHTE, attn_mask=mask_TT.to(q_BHTE.dtype)
        )
        y_BTD = y_BHTE.transpose(1, 2).flatten(2)
        return torch.cat([attention.out_proj(y_BTD[:, :n_known]), y_BTD[:, n_known:]], dim=1)

    def genes(self, gene_ids: Tensor) -> Tensor:
        """Return the vectors of genes."""
        return self.encoder.enc_norm(self.encoder.embedding(gene_ids))

    def values(self, values_BL: Tensor) -> Tensor:
        """Return the vectors of values."""
        part = self.value_encoder
        return self.dropout(part.norm(part.linear2(F.relu(part.linear1(values_BL.unsqueeze(-1))))))

    def heads(self, hidden_BLD: Tensor, genes_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return GEP and GEPC of all tokens."""
        part, cell_BD1 = self.mvc_decoder, hidden_BLD[:, 0].unsqueeze(-1)
        gepc_BL1 = part.W(torch.sigmoid(part.gene2query(genes_BLD))) @ cell_BD1
        return self.decoder.fc(hidden_BLD).squeeze(-1), gepc_BL1.squeeze(-1)


class Pair(NamedTuple):
    """One network written twice, with equal weights."""

    plain: Plain
    ours: ScGPT


def networks(options: argparse.Namespace, **changes: float | None) -> Pair:
    config = ScGPTConfig(
        n_tokens=options.vocabulary,
        pad_id=0,
        d_model=options.d_model,
        d_ff=options.d_model,
        n_heads=options.heads,
        n_layers=options.layers,
        gepc="inner product",
        generative=True,
        **{"dropout": 0.0, **changes},
    )
    ours, plain = ScGPT(config), Plain(config)
    plain.load_state_dict(to_official(ours, attention="in_proj"))
    return Pair(plain.to(options.device).train(), ours.to(options.device).train())


def cells(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return token ids and bins of random cells, in memory; token 1 is <cls>, with value 0."""
    ids_BL = torch.stack(
        [torch.randperm(options.vocabulary - 2)[: options.length] + 2 for _ in range(options.batch)]
    )
    values_BL = torch.randint(1, LARGEST_BIN + 1, ids_BL.shape).float()
    ids_BL[:, 0], values_BL[:, 0] = 1, 0
    return ids_BL, values_BL


def masked_batch(options: argparse.Namespace) -> CellBatch:
    ids_BL, values_BL = cells(options)
    mask_BL = torch.rand(ids_BL.shape) < MASK_RATIO
    mask_BL[:, 0] = False
    return CellBatch(
        rows=np.arange(options.batch),
        gene_ids_BL=ids_BL,
        values_BL=values_BL.masked_fill(mask_BL, MASK_VALUE),
        padding_BL=None,
        **masking_of(values_BL.numpy(), mask_BL.numpy()),
    ).to(options.device)


def finetuning_losses(pair: Pair, batch: CellBatch) -> Works:
    def plain() -> Tensor:
        predicted, masked = pair.plain(batch.gene_ids_BL, batch.values_BL), batch.mask_BL
        target = batch.targets_BL[masked]
        return sum(F.mse_loss(one_BL[masked].float(), target) for one_BL in predicted)

    loss = FinetuneLoss(RECIPE)
    return {"plain": plain, "ours": lambda: loss(pair.ours, batch)[0]}


def generative_losses(pair: Pair, ids_BT: Tensor, values_BT: Tensor, n_known: int) -> Works:
    target_BU = values_BT[:, n_known:]
    everywhere_BU = torch.ones_like(target_BU, dtype=torch.bool)

    def plain() -> Tensor:
        predicted = pair.plain.generate(ids_BT, values_BT[:, :n_known])
        return sum(F.mse_loss(one_BT[:, n_known:].float(), target_BU) for one_BT in predicted)

    def ours() -> Tensor:
        output = pair.ours(
            ids_BT[:, :n_known],
            values_BT[:, :n_known],
            unknown_gene_ids_BU=ids_BT[:, n_known:],
            positions_BM=ids_BT[:, :0],
            heads=("gep", "gepc"),
        )
        predicted = (output[f"{head}_unknown"].float() for head in ("gep", "gepc"))
        return sum(masked_mse(one_BU, target_BU, everywhere_BU) for one_BU in predicted)

    return {"plain": plain, "ours": ours}


def finetuning(options: argparse.Namespace) -> None:
    pair = networks(options)
    losses = finetuning_losses(pair, masked_batch(options))
    print("\nfine-tuning step: GEP + GEPC, dropout 0; forward, backward, clipping, Adam")
    agree(options, pair, losses)
    finish = {"plain": plain_update(pair.plain), "ours": our_update(pair.ours, options)}
    race(options, in_precisions(options, losses, finish))


def generative(options: argparse.Namespace, share: float) -> None:
    pair = networks(options)
    n_known = max(1, options.length - round(share * options.length))
    given = (tensor.to(options.device) for tensor in cells(options))
    losses = generative_losses(pair, *given, n_known)
    print(f"\ngenerative step: {share:.0%} of the genes unknown; forward, backward")
    agree(options, pair, losses)
    finish = {"plain": pair.plain.zero_grad, "ours": pair.ours.zero_grad}
    race(options, in_precisions(options, losses, finish))


def dropout(options: argparse.Namespace) -> None:
    equal = networks(options, dropout=DROPOUT)
    without = networks(options, dropout=DROPOUT, attention_dropout=0.0)
    batch = masked_batch(options)
    losses = finetuning_losses(equal, batch)
    print(f"\nfine-tuning step at dropout {DROPOUT}, of attention too (without: another rule)")
    losses |= {"ours, attention_dropout 0": finetuning_losses(without, batch)["ours"]}
    ends = (equal.plain.zero_grad, equal.ours.zero_grad, without.ours.zero_grad)
    race(options, in_precisions(options, losses, dict(zip(losses, ends, strict=True))))


def adam(options: argparse.Namespace) -> None:
    model = networks(options).ours
    weights, rate = list(model.parameters()), TRAINING.learning_rate
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizers = {
        "plain loop": torch.optim.Adam(weights, rate, foreach=False, fused=False),
        "ours": build_optimizer(model, TRAINING, single(options)),
        "foreach": torch.optim.Adam(weights, rate, foreach=True),
        "fused": torch.optim.Adam(weights, rate, fused=True),
    }
    start = nn.utils.parameters_to_vector(weights).detach()
    print(f"\nAdam alone, {start.numel() / 1e6:.1f} M weights")
    moved = {}
    for name, optimizer in optimizers.items():
        nn.utils.vector_to_parameters(start.clone(), weights)
        optimizer.step()
        moved[name] = nn.utils.parameters_to_vector(weights).detach()
    apart = max(float((one - moved["plain loop"]).abs().max()) for one in moved.values()) / rate
    require(condition=apart <= ADAM_TOLERANCE, problem=f"Adam steps differ by {apart:.1e}")
    print(f"  agree: largest difference after one step {apart:.1e} of the learning rate")
    del moved, start
    race(options, {name: one.step for name, one in optimizers.items()}, per_token=False)


def compiled(options: argparse.Namespace) -> None:
    pair, batch = networks(options), masked_batch(options)
    losses = finetuning_losses(pair, batch)
    fast = finetuning_losses(Pair(pair.plain, torch.compile(pair.ours)), batch)["ours"]
    eager, quick = (
        partial(step, loss, single(options).autocast, pair.ours.zero_grad)
        for loss in (losses["ours"], fast)
    )
    start = time.perf_counter()
    quick()
    print(f"\ntorch.compile, fine-tuning step; first step {time.perf_counter() - start:.0f} s")
    agree(options, pair, {"plain": losses["plain"], "ours": fast})
    race(options, {"ours": eager, "ours, compiled": quick})


def agree(options: argparse.Namespace, pair: Pair, losses: Works) -> None:
    """End the program unless both versions have the same loss and the same gradients."""
    expected, plain = gradients(pair.plain, losses["plain"], single(options))
    loss, ours = gradients(pair.ours, losses["ours"], single(options))
    apart = abs(loss / expected - 1)
    require(condition=apart <= LOSS_TOLERANCE, problem=f"loss {loss} against {expected}")
    same = same_gradients(ours, plain, typical=TYPICAL_TOLERANCE, worst=WORST_TOLERANCE)
    print(f"  agree: loss {apart:.1e}, {same}")
    if not options.bf16:
        return
    rough, ours = gradients(pair.ours, losses["ours"], Precision(options.device.type, BF16))
    apart, cosine = abs(rough / expected - 1), cosine_of(ours, plain)
    found = f"ours bf16 against plain fp32: loss {apart:.1e}, gradient cosine {cosine:.5f}"
    require(condition=apart <= BF16_LOSS_TOLERANCE and cosine >= BF16_COSINE, problem=found)
    print(f"  {found}")


def gradients(
    network: nn.Module, loss: Callable[[], Tensor], precision: Precision
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and the gradients under their official names."""
    with precision.autocast():
        value = loss()
    value.backward()
    named = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    if isinstance(network, ScGPT):
        named = {to_official_name(name, attention="in_proj"): g for name, g in named.items()}
    return value.item(), named


def in_precisions(
    options: argparse.Namespace,
    losses: Works,
    finish: dict[str, Callable[[], None]],
) -> Works:
    precisions = {"fp32": None} | ({"bf16": BF16} if options.bf16 else {})
    return {
        f"{side} {name}": partial(
            step, loss, Precision(options.device.type, dtype).autocast, finish[side]
        )
        for name, dtype in precisions.items()
        for side, loss in losses.items()
    }


def single(options: argparse.Namespace) -> Precision:
    return Precision(options.device.type, None)


def race(options: argparse.Namespace, works: Works, *, per_token: bool = True) -> None:
    measured = measure(works, options.repeats, options.device, threads=options.threads)
    show(measured, tokens=options.batch * options.length if per_token else None)


def plain_update(network: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters(), TRAINING.learning_rate)

    def update() -> None:
        nn.utils.clip_grad_norm_(network.parameters(), TRAINING.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()

    return update


def our_update(network: nn.Module, options: argparse.Namespace) -> Callable[[], None]:
    return partial(
        apply_gradients,
        build_optimizer(network, TRAINING, single(options)),
        single(options).scaler(),
        rate=TRAINING.learning_rate,
        clip=TRAINING.gradient_clip,
        where="the benchmark",
    )


if __name__ == "__main__":
    main()
