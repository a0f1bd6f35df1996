"""What the tasks share: matching cells by name, and shortening lists for messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgpt.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData

SHOWN = 5


def rows_by_name(prediction: AnnData, truth: AnnData, *, what: str = "cell") -> np.ndarray:
    """Return the rows of the prediction in the order of the truth.

    Raises
    ------
    ContractError
        If they do not have the same names, each once.
    """
    missing = truth.obs_names.difference(prediction.obs_names)
    extra = prediction.obs_names.difference(truth.obs_names)
    if len(missing) or len(extra):
        msg = (
            f"the prediction must hold every test {what} once: {len(missing)} are missing "
            f"(e.g. {list(missing[:3])}), {len(extra)} are unknown (e.g. {list(extra[:3])})"
        )
        raise ContractError(msg)
    return prediction.obs_names.get_indexer(truth.obs_names)


def some(names: Sequence[str]) -> str:
    """Return the first names as text, and that there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
