"""The `simulation` split of perturbed conditions: which genes and pairs a method has seen.

Equal, for the same seed and the same spelling of the conditions, to the one that GEARS makes and
the paper used. It therefore draws from NumPy's legacy generator, in a state of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBGROUPS = ("unseen_single", "combo_seen0", "combo_seen1", "combo_seen2")
CONTROL_WORD = "ctrl"


@dataclass(frozen=True)
class ConditionSplit:
    """Conditions of each part, in the order given, and the subgroup of every test condition."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    subgroup: dict[str, str]


def simulation_split(
    conditions: Sequence[str],
    *,
    seed: int,
    gene_fraction: float = 0.75,
    pair_fraction: float = 0.75,
    valid_fraction: float = 0.1,
) -> ConditionSplit:
    """Divide perturbed conditions so that some genes, and some pairs of seen genes, are unseen.

    A share of the perturbed genes is seen. Single perturbations of seen genes, and a share of the
    pairs of two seen genes, are for training; everything else is for the test. The same rule,
    applied again to the training conditions, sets the validation conditions apart.

    Parameters
    ----------
    conditions
        Names as GEARS writes them, control excluded: `A+ctrl`, `ctrl+A` or `A+B`. The order of two
        genes decides how names sort, and so which pairs are drawn.
    seed
        The published experiments use 1.
    gene_fraction, pair_fraction
        Shares that are seen.
    valid_fraction
        One minus the shares with which the training conditions are divided again.

    Returns
    -------
    The subgroup of a test condition is `unseen_single`, or `combo_seen0`, `combo_seen1` or
    `combo_seen2` by the number of its genes that are seen.

    References
    ----------
    Roohani et al., Nat Biotechnol 2024, doi:10.1038/s41587-023-01905-6, "Data splits".
    """
    outer = _divide(list(conditions), seed, gene_fraction, pair_fraction)
    train = [name for name in conditions if name not in outer]
    inner = _divide(train, seed, 1 - valid_fraction, 1 - valid_fraction)
    return ConditionSplit(
        train=tuple(name for name in train if name not in inner),
        valid=tuple(name for name in train if name in inner),
        test=tuple(name for name in conditions if name in outer),
        subgroup=outer,
    )


def _divide(
    conditions: list[str], seed: int, gene_fraction: float, pair_fraction: float
) -> dict[str, str]:
    """Return the conditions that are held out, each with its subgroup."""
    genes = {name: genes_of(name) for name in conditions}
    every = np.unique([gene for found in genes.values() for gene in found])
    draw = np.random.RandomState(seed)
    seen = set(draw.choice(every, int(len(every) * gene_fraction), replace=False))
    n_seen = {name: len(seen.intersection(found)) for name, found in genes.items()}
    singles = [name for name in conditions if len(genes[name]) == 1]
    pairs = [name for name in conditions if len(genes[name]) > 1]
    held = {name: "unseen_single" for name in singles if not n_seen[name]}
    held |= {name: f"combo_seen{n_seen[name]}" for name in pairs if n_seen[name] < 2}
    whole = np.unique([name for name in pairs if n_seen[name] > 1])
    # The state is set anew before pairs are drawn, as in GEARS.
    draw = np.random.RandomState(seed)
    n_kept = int(len(whole) * pair_fraction)
    kept = set(draw.choice(whole, n_kept, replace=False)) if n_kept else set()
    return held | {name: "combo_seen2" for name in whole.tolist() if name not in kept}


def genes_of(condition: str) -> list[str]:
    """Return the genes of a condition, `A+ctrl` and `A` alike; none for control."""
    parts = condition.split("+")
    return [part for part in parts if part not in {CONTROL_WORD, "control"}]
