"""Compiled inner loops of the data layer: hashing, binning, tokenising, masking, collating.

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
ONE, BYTE, MAGNITUDE = np.uint64(1), np.uint64(255), np.uint32(0x7FFFFFFF)
N27, N30, N31, N32, N56, N58 = (np.uint64(shift) for shift in (27, 30, 31, 32, 56, 58))
# Position of the lowest set bit, looked up with a de Bruijn sequence: numba has no ctz.
LOWEST_BIT = np.zeros(64, dtype=np.int64)
for _bit in range(64):
    LOWEST_BIT[((1 << _bit) * int(DEBRUIJN) % (1 << 64)) >> 58] = _bit

I32, I64, U64 = np.int32, np.int64, np.uint64
OK, NOT_FINITE, NEGATIVE, DUPLICATE = 0, 1, 2, 3
INSERTION_SORT = 48  # up to this many distinct values insertion beats four radix passes


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
def sort_bits(bits, slots, n, spare_bits, spare_slots):
    """Sort the first `n` bit patterns, carrying their slots along.

    Positive floating-point numbers order like the whole numbers of their bits.
    """
    if n <= INSERTION_SORT:
        for i in range(1, n):
            b, slot, j = bits[i], slots[i], i
            while j > 0 and bits[j - 1] > b:
                bits[j], slots[j] = bits[j - 1], slots[j - 1]
                j -= 1
            bits[j], slots[j] = b, slot
        return
    starts = np.empty(256, I64)
    for digit in range(bits.itemsize):
        shift = np.uint64(8 * digit)
        starts.fill(0)
        for i in range(n):
            starts[(np.uint64(bits[i]) >> shift) & BYTE] += 1
        at = 0
        for value in range(256):
            count = starts[value]
            starts[value] = at
            at += count
        for i in range(n):
            value = (np.uint64(bits[i]) >> shift) & BYTE
            spare_bits[starts[value]] = bits[i]
            spare_slots[starts[value]] = slots[i]
            starts[value] += 1
        for i in range(n):
            bits[i], slots[i] = spare_bits[i], spare_slots[i]


@njit(nogil=True, cache=True)
def group_row(values, bits, table, shift, which, distinct, slots, counts):
    """Find the distinct values of a row; return their number, or minus the status of a bad one.

    `table` is an empty hash table and comes back filled. ``which[i]`` becomes the slot of value
    `i`, or -1 for a zero; ``slots[d]`` that of distinct value `d`.
    """
    n, wrap = 0, np.uint64(table.size - 1)
    for i in range(values.size):
        if values[i] == 0:
            which[i] = -1
            continue
        if not values[i] > 0 or values[i] == np.inf:
            return -NEGATIVE if values[i] < 0 else -NOT_FINITE
        at = (np.uint64(bits[i]) * GOLDEN) >> shift
        while table[at] != bits[i]:
            if table[at] == 0:
                table[at] = bits[i]
                counts[at] = 0
                distinct[n], slots[n] = bits[i], at
                n += 1
                break
            at = (at + ONE) & wrap
        counts[at] += 1
        which[i] = at
    return n


@njit(nogil=True, cache=True)
def lerp(below, above, weight):
    """Interpolate like NumPy: a difference in the values' precision, then from the nearer end."""
    step = above - below
    return above - step * (1.0 - weight) if weight >= 0.5 else below + step * weight


@njit(nogil=True, cache=True)
def bin_ranges(values, ends, quantiles, lower, upper):
    """Fill the lowest and highest bin of each of the sorted distinct values of a row.

    ``ends[d]`` is the number of values up to and including distinct value `d`. Edge `e` lies at
    rank ``(n - 1) * quantiles[e]`` between two order statistics, so most edges are placed by
    their rank alone; only those next to a value have to be computed.
    """
    n = ends[values.size - 1]
    n_below, n_upto = 0, 0
    for d in range(values.size):
        first, last = ends[d - 1] if d else 0, ends[d] - 1
        while n_below < quantiles.size:  # edges below the value
            position = (n - 1) * quantiles[n_below]
            rank = int(np.floor(position))
            if rank >= first:
                break
            if rank + 1 == first and lerp(values[d - 1], values[d], position - rank) >= values[d]:
                break
            n_below += 1
        while n_upto < quantiles.size:  # edges below it or equal
            position = (n - 1) * quantiles[n_upto]
            rank = int(np.floor(position))
            if rank > last:
                break
            inside = rank < last or d + 1 == values.size
            if not inside and lerp(values[d], values[d + 1], position - rank) > values[d]:
                break
            n_upto += 1
        lower[d], upper[d] = min(n_below + 1, n_upto), n_upto


@njit(nogil=True, cache=True)
def bin_rows(indptr, indices, values, bits, quantiles, keys, out):
    """Write the bin of every stored value to `out`; return (status, row).

    Only the distinct values of a row are sorted: a cell of a thousand counts has a few dozen.
    An empty `keys` means ties go to the upper bin, else row `r` draws them with ``keys[r]``.
    """
    widest = 1
    for row in range(indptr.size - 1):
        widest = max(widest, indptr[row + 1] - indptr[row])
    size, shift = 64, 58
    while size < 2 * widest:
        size, shift = 2 * size, shift - 1
    table = np.zeros(size, dtype=bits.dtype)
    counts, low, high = np.empty(size, I32), np.empty(size, I32), np.empty(size, I32)
    slots, spare_slots, which = np.empty(widest, I32), np.empty(widest, I32), np.empty(widest, I32)
    lower, upper, ends = np.empty(widest, I64), np.empty(widest, I64), np.empty(widest, I64)
    distinct, spare = np.empty(widest, bits.dtype), np.empty(widest, bits.dtype)
    drawn = np.empty(widest, U64)
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        n = group_row(
            values[start:stop], bits[start:stop], table, np.uint64(shift), which,
            distinct, slots, counts,
        )  # fmt: skip
        if n < 0:
            return -n, row
        sort_bits(distinct, slots, n, spare, spare_slots)
        total = 0
        for d in range(n):
            table[slots[d]] = 0
            total += counts[slots[d]]
            ends[d] = total
        if n:
            bin_ranges(distinct[:n].view(values.dtype), ends[:n], quantiles, lower, upper)
        for d in range(n):
            low[slots[d]], high[slots[d]] = lower[d], upper[d]
        bins = out[start:stop]
        for i in range(bins.size):
            bins[i] = high[which[i]] if which[i] >= 0 else 0
        if keys.size:
            fill_scores(keys[row], indices[start:stop], drawn)
            for i in range(bins.size):
                if which[i] >= 0:
                    choices = np.uint64(bins[i] - low[which[i]] + 1)
                    bins[i] = low[which[i]] + (((drawn[i] >> N32) * choices) >> N32)
    return OK, 0


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
def copy_row(indices, values, column_rank, rank_token, ranks, ids, kept):
    """Copy a row whose genes are all kept, non-zero and in rank order; return whether it is one.

    Most rows are; these loops without branches run several values at a time.
    """
    plain = True
    for i in range(indices.size):
        ranks[i] = column_rank[np.uint64(indices[i])]
        plain &= (ranks[i] >= 0) & (values[i] != 0)
    for i in range(1, indices.size):
        plain &= ranks[i] > ranks[i - 1]
    if plain:
        for i in range(indices.size):
            ids[i] = rank_token[np.uint64(ranks[i])]
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
    indptr, indices, values, column_rank, rank_token, include_zero, n_places, cell_keys, seed_key,
    head, out_indptr, out_ids, out_values,
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
            indices[start:stop], values[start:stop], column_rank, rank_token, ranks,
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
        key = cell_keys[row] if cell_keys.size else content_key(tokens[:n], bits[:n])
        if include_zero:
            by_rank.fill(0)
            for i in range(n):
                by_rank[ranks[i]] = kept[i]
            n = n_ranks
            for i in range(n):
                kept[i], tokens[i] = by_rank[i], rank_token[i]
        limit = ~np.uint64(0)
        if n > n_places:
            fill_scores(mix(seed_key ^ key), tokens[:n], scores)
            limit = smallest(scores[:n], n_places, histogram, few)
        for i in range(n):
            if n <= n_places or scores[i] <= limit:
                out_ids[at], out_values[at] = tokens[i], kept[i]
                at += 1
        out_indptr[row + 1] = at
    return -1


@njit(nogil=True, cache=True)
def collate_rows(rows, indptr, ids, values, pad_id, pad_value, out_ids, out_values, padding):
    """Copy ragged rows into padded rectangles."""
    for i in range(rows.size):
        start, stop = indptr[rows[i]], indptr[rows[i] + 1]
        row_ids, row_values = ids[start:stop], values[start:stop]
        to_ids, to_values, to_padding = out_ids[i], out_values[i], padding[i]
        n = row_ids.size
        for j in range(n):
            to_ids[j] = row_ids[j]
            to_values[j] = row_values[j]
            to_padding[j] = False
        for j in range(n, to_ids.size):
            to_ids[j] = pad_id
            to_values[j] = pad_value
            to_padding[j] = True


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


@njit(nogil=True, cache=True)
def scan_values(values):
    """Return how many are not finite, negative, fractional, and the largest value."""
    n_bad, n_negative, n_fractional, largest = 0, 0, 0, -np.inf
    for value in values:
        if not np.isfinite(value):
            n_bad += 1
            continue
        n_negative += value < 0
        n_fractional += value != np.floor(value)
        largest = max(largest, value)
    return n_bad, n_negative, n_fractional, largest
