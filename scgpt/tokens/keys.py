"""Keys of cells: what ties a random choice to a cell instead of to its place in a matrix."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from scgpt.tokens import token_kernels as kernels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scipy.sparse import csr_matrix

# One number per kind of choice, so that the same seed never serves two of them.
TIES, TRUNCATION, MASKING, SPLIT = 1, 2, 3, 4


def name_keys(names: Iterable[str], *, seed: int = 0) -> np.ndarray:
    """Return one uint64 per name, the same on every machine.

    Returns
    -------
    Array of shape (n_names,), uint64.
    """
    salt = int(seed).to_bytes(8, "little", signed=True)
    return np.fromiter(
        (
            int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=8, key=salt).digest())
            for name in names
        ),
        dtype=np.uint64,
    )


def content_keys(matrix: csr_matrix, gene_ids: np.ndarray | None = None) -> np.ndarray:
    """Return one uint64 per cell, a hash of its (gene, value) pairs in any order.

    Parameters
    ----------
    matrix
        Values, shape (n_cells, n_genes), CSR.
    gene_ids
        What identifies each column; the column number unless given.
    """
    values = np.ascontiguousarray(matrix.data, dtype=np.float32)
    keys = np.empty(matrix.shape[0], dtype=np.uint64)
    genes, bits = identities(matrix, gene_ids), values.view(np.uint32)
    kernels.content_keys(matrix.indptr.astype(np.int64), genes, bits, keys)
    return keys


def identities(matrix: csr_matrix, gene_ids: np.ndarray | None) -> np.ndarray:
    """Return the gene id of every stored value (its column number without ids), int32."""
    if gene_ids is None:
        return matrix.indices.astype(np.int32, copy=False)
    return np.asarray(gene_ids, dtype=np.int32)[matrix.indices]


def seed_key(seed: int, purpose: int, keys: np.ndarray | int = 0, *, epoch: int = 0) -> np.ndarray:
    """Combine seed, purpose, epoch and the keys of cells into fresh keys.

    Returns
    -------
    Array of uint64 with the shape of `keys`.
    """
    state = name_keys([f"{purpose}/{epoch}"], seed=seed)[0]
    fresh = np.atleast_1d(np.asarray(keys, dtype=np.uint64)) ^ state
    # Array arithmetic on uint64 wraps silently, which is meant.
    fresh = (fresh ^ (fresh >> kernels.N30)) * kernels.MIX_A
    fresh = (fresh ^ (fresh >> kernels.N27)) * kernels.MIX_B
    return (fresh ^ (fresh >> kernels.N31)).reshape(np.shape(keys))
