"""The simulation split is the one GEARS makes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scgpt.data.perturbation_splits import SUBGROUPS, genes_of, simulation_split


def screen(n_genes=20, n_pairs=40, seed=0):
    rng = np.random.default_rng(seed)
    genes = [f"G{i:02d}" for i in range(n_genes)]
    every = list(itertools.combinations(genes, 2))
    chosen = rng.choice(len(every), n_pairs, replace=False)
    pairs = [
        f"{a}+{b}" if i % 3 else f"{b}+{a}" for i, (a, b) in enumerate(every[j] for j in chosen)
    ]
    singles = [f"{gene}+ctrl" if i % 2 else f"ctrl+{gene}" for i, gene in enumerate(genes)]
    return [*singles, *pairs]


@pytest.mark.parametrize("seed", [1, 2, 7])
@pytest.mark.parametrize(("n_genes", "n_pairs"), [(20, 40), (12, 0), (24, 120)])
def test_is_the_split_of_gears(seed, n_genes, n_pairs):
    anndata = pytest.importorskip("anndata")
    splitter = pytest.importorskip("gears.data_utils").DataSplitter
    conditions = screen(n_genes, n_pairs)
    state = np.random.get_state()  # noqa: NPY002
    names = [*conditions, "ctrl"]
    adata = anndata.AnnData(np.zeros((len(names), 1)))
    adata.obs["condition"] = names
    divided, groups = splitter(adata, split_type="simulation").split_data(
        seed=seed, train_gene_set_size=0.75, combo_seen2_train_frac=0.75
    )
    np.random.set_state(state)  # noqa: NPY002 - GEARS seeds the global generator
    expected = dict(zip(divided.obs["condition"], divided.obs["split"], strict=True))
    found = simulation_split(conditions, seed=seed)
    for part, theirs in (("train", "train"), ("valid", "val"), ("test", "test")):
        wanted = {name for name in conditions if expected[name] == theirs}
        assert set(getattr(found, part)) == wanted, part
    for subgroup in SUBGROUPS:
        ours = {name for name, group in found.subgroup.items() if group == subgroup}
        assert ours == set(groups["test_subgroup"][subgroup])


def test_leaves_the_global_generator_alone_and_ignores_order():
    conditions = screen()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = simulation_split(conditions, seed=3)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    second = simulation_split(conditions[::-1], seed=3)
    assert set(first.test) == set(second.test)
    assert set(first.valid) == set(second.valid)
    assert first.subgroup == second.subgroup


def test_every_condition_has_one_part():
    conditions = screen()
    found = simulation_split(conditions, seed=1)
    parts = [*found.train, *found.valid, *found.test]
    assert sorted(parts) == sorted(conditions)
    assert set(found.subgroup) == set(found.test)


def test_genes_of_a_condition():
    assert genes_of("A+ctrl") == genes_of("ctrl+A") == genes_of("A") == ["A"]
    assert genes_of("B+A") == ["B", "A"]
    assert genes_of("control") == genes_of("ctrl") == []
