"""Compiled loops of the quantile binning.

They stand in one file and use no other of our compiled functions: numba's on-disk cache looks only
at the file of the function it compiles, and would miss the edit of a helper elsewhere.
"""

from __future__ import annotations

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ONE, BYTE = np.uint64(1), np.uint64(255)
I32, I64 = np.int32, np.int64
OK, NOT_FINITE, NEGATIVE = 0, 1, 2
INSERTION_SORT = 48  # up to this many distinct values insertion beats four radix passes


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
def bin_rows(indptr, values, bits, quantiles, out_lower, out_upper):
    """Write the highest (and, unless empty, the lowest) bin of every value; return (status, row).

    Only the distinct values of a row are sorted: a cell of a thousand counts has a few dozen.
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
        bins = out_upper[start:stop]
        for i in range(bins.size):
            bins[i] = high[which[i]] if which[i] >= 0 else 0
        if out_lower.size:
            bins = out_lower[start:stop]
            for i in range(bins.size):
                bins[i] = low[which[i]] if which[i] >= 0 else 0
    return OK, 0
