"""Speed of embedding cells beside a plain implementation of the same network.

    python benchmarks/embed.py [--cells 8] [--rounds 2] [--device cuda --cells 2000] [--amp bf16]

The plain version is what one writes first, and what the published code does: dense rows binned one
by one, batches in the order of the data, padded to their longest cell, PyTorch's own
`TransformerEncoder` over all tokens in all layers. Its weights are those of our network, and on the
same tokens it gives the same vectors (checked first). Both are timed in turn in one process (CPU
seconds, or wall seconds on a GPU), so that a busy machine slows both; the ratio is the median over
rounds. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from measure import peak, reset_peak, wait
from scipy.sparse import csr_matrix
from torch import nn

from scgpt.library.encoder import AMP_TYPES, CellEncoder
from scgpt.library.models import LoadedModel, checked_device
from scgpt.model.config import ScGPTConfig
from scgpt.model.receipt import LoadReceipt
from scgpt.model.scgpt import ScGPT
from scgpt.tokens.vocab import GeneVocab

if TYPE_CHECKING:
    from collections.abc import Callable

N_GENES, TYPICAL_GENES, PAD_VALUE = 20_000, 850, -2


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    device = checked_device(options.device)
    loaded = random_model(options).to(device)
    counts = simulate(options.cells)
    encoder = CellEncoder(
        loaded,
        np.arange(N_GENES, dtype=np.int32),
        batch_size=options.batch_size,
        max_length=options.max_length,
        amp=options.amp,
    )
    plain = Plain(loaded, options, device)
    n_tokens = int(encoder.tokens(counts).lengths.sum())
    print(
        f"{options.layers} layers x {options.width}, {options.cells} cells, "
        f"{n_tokens / options.cells:.0f} tokens per cell, batches of {options.batch_size}, "
        f"{device.type}, {options.threads} thread(s), {options.rounds} rounds"
    )
    print(f"ours: {options.amp or 'fp32'}, plain: {plain.amp or 'fp32'}")
    print(f"largest difference on the same tokens: {difference(encoder, plain, counts):.1e}\n")
    works = {
        "plain": lambda: plain.embed(counts),
        "ours": lambda: encoder.encode(encoder.tokens(counts)),
    }
    seconds, peaks = compare(works, options.rounds, device)
    print(f"{'':<8}{'cells/s':>10}{'tokens/s':>12}{'peak MiB':>12}")
    for name in works:
        typical = np.median(seconds[name])
        print(
            f"{name:<8}{options.cells / typical:>10.2f}{n_tokens / typical:>12,.0f}"
            f"{peaks[name] / 2**20:>12,.0f}"
        )
    ratios = np.array(seconds["plain"]) / np.array(seconds["ours"])
    print(f"\nratio {np.median(ratios):.2f} (rounds: {', '.join(f'{r:.2f}' for r in ratios)})")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=1200)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=tuple(AMP_TYPES))
    return parser.parse_args()


def random_model(options: argparse.Namespace) -> LoadedModel:
    vocab = GeneVocab.from_genes(f"GENE{i}" for i in range(N_GENES))
    config = ScGPTConfig(
        n_tokens=len(vocab),
        pad_id=vocab.pad_id,
        d_model=options.width,
        d_ff=options.width,
        n_layers=options.layers,
        generative=True,
    )
    receipt = LoadReceipt(origin="random weights", rows=(), vocab_digest="")
    return LoadedModel(ScGPT(config).eval(), vocab, receipt)


def simulate(n_cells: int) -> csr_matrix:
    """Return counts of cells that express between 200 and 3,000 genes, 850 in the middle."""
    rng = np.random.default_rng(0)
    n_expressed = np.clip(rng.lognormal(np.log(TYPICAL_GENES), 0.5, n_cells), 200, 3000).astype(int)
    genes = [np.sort(rng.choice(N_GENES, n, replace=False)) for n in n_expressed]
    indptr = np.concatenate([[0], np.cumsum(n_expressed)])
    values = 1 + rng.negative_binomial(1, 0.45, indptr[-1])
    shape = (n_cells, N_GENES)
    return csr_matrix((values.astype(np.float32), np.concatenate(genes), indptr), shape=shape)


class Plain:
    """The straightforward version, with the weights of ours."""

    def __init__(
        self, loaded: LoadedModel, options: argparse.Namespace, device: torch.device
    ) -> None:
        self.ours, self.options, self.device = loaded.model, options, device
        # On a CPU the published code has no mixed precision to offer.
        self.amp = options.amp if device.type != "cpu" else None
        self.cls_id, self.pad_id = loaded.vocab.cls_id, loaded.vocab.pad_id
        config = loaded.config
        layer = nn.TransformerEncoderLayer(
            config.d_model, config.n_heads, config.d_ff, config.dropout, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.n_layers).to(device).eval()
        for theirs, own in zip(self.encoder.layers, loaded.model.transformer.layers, strict=True):
            theirs.load_state_dict(
                {
                    "self_attn.in_proj_weight": own.attention.qkv.weight,
                    "self_attn.in_proj_bias": own.attention.qkv.bias,
                    "self_attn.out_proj.weight": own.attention.out.weight,
                    "self_attn.out_proj.bias": own.attention.out.bias,
                    **{f"linear{i}.{k}": getattr(getattr(own, f"linear_{i}"), k) for i, k in PARTS},
                    **{f"norm{i}.{k}": getattr(getattr(own, f"norm_{i}"), k) for i, k in PARTS},
                }
            )

    def embed(self, counts: csr_matrix) -> np.ndarray:
        """Return the vectors of all cells."""
        size = self.options.batch_size
        found = [
            self.run(*self.collate(counts[start : start + size].toarray()))
            for start in range(0, counts.shape[0], size)
        ]
        vectors = torch.cat(found).float().cpu().numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def collate(self, dense: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return padded ids and bins of some cells."""
        rng, cells = np.random.default_rng(0), []
        for counts in dense:
            genes = np.flatnonzero(counts)
            edges = np.quantile(counts[genes], np.linspace(0, 1, 50))
            bins = np.digitize(counts[genes], edges)
            if genes.size >= self.options.max_length:
                kept = rng.choice(genes.size, self.options.max_length - 1, replace=False)
                genes, bins = genes[kept], bins[kept]
            cells.append((np.insert(genes, 0, self.cls_id), np.insert(bins, 0, PAD_VALUE)))
        longest = max(len(genes) for genes, _ in cells)
        ids = np.full((len(cells), longest), self.pad_id)
        values = np.full((len(cells), longest), PAD_VALUE, dtype=np.float32)
        for row, (genes, bins) in enumerate(cells):
            ids[row, : len(genes)], values[row, : len(bins)] = genes, bins
        return torch.from_numpy(ids), torch.from_numpy(values)

    @torch.no_grad()
    def run(self, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return what the network gives at `<cls>`."""
        ids, values = ids.to(self.device), values.to(self.device)
        enabled = self.amp is not None
        with torch.autocast(self.device.type, AMP_TYPES.get(self.amp), enabled=enabled):
            x = self.ours.gene_encoder(ids) + self.ours.value_encoder(values)
            return self.encoder(x, src_key_padding_mask=ids == self.pad_id)[:, 0]


PARTS = [(number, kind) for number in (1, 2) for kind in ("weight", "bias")]


def difference(encoder: CellEncoder, plain: Plain, counts: csr_matrix) -> float:
    tokens = encoder.tokens(counts[:2])
    ids, values, _ = encoder.inputs(tokens, np.arange(len(tokens)))
    theirs = plain.run(ids, values).float().cpu().numpy()
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    return float(np.abs(encoder.encode(tokens) - theirs).max())


def compare(
    works: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return seconds of every round, and the most memory that a round took."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    peaks = dict.fromkeys(works, 0.0)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for _ in range(rounds):
        for name, work in works.items():
            before = reset_peak(device)
            start = clock()
            work()
            wait(device)
            seconds[name].append(clock() - start)
            peaks[name] = max(peaks[name], peak(device) - before)
    return seconds, peaks


if __name__ == "__main__":
    main()
