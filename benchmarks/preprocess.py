"""Speed of binning, tokenising and collating, and of a vocabulary, beside plain versions of each.

    python benchmarks/preprocess.py [--cells 2000] [--genes 3000] [--density 0.1] [--rounds 3]

The plain version is what one writes first: dense rows, one cell at a time, NumPy. Both are timed
in turn in the same process (CPU seconds of one thread), so that a busy machine slows both; the
ratio is the median over rounds. Work that takes less than a tenth of a second is repeated until it
has taken that long, because one short run after the other's long one finds all caches cold. Memory
is the peak of what Python and NumPy allocate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, random

from scgpt.data.preprocess import lognormalise
from scgpt.tokens.binning import bin_values
from scgpt.tokens.tokens import Batch, CellRng, length_buckets, mask_values, tokenize
from scgpt.tokens.vocab import GeneVocab

if TYPE_CHECKING:
    from collections.abc import Callable

N_BINS, SHORT, BATCH_SIZE, MASK_RATIO = 51, 257, 64, 0.4
LEAST_SECONDS, N_TOKENS = 0.1, 60_697


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=3000)
    parser.add_argument("--density", type=float, default=0.1, help="share of non-zero values")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    counts = simulate(options.cells, options.genes, options.density)
    print(
        f"{options.cells} cells x {options.genes} genes, {counts.nnz / options.cells:.0f} non-zero "
        f"values per cell, {options.rounds} rounds, one thread\n"
    )
    print(
        f"{'step':<34}{'plain cells/s':>14}{'ours cells/s':>14}{'ratio':>8}"
        f"{'plain B/cell':>14}{'ours B/cell':>13}{'plain MB':>10}{'ours MB':>9}"
    )
    for name, plain, ours in [*binning_steps(counts), *token_steps(counts)]:
        print(row(name, options.cells, *compare(plain, ours, options.rounds)))
    vocabulary(options.rounds)


def vocabulary(rounds: int) -> None:
    """Time the loading of a vocabulary; both versions refuse repeated ids and holes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.json")
        path.write_text(json.dumps({f"GENE{i}": i for i in range(N_TOKENS)}))
        plain, ours, ratio = compare(
            lambda: len(load_plain(path)[0]), lambda: len(GeneVocab.from_json(path)), rounds
        )[:3]
    print(
        f"\nload a vocabulary of {N_TOKENS:,} tokens: plain {1e3 * plain:.0f} ms, "
        f"ours {1e3 * ours:.0f} ms, {ratio:.1f}x"
    )


def load_plain(path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    ids = json.loads(path.read_text())
    tokens = []
    for token, i in sorted(ids.items(), key=lambda item: item[1]):
        if i != len(tokens):
            raise ValueError(token)
        tokens.append(token)
    return tuple(tokens), {token: i for i, token in enumerate(tokens)}


def simulate(n_cells: int, n_genes: int, density: float) -> csr_matrix:
    """Return counts of which, as in real data, more than half of the non-zero ones are 1."""
    rng = np.random.default_rng(0)
    widths = np.clip(rng.lognormal(np.log(density), 0.4, n_cells), 0, 1)
    counts = random(n_cells, n_genes, density=min(1, 3 * density), format="csr", random_state=1)
    counts.data = (1 + rng.negative_binomial(1, 0.45, counts.nnz)).astype(np.float32)
    kept = rng.random(counts.nnz) < np.repeat(widths / min(1, 3 * density), np.diff(counts.indptr))
    counts.data *= kept
    counts.eliminate_zeros()
    return counts.astype(np.float32)


Step = tuple[str, "Callable[[], object]", "Callable[[], object]"]


def binning_steps(counts: csr_matrix) -> list[Step]:
    """Return name, plain version and our version of every step up to the bins."""
    lognorm = lognormalise(counts)
    dense, dense_lognorm = counts.toarray(), lognorm.toarray()
    return [
        ("bin counts, upper ties", lambda: bin_plain(dense, "upper"), lambda: bin_values(counts)),
        (
            "bin counts, random ties",
            lambda: bin_plain(dense, "random"),
            lambda: bin_values(counts, ties="random", seed=0),
        ),
        (
            "bin log-normalised, upper ties",
            lambda: bin_plain(dense_lognorm, "upper"),
            lambda: bin_values(lognorm),
        ),
        (
            "normalise + log1p + bin",
            lambda: bin_plain(normalise_plain(dense), "upper"),
            lambda: bin_values(lognormalise(counts)),
        ),
    ]


def token_steps(counts: csr_matrix) -> list[Step]:
    """Return name, plain version and our version of every step from the bins on."""
    dense, gene_ids = counts.toarray(), np.arange(counts.shape[1], dtype=np.int32)
    bins = bin_values(counts, n_bins=N_BINS)
    dense_bins = bins.toarray()
    cls_id, pad_id = gene_ids.size, gene_ids.size + 1

    def padded(**options: object) -> object:
        tokens = tokenize(bins, gene_ids, cls_id=cls_id, **options)
        return tokens.collate(np.arange(len(tokens)), pad_id=pad_id)

    def bucketed() -> int:
        tokens = tokenize(bins, gene_ids, cls_id=cls_id)
        rows = length_buckets(tokens.lengths, BATCH_SIZE)
        # One batch at a time, as training consumes them.
        return sum(n_bytes(tokens.collate(part, pad_id=pad_id)) for part in rows)

    tokens_once = tokenize(bins, gene_ids, cls_id=cls_id)

    def one_epoch() -> int:
        rows = length_buckets(tokens_once.lengths, BATCH_SIZE)
        return sum(n_bytes(tokens_once.collate(part, pad_id=pad_id)) for part in rows)

    def masked() -> int:
        tokens = tokenize(
            bin_values(counts, n_bins=N_BINS, ties="random", seed=0),
            gene_ids,
            cls_id=cls_id,
            max_length=SHORT,
        )
        size = 0
        for part in length_buckets(tokens.lengths, BATCH_SIZE):
            batch = tokens.collate(part, pad_id=pad_id)
            size += n_bytes(batch) + n_bytes(mask_values(batch, MASK_RATIO, rng=CellRng(seed=0)))
        return size

    def plain_tokens(max_length: int | None = None) -> object:
        return tokenize_plain(dense_bins, gene_ids, cls_id, pad_id, max_length)

    def plain_masked() -> object:
        cells = tokenize_plain(bin_plain(dense, "random"), gene_ids, cls_id, pad_id, SHORT)
        return cells, mask_plain(cells[1], cells[0] == pad_id)

    return [
        ("tokenise + pad, same output", plain_tokens, padded),
        ("tokenise + pad, in buckets", plain_tokens, bucketed),
        ("pad in buckets, each later epoch", plain_tokens, one_epoch),
        (
            f"tokenise + sample to {SHORT}",
            lambda: plain_tokens(SHORT),
            lambda: padded(max_length=SHORT),
        ),
        (f"bin + sample to {SHORT} + pad + mask", plain_masked, masked),
    ]


def normalise_plain(dense: np.ndarray) -> np.ndarray:
    return np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4)


def bin_plain(dense: np.ndarray, ties: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    binned = np.zeros(dense.shape, dtype=np.int64)
    for i, cell in enumerate(dense):
        expressed = cell.nonzero()[0]
        values = cell[expressed]
        edges = np.quantile(values, np.linspace(0, 1, N_BINS - 1))
        upper = np.digitize(values, edges)
        if ties == "random":
            below = np.digitize(values, edges, right=True)
            drawn = np.ceil(rng.random(values.size) * (below - upper) + upper)
            upper = drawn.astype(np.int64)
        binned[i, expressed] = upper
    return binned


def tokenize_plain(
    dense: np.ndarray, gene_ids: np.ndarray, cls_id: int, pad_id: int, max_length: int | None
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    cells = []
    for cell in dense:
        expressed = np.nonzero(cell)[0]
        if max_length is not None and expressed.size > max_length - 1:
            expressed = np.sort(rng.choice(expressed, max_length - 1, replace=False))
        cells.append((np.insert(gene_ids[expressed], 0, cls_id), np.insert(cell[expressed], 0, 0)))
    length = max(len(genes) for genes, _ in cells)
    all_genes, all_values = [], []
    for genes, values in cells:
        n_missing = length - len(genes)
        all_genes.append(np.concatenate([genes, np.full(n_missing, pad_id)]))
        all_values.append(np.concatenate([values, np.full(n_missing, -2.0)]))
    return np.stack(all_genes).astype(np.int64), np.stack(all_values).astype(np.float32)


def mask_plain(values: np.ndarray, padding: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    masked = values.copy()
    for row_, pads in zip(masked, padding, strict=True):
        candidates = np.nonzero(~pads)[0]
        n_masked = int(MASK_RATIO * candidates.size)
        row_[rng.choice(candidates, n_masked, replace=False)] = -1
    return masked


def compare(
    plain: Callable[[], object], ours: Callable[[], object], rounds: int
) -> tuple[float, float, float, int, int, float, float]:
    """Return seconds of both, their ratio, bytes of the results and peak megabytes."""
    sizes, peaks = [], []
    for work in (plain, ours):  # also warms up: our loops are compiled at their first call
        tracemalloc.start()
        sizes.append(n_bytes(work()))
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    times = np.array([[seconds(plain), seconds(ours)] for _ in range(rounds)])
    ratio = float(np.median(times[:, 0] / times[:, 1]))
    return *np.median(times, axis=0), ratio, *sizes, *peaks


def seconds(work: Callable[[], object]) -> float:
    """Return the mean CPU seconds of one run."""
    start, n_runs, spent = time.process_time(), 0, 0.0
    while spent < LEAST_SECONDS:
        work()
        n_runs, spent = n_runs + 1, time.process_time() - start
    return spent / n_runs


def n_bytes(result: object) -> int:
    """Return the size of all arrays in a result (a number is a size already)."""
    if isinstance(result, int):
        return result
    if isinstance(result, np.ndarray):
        return result.nbytes
    if isinstance(result, csr_matrix):
        # The column numbers are those of the input and are needed once, not once per result.
        return result.data.nbytes
    if isinstance(result, Batch):
        return result.gene_ids.nbytes + result.values.nbytes + result.padding.nbytes
    return sum(n_bytes(part) for part in result)


def row(
    name: str,
    n_cells: int,
    plain: float,
    ours: float,
    ratio: float,
    plain_bytes: int,
    our_bytes: int,
    plain_peak: float,
    our_peak: float,
) -> str:
    return (
        f"{name:<34}{n_cells / plain:>14,.0f}{n_cells / ours:>14,.0f}{ratio:>7.1f}x"
        f"{plain_bytes / n_cells:>14,.0f}{our_bytes / n_cells:>13,.0f}"
        f"{plain_peak:>10.1f}{our_peak:>9.1f}"
    )


if __name__ == "__main__":
    main()
