from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse

from scgpt.errors import DataError
from scgpt.training.config import TrainingConfig
from scgpt.training.perturbation import (
    ConditionScores,
    PairedCells,
    PerturbationBatches,
    PerturbationLoss,
    pair_with_controls,
)

N_MEASURED, N_EXTRA = 12, 2


@pytest.fixture(scope="module")
def cells():
    """Return 10 pairs on 12 measured genes and 2 others; cell i perturbs gene i, 3 also gene 12."""
    rng = np.random.default_rng(0)
    inputs, targets = (rng.poisson(1.0, (10, N_MEASURED)).astype(np.float32) for _ in range(2))
    flagged = [np.array([i, *([12] if i == 3 else [])]) for i in range(10)]
    flagged[9] = np.array([], dtype=np.intp)
    return PairedCells(
        inputs=sparse.csr_matrix(inputs),
        targets=sparse.csr_matrix(targets),
        flagged=flagged,
        gene_ids=np.arange(N_MEASURED + N_EXTRA, dtype=np.int32) + 100,
    )


class Echo(torch.nn.Module):
    """Answers 2 * input + 3 * flag + token id - 100."""

    def forward(self, ids, values, padding, *, perturbation_flags_BL, heads):
        assert heads == ("gep",)
        return {"gep": 2 * values + 3 * perturbation_flags_BL + ids - 100}


def test_a_batch_holds_control_values_flags_and_targets(cells):
    batch = PerturbationBatches(cells, batch_size=4).batch(np.array([2, 9]), np.arange(14))
    # No cell of this batch perturbs an unmeasured gene: they are not fed at all.
    assert batch.gene_ids_BS.tolist() == [list(range(100, 112))] * 2
    assert np.array_equal(batch.values_BS, cells.inputs[[2, 9]].toarray())
    assert np.array_equal(batch.targets_BS, cells.targets[[2, 9]].toarray())
    assert batch.flags_BS.sum(dim=1).tolist() == [1, 0]
    assert batch.flags_BS[0, 2] == 1
    assert batch.measured_BS.all()
    assert batch.padding_BS is None
    assert batch.n_cells == 2


def test_an_unmeasured_gene_is_a_token_where_it_is_perturbed_only(cells):
    batch = PerturbationBatches(cells, batch_size=4).batch(np.array([3, 4]), np.arange(14))
    assert batch.gene_ids_BS[0].tolist() == list(range(100, 113))
    assert batch.padding_BS.nonzero().tolist() == [[1, 12]]
    assert batch.flags_BS[0].nonzero().flatten().tolist() == [3, 12]
    assert batch.values_BS[:, 12].tolist() == [0, 0]
    assert batch.measured_BS[:, :12].all()
    assert not batch.measured_BS[:, 12].any()
    subset = PerturbationBatches(cells, batch_size=4).batch(np.array([3, 4]), np.array([1, 4, 12]))
    assert subset.gene_ids_BS[1].tolist() == [101, 104, 112]
    assert np.array_equal(subset.targets_BS[:, :2], cells.targets[[3, 4]].toarray()[:, [1, 4]])


def test_the_loss_is_the_mean_over_measured_genes(cells):
    batch = PerturbationBatches(cells, batch_size=4).batch(np.array([3, 4]), np.arange(14))
    loss, values = PerturbationLoss()(Echo(), batch)
    flags = np.zeros((2, 12))
    flags[0, 3] = flags[1, 4] = 1
    predicted = 2 * cells.inputs[[3, 4]].toarray() + 3 * flags + np.arange(12)
    expected = np.square(predicted - cells.targets[[3, 4]].toarray()).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(values["gep"]) == float(loss)


def test_perturbed_genes_are_kept_or_drawn_like_others(cells):
    kept = PerturbationBatches(cells, batch_size=3, n_genes=6, shuffle=True, seed=1)
    drawn = PerturbationBatches(cells, batch_size=3, n_genes=6, keep_perturbed=False, seed=1)
    seen = []
    for epoch in range(60):
        for number, rows in enumerate(kept.order(epoch)):
            genes = kept.genes_of_step(rows, epoch, number)
            assert len(genes) == len(set(genes)) == 6
            assert set(np.concatenate([cells.flagged[row] for row in rows])) <= set(genes)
        for number, rows in enumerate(drawn.order(epoch)):
            genes = drawn.genes_of_step(rows, epoch, number)
            assert len(set(genes)) == 6
            seen += [gene in genes for row in rows for gene in cells.flagged[row]]
    assert np.mean(seen) == pytest.approx(6 / 14, abs=0.06)
    # More perturbed genes than places: all of them all the same.
    few = PerturbationBatches(cells, batch_size=10, n_genes=2)
    assert few.genes_of_step(np.arange(10), 0, 0).tolist() == [*range(9), 12]


def test_epochs_are_complete_repeatable_and_can_be_entered_anywhere(cells):
    batches = PerturbationBatches(cells, batch_size=4, n_genes=5, shuffle=True, seed=3)
    assert len(batches) == 3
    orders = [np.concatenate(batches.order(epoch)) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(10)) for order in orders)
    assert all(one.tolist() != two.tolist() for one, two in itertools.pairwise(orders))
    whole = list(batches.epoch(2))
    for start in (1, 2):
        for one, two in zip(whole[start:], batches.epoch(2, start=start), strict=True):
            assert torch.equal(one.gene_ids_BS, two.gene_ids_BS)
            assert torch.equal(one.targets_BS, two.targets_BS)


def test_the_fingerprint_sees_every_option_and_the_data(cells):
    options = {"batch_size": 4, "n_genes": 5, "keep_perturbed": True, "shuffle": True, "seed": 0}
    changed = [{}, {"batch_size": 5}, {"n_genes": 6}, {"keep_perturbed": False}, {"seed": 1}]
    found = {PerturbationBatches(cells, **{**options, **change}).fingerprint for change in changed}
    assert len(found) == len(changed)
    flagged = [cells.flagged[1], *cells.flagged[1:]]
    other = PairedCells(
        inputs=cells.inputs, targets=cells.targets, flagged=flagged, gene_ids=cells.gene_ids
    )
    assert other.fingerprint() != cells.fingerprint()
    with pytest.raises(DataError, match="no cells"):
        PerturbationBatches(
            PairedCells(
                inputs=cells.inputs[:0],
                targets=cells.targets[:0],
                flagged=[],
                gene_ids=cells.gene_ids,
            ),
            batch_size=2,
        )


def test_conditions_are_scored_by_their_means(cells):
    conditions = np.array(["b", "a", "b", "a", "c", "c", "a", "b", "c", "c"])
    control = np.linspace(0, 1, N_MEASURED)
    scores = ConditionScores(
        cells, conditions, control, batch_size=3, device="cpu", config=TrainingConfig()
    )
    found = scores(Echo())
    flags = np.zeros((10, N_MEASURED))
    flags[np.arange(9), np.arange(9)] = 1
    predicted = 2 * cells.inputs.toarray() + 3 * flags + np.arange(N_MEASURED)
    rows = [np.flatnonzero(conditions == name) for name in "abc"]
    means = [(predicted[r].mean(axis=0), cells.targets[r].toarray().mean(axis=0)) for r in rows]
    assert found["loss"] == pytest.approx(np.mean([np.square(p - t).mean() for p, t in means]))
    raw = np.mean([np.corrcoef(p, t)[0, 1] for p, t in means])
    assert found["pearson"] == pytest.approx(raw)
    delta = np.mean([np.corrcoef(p - control, t - control)[0, 1] for p, t in means])
    assert found["pearson_delta"] == pytest.approx(delta)


def test_no_change_counts_as_zero(cells):
    class Constant(torch.nn.Module):
        def forward(self, ids, values, padding, **_):
            return {"gep": torch.zeros_like(values)}

    scores = ConditionScores(
        cells,
        np.array(["a"] * 10),
        np.zeros(N_MEASURED),
        batch_size=4,
        device="cpu",
        config=TrainingConfig(),
    )
    assert scores(Constant())["pearson_delta"] == 0


def test_a_pair_follows_from_name_and_seed_alone():
    names = [f"cell{i}" for i in range(300)]
    pairs = pair_with_controls(names, 7, seed=0)
    assert np.array_equal(pairs[::-1], pair_with_controls(names[::-1], 7, seed=0))
    assert set(pairs.tolist()) == set(range(7))
    assert not np.array_equal(pairs, pair_with_controls(names, 7, seed=1))
