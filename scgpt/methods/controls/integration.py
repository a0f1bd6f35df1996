"""Controls of integration: no information, perfect biology, and mixing that ignores biology."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import Method, MethodParams
from scgpt.methods.baselines.embeddings import NEIGHBORHOOD
from scgpt.methods.predictions import embedding_prediction
from scgpt.methods.task_data import SHOWN, batches_of, cell_types_of, cells_by_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

# Far below the distances that matter, far above the rounding of float32.
JITTER = 1e-5
JITTER_WIDTH = 16
MIXED_WIDTH = 8


class RandomEmbeddingParams(MethodParams):
    """Parameters of `RandomEmbedding`."""

    width: int = Field(default=30, ge=1)
    """Dimensions of the embedding."""


class RandomEmbedding(Method):
    """Negative control: normal numbers that depend on the seed and the cell's name only."""

    Params = RandomEmbeddingParams
    params: RandomEmbeddingParams

    def fit(self, data: AnnData) -> None:
        """Learn nothing."""

    def predict(self, data: AnnData) -> AnnData:
        """Draw one vector per cell."""
        names = _names(data)
        return embedding_prediction(
            data, names, normals_by_name(self.context.seed, names, self.params.width)
        )


class LabelEmbedding(Method):
    """Positive control: one point in space per true cell type, with batches mixed inside it.

    Around its point every cell is moved by 1e-5 in 16 further dimensions, by its name: equal
    vectors would leave the nearest neighbours to chance, and in that many dimensions the neighbour
    graph of a type is connected and has no clusters of its own. NMI, ARI and graph connectivity
    reach 1, and the silhouette of types 1 - 2e-5, for types of more cells than a neighbourhood
    has (15). A smaller type is joined to others by its graph, and no embedding can prevent that.
    """

    def fit(self, data: AnnData) -> None:
        """Check that the truth was handed over; there is nothing to learn."""
        if self.context.truth is None:
            msg = (
                "LabelEmbedding needs the cell types (context.truth); "
                "only a method declared as positive_control receives them"
            )
            raise ConfigError(msg)

    def predict(self, data: AnnData) -> AnnData:
        """Look the types of all cells up by name."""
        truth, names = self.context.truth, _names(data)
        found = truth.obs_names.get_indexer(names)
        if (found < 0).any():
            absent = names[found < 0][:SHOWN].tolist()
            msg = f"{(found < 0).sum()} of {len(names)} cells are not in the truth: {absent}"
            raise DataError(msg)
        types, codes = np.unique(cell_types_of(truth, found), return_inverse=True)
        small = types[np.bincount(codes) <= NEIGHBORHOOD]
        self.notes = []
        if len(small):
            self.notes.append(
                f"types too small for a neighbour graph of their own: {', '.join(small)}"
            )
        jitter = JITTER * normals_by_name(self.context.seed, names, JITTER_WIDTH)
        return embedding_prediction(data, names, np.hstack([np.eye(len(types))[codes], jitter]))


class BatchMixedEmbedding(Method):
    """Attack on scores of batch mixing: every batch covers the same points, whatever its cells are.

    The cells of a batch, in an order drawn from their names, take the first points of one sequence
    that fills the cube evenly. Batches are mixed as well as can be and all biology is lost: a
    score that ranks this above real methods measures mixing only.

    References
    ----------
    Roberts 2018, the generalised golden ratio sequence,
    extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences; the weakness of
    batch silhouettes: Rautenstrauch & Ohler, 10.1038/s41587-025-02743-4.
    """

    def fit(self, data: AnnData) -> None:
        """Note if there is no second batch."""
        batches = np.unique(batches_of(data, cells_by_name(data)))
        self.notes = []
        if len(batches) == 1:
            self.notes.append(f"all cells are of one batch ({batches[0]}): nothing to mix")

    def predict(self, data: AnnData) -> AnnData:
        """Place the cells of every batch on the same points."""
        names, batches = _names(data), batches_of(data, cells_by_name(data))
        noise = normals_by_name(self.context.seed, names, 1 + MIXED_WIDTH)
        points = np.empty((len(names), MIXED_WIDTH))
        for batch in np.unique(batches):
            cells = np.flatnonzero(batches == batch)
            order = cells[np.argsort(noise[cells, 0], kind="stable")]
            points[order] = even_points(len(cells), MIXED_WIDTH)
        # Cells of two batches on exactly one point would leave the neighbours to chance.
        return embedding_prediction(data, names, points + JITTER * noise[:, 1:])


def normals_by_name(seed: int, names: Sequence[str] | np.ndarray, width: int) -> np.ndarray:
    """Return standard normal numbers that depend on the seed and each name only.

    Returns
    -------
    Array of shape (len(names), width).
    """
    numbers = np.empty((len(names), width))
    for row, name in zip(numbers, names, strict=True):
        digest = hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=16).digest()
        np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(out=row)
    return numbers


def even_points(n_points: int, width: int) -> np.ndarray:
    """Return the first points of a sequence that fills the unit cube evenly.

    Returns
    -------
    Array of shape (n_points, width); more points only add rows.
    """
    ratio = 2.0
    for _ in range(64):  # the root of x ** (width + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (width + 1))
    steps = ratio ** -np.arange(1.0, width + 1)
    return (0.5 + np.arange(1, n_points + 1)[:, None] * steps) % 1


def _names(data: AnnData) -> np.ndarray:
    return data.obs_names.to_numpy().astype(str)[cells_by_name(data)]
