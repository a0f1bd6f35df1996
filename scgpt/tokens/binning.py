"""Per-cell quantile binning of expression values, straight from sparse rows.

The rule: the non-zero values of a cell are cut at ``n_bins - 1`` quantile edges of that same
cell; zeros stay bin 0, others become 1 ... ``n_bins - 1``. Only ranks matter, so counts and any
increasing transform of them get (nearly) the same bins.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix, issparse

from scgpt.errors import DataError
from scgpt.tokens import binning_kernels
from scgpt.tokens import token_kernels as kernels
from scgpt.tokens.keys import TIES, content_keys, identities, seed_key

MAX_BINS = 256  # a bin is one byte
EXACT_IN_FLOAT32 = 1 << 24


def bin_values(
    matrix: csr_matrix,
    *,
    n_bins: int = 51,
    ties: Literal["upper", "random"] = "upper",
    seed: int | None = None,
    cell_keys: np.ndarray | None = None,
    gene_ids: np.ndarray | None = None,
) -> csr_matrix:
    """Replace every value by its quantile bin within its own cell.

    Parameters
    ----------
    matrix
        Counts or log-normalised values, shape (n_cells, n_genes), CSR, not negative.
    n_bins
        Number of bins including bin 0 of the zeros.
    ties
        What becomes of a value equal to several edges. ``"upper"`` takes the highest of its bins,
        as in pretraining; ``"random"`` draws one of them, as the published fine-tuning does.
    seed
        Required for ``"random"``. A draw depends on the seed, the cell's key and the gene.
    cell_keys
        One uint64 per cell; without it the content of the cell is its key, so that neither the
        order nor the chunking of cells matters.
    gene_ids
        One whole number per column, so that the order of genes does not matter to the draws
        either; the column number unless given.

    Returns
    -------
    CSR of uint8 with the sparsity of `matrix`.

    Raises
    ------
    DataError
        For values that are negative or not finite, or for unusable options.

    References
    ----------
    Cui et al., Nat Methods 2024, doi:10.1038/s41592-024-02201-0, Methods, equation 1.
    """
    values = _checked_values(matrix, n_bins)
    _check_ties(ties, seed)
    indptr = matrix.indptr.astype(np.int64)  # one compiled version for both kinds of matrix
    bits = values.view(np.uint32 if values.itemsize == 4 else np.uint64)
    bins = np.empty(values.size, dtype=np.uint8)
    lowest = np.empty(values.size if ties == "random" else 0, dtype=np.uint8)
    status, row = binning_kernels.bin_rows(
        indptr, values, bits, np.linspace(0, 1, n_bins - 1), lowest, bins
    )
    if status != binning_kernels.OK:
        found = "a negative value" if status == binning_kernels.NEGATIVE else "NaN or infinity"
        msg = f"cell {row} has {found}; binning needs counts or log-normalised values >= 0"
        raise DataError(msg)
    if ties == "random":
        if cell_keys is None:
            cell_keys = content_keys(matrix, gene_ids)
        keys, genes = seed_key(seed, TIES, cell_keys), identities(matrix, gene_ids)
        kernels.draw_between(indptr, genes, keys, lowest, bins)
    return csr_matrix((bins, matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)


def _check_ties(ties: str, seed: int | None) -> None:
    if ties not in ("upper", "random"):
        msg = f"ties is {ties!r}, expected 'upper' or 'random'"
        raise DataError(msg)
    if ties == "random" and seed is None:
        msg = "random ties need a seed; give one, or use ties='upper'"
        raise DataError(msg)


def _checked_values(matrix: csr_matrix, n_bins: int) -> np.ndarray:
    if not issparse(matrix) or matrix.format != "csr":
        msg = f"binning needs a CSR matrix, found {type(matrix).__name__}; convert it first"
        raise DataError(msg)
    if not 2 <= n_bins <= MAX_BINS:
        msg = f"n_bins is {n_bins}, expected 2 ... {MAX_BINS}"
        raise DataError(msg)
    values = matrix.data
    if values.dtype in (np.float32, np.float64):
        return np.ascontiguousarray(values)
    if values.dtype.kind in "iub":
        # Whole numbers below 2^24 and their differences are exact in single precision.
        fits = values.size == 0 or int(values.max()) < EXACT_IN_FLOAT32
        return values.astype(np.float32 if fits else np.float64)
    msg = f"values of type {values.dtype} cannot be binned; use float32"
    raise DataError(msg)
