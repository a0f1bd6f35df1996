"""Compiled loops that hash, draw, tokenise, collate and mask.

All of them stand in this one file because numba's on-disk cache looks only at the file of the
function it compiles: a loop whose helper lived elsewhere would survive an edit of that helper.

Every random choice is a *counter-based* draw: a hash of (seed, cell, gene). It has no state, so
the order, the chunks and the threads in which cells are visited cannot change a result.
"""

from __future__ import annotations

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)
DEBRUIJN = np.uint64(0x03F79D71B4CB0A89)
ONE, MAGNITUDE = np.uint64(1), np.uint32(0x7FFFFFFF)
N27, N30, N31, N32, N56, N58 = (np.uint64(shift) for shift in (27, 30, 31, 32, 56, 58))
# Position of the lowest set bit, looked up with a de Bruijn sequence: numba has no ctz.
LOWEST_BIT = np.zeros(64, dtype=np.int64)
for _bit in range(64):
    LOWEST_BIT[((1 << _bit) * int(DEBRUIJN) % (1 << 64)) >> 58] = _bit

I32, I64, U64 = np.int32, np.int64, np.uint64


@njit(nogil=True, cache=True)
def mix(x):
    """Scramble 64 bits without collisions (the finaliser of SplitMix64)."""
    x = (x ^ (x >> N30)) * MIX_A
    x = (x ^ (x >> N27)) * MIX_B
    return x ^ (x >> N31)


@njit(nogil=True, cache=True)
def score(key, gene):
    """Return the random number of one gene in one cell; distinct genes never tie."""
    return mix(key ^ (np.uint64(gene) * GOLDEN + GOLDEN))


@njit(nogil=True, cache=True)
def pair_hash(gene, bits):
    """Return a hash of one gene and the bits of its value, 0 for the values 0 and -0."""
    pair = mix((np.uint64(gene) << N32) | np.uint64(bits))
    return pair if bits & MAGNITUDE else np.uint64(0)


@njit(nogil=True, cache=True)
def content_key(genes, bits):
    """Return a hash of the non-zero (gene, value) pairs of one cell, in any order."""
    total = np.uint64(0)
    for i in range(genes.size):
        total += pair_hash(genes[i], bits[i])
    return mix(total)


@njit(nogil=True, cache=True)
def content_keys(indptr, genes, bits, out):
    """Fill `out` with the content key of every row."""
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        out[row] = content_key(genes[start:stop], bits[start:stop])


@njit(nogil=True, cache=True)
def fill_scores(key, genes, out):
    """Fill `out` with the random numbers of the genes of one cell."""
    for i in range(genes.size):
        out[i] = score(key, genes[i])


@njit(nogil=True, cache=True)
def draw_between(indptr, genes, keys, lower, upper):
    """Replace each value of `upper` by a random one from `lower` to it, keyed by cell and gene."""
    widest = 0
    for row in range(indptr.size - 1):
        widest = max(widest, indptr[row + 1] - indptr[row])
    drawn = np.empty(widest, U64)
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        low, high, scores = lower[start:stop], upper[start:stop], drawn[: stop - start]
        fill_scores(keys[row], genes[start:stop], scores)
        for i in range(low.size):
            choices = np.uint64(high[i] - low[i] + 1)
            high[i] = low[i] + (((scores[i] >> N32) * choices) >> N32)


@njit(nogil=True, cache=True)
def smallest(scores, n_wanted, histogram, few):
    """Return the `n_wanted`-th smallest of evenly distributed scores.

    A histogram of the leading byte leaves a handful of candidates, which are sorted.
    """
    histogram.fill(0)
    for i in range(scores.size):
        histogram[scores[i] >> N56] += 1
    leading, before = 0, 0
    while before + histogram[leading] < n_wanted:
        before += histogram[leading]
        leading += 1
    n = 0
    for i in range(scores.size):
        if scores[i] >> N56 == leading:
            j = n
            while j > 0 and few[j - 1] > scores[i]:
                few[j] = few[j - 1]
                j -= 1
            few[j] = scores[i]
            n += 1
    return few[n_wanted - before - 1]


@njit(nogil=True, cache=True)
def sort_row(ranks, values, n, words, by_rank):
    """Order one row by rank through a bit set; return False if a rank occurs twice."""
    for i in range(n):
        word, bit = ranks[i] >> 6, ONE << np.uint64(ranks[i] & 63)
        if words[word] & bit:
            return False
        words[word] |= bit
        by_rank[ranks[i]] = values[i]
    at = 0
    for word in range(words.size):
        rest = words[word]
        words[word] = 0
        while rest:
            lowest = rest & (~rest + ONE)
            rank = (word << 6) + LOWEST_BIT[(lowest * DEBRUIJN) >> N58]
            ranks[at], values[at] = rank, by_rank[rank]
            at += 1
            rest ^= lowest
    return True


@njit(nogil=True, cache=True)
def copy_row(indices, values, column_token, by_token, ids, kept):
    """Copy a row whose genes are all kept, non-zero and in order; return whether it is such a row.

    Most rows are; these loops without branches handle several values at a time.
    """
    for i in range(indices.size):
        ids[i] = column_token[np.uint64(indices[i])]
    plain = True
    for i in range(indices.size):
        plain &= (ids[i] >= 0) & (values[i] != 0)
    ordered = ids if by_token else indices
    for i in range(1, indices.size):
        plain &= ordered[i] > ordered[i - 1]
    for i in range(indices.size):
        kept[i] = values[i]
    return plain


@njit(nogil=True, cache=True)
def gather_row(indices, values, column_rank, ranks, kept, words, by_rank):
    """Collect any row's genes in rank order; return their number, or -1 for a repeated gene."""
    n, last, ascending = 0, -1, True
    for k in range(indices.size):
        rank = column_rank[indices[k]]
        if rank < 0 or values[k] == 0:
            continue
        if n == by_rank.size:
            return -1
        ranks[n], kept[n] = rank, values[k]
        ascending = ascending and rank > last
        last = rank
        n += 1
    if not ascending and not sort_row(ranks, kept, n, words, by_rank):
        return -1
    return n


@njit(nogil=True, cache=True)
def fill_tokens(
    indptr, indices, values, column_token, by_token, column_rank, rank_token, include_zero,
    n_places, cell_keys, seed_key, head, out_indptr, out_ids, out_values,
):  # fmt: skip
    """Write every row's tokens after its `head` (0 or 1) reserved places.

    A row with more genes than places keeps those with the smallest scores: a sample without
    replacement that depends on the seed and on the cell's key (its content unless given) alone.
    Returns -1, or the row that stores a gene twice.
    """
    n_ranks = rank_token.size
    ranks, tokens = np.empty(n_ranks, I32), np.empty(n_ranks, I32)
    scores, few, histogram = np.empty(n_ranks, U64), np.empty(n_ranks, U64), np.empty(256, I64)
    kept, by_rank = np.empty(n_ranks, np.float32), np.zeros(n_ranks, np.float32)
    bits = kept.view(np.uint32)
    words = np.zeros((n_ranks >> 6) + 1, U64)
    at = 0
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        at += head
        end = at + stop - start
        if not include_zero and stop - start <= min(n_places, n_ranks) and copy_row(
            indices[start:stop], values[start:stop], column_token, by_token,
            out_ids[at:end], out_values[at:end],
        ):  # fmt: skip
            at = end
            out_indptr[row + 1] = at
            continue
        n = gather_row(
            indices[start:stop], values[start:stop], column_rank, ranks, kept, words, by_rank
        )
        if n < 0:
            return row
        for i in range(n):
            tokens[i] = rank_token[ranks[i]]
        key = seed_key
        if (n_ranks if include_zero else n) > n_places:
            cell = cell_keys[row] if cell_keys.size else content_key(tokens[:n], bits[:n])
            key = mix(seed_key ^ cell)
        if include_zero:
            by_rank.fill(0)
            for i in range(n):
                by_rank[ranks[i]] = kept[i]
            n = n_ranks
            for i in range(n):
                kept[i], tokens[i] = by_rank[i], rank_token[i]
        limit = ~np.uint64(0)
        if n > n_places:
            fill_scores(key, tokens[:n], scores)
            limit = smallest(scores[:n], n_places, histogram, few)
        for i in range(n):
            if n <= n_places or scores[i] <= limit:
                out_ids[at], out_values[at] = tokens[i], kept[i]
                at += 1
        out_indptr[row + 1] = at
    return -1


# Passes over a whole matrix in which nothing is left out, sorted or sampled. Each does one thing:
# the compiler handles several values at a time only in loops that write a single array.


@njit(nogil=True, cache=True)
def no_zeros(values):
    """Return whether there is no stored zero."""
    found = True
    for i in range(values.size):
        found &= values[i] != 0
    return found


@njit(nogil=True, cache=True)
def copy_tokens(indptr, indices, column_token, head, out_ids):
    """Write the token of every stored value, after `head` (0 or 1) places in each row.

    Returns whether the column numbers of every row ascend strictly.
    """
    signs = np.int32(0)
    for row in range(indptr.size - 1):
        start, stop, shift = indptr[row], indptr[row + 1], head * (row + 1)
        columns, ids = indices[start:stop], out_ids[start + shift : stop + shift]
        before = np.int32(-1)
        for i in range(columns.size):
            # Negative unless it ascends, and the sign bit stays.
            signs |= columns[i] - before - np.int32(1)
            before = columns[i]
            ids[i] = column_token[np.uint64(before)]
    return signs >= 0


@njit(nogil=True, cache=True)
def copy_values(indptr, values, head, out_values):
    """Write every stored value, after `head` (0 or 1) places in each row."""
    for row in range(indptr.size - 1):
        start, stop, shift = indptr[row], indptr[row + 1], head * (row + 1)
        given, kept = values[start:stop], out_values[start + shift : stop + shift]
        for i in range(given.size):
            kept[i] = given[i]


@njit(nogil=True, cache=True)
def longest_row(rows, indptr):
    """Return the greatest length of some rows, or -1 if one of them does not exist."""
    longest = 0
    for i in range(rows.size):
        if rows[i] < 0 or rows[i] >= indptr.size - 1:
            return -1
        longest = max(longest, indptr[rows[i] + 1] - indptr[rows[i]])
    return longest


@njit(nogil=True, cache=True)
def collate_rows(rows, indptr, ids, values, pad_id, pad_value, out_ids, out_values, padding):
    """Copy ragged rows into padded rectangles."""
    for i in range(rows.size):
        start, stop = indptr[rows[i]], indptr[rows[i] + 1]
        row_ids, row_values = ids[start:stop], values[start:stop]
        to_ids, to_values, to_padding = out_ids[i], out_values[i], padding[i]
        n = row_ids.size
        # One array per loop: with several the compiler gives up on proving them disjoint.
        for j in range(n):
            to_ids[j] = row_ids[j]
        for j in range(n):
            to_values[j] = row_values[j]
        for j in range(n):
            to_padding[j] = False
        to_ids[n:] = pad_id
        to_values[n:] = pad_value
        to_padding[n:] = True


@njit(nogil=True, cache=True)
def mask_rows(ids, values, padding, keys, ratio, mask_value, out):
    """Copy `values` and replace ``int(ratio * candidates)`` of each row by `mask_value`."""
    length = ids.shape[1]
    genes, places = np.empty(length, I64), np.empty(length, I64)
    scores, few, histogram = np.empty(length, U64), np.empty(length, U64), np.empty(256, I64)
    for row in range(ids.shape[0]):
        n = 0
        for j in range(length):
            out[row, j] = values[row, j]
            genes[n], places[n] = ids[row, j], j
            n += not padding[row, j]
        left = int(ratio * n)
        if left == 0:
            continue
        fill_scores(keys[row], genes[:n], scores)
        limit = smallest(scores[:n], left, histogram, few)
        for i in range(n):
            if left and scores[i] <= limit:
                out[row, places[i]] = mask_value
                left -= 1
