"""The three promises of generation, and its bookkeeping."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scgpt.errors import ConfigError, DataError
from scgpt.model.config import ScGPTConfig
from scgpt.model.generate import generate
from scgpt.model.scgpt import ScGPT

PAD, CLS, N_GENES = 40, 41, 40
ORDERS = ("confidence", "attention")


def build() -> ScGPT:
    config = ScGPTConfig(
        n_tokens=43, pad_id=PAD, d_model=16, n_heads=4, n_layers=2, d_ff=24, generative=True
    )
    model = ScGPT(config, seed=1).eval()
    # A fresh network predicts nearly the same for all genes; spread its predictions out.
    with torch.no_grad():
        model.gep.expression[4].weight.mul_(60)
        model.gep.expression[4].bias.fill_(20)
    return model


MODEL = build()


@st.composite
def cells(draw: st.DrawFn) -> tuple[list[int], list[float], list[int]]:
    """Draw a prompt (genes and bins) and disjoint unknown genes."""
    genes = draw(st.permutations(range(N_GENES)))
    n_known, n_unknown = draw(st.integers(0, 8)), draw(st.integers(1, 9))
    values = draw(st.lists(st.integers(0, 50), min_size=n_known, max_size=n_known))
    return genes[:n_known], [float(v) for v in values], genes[n_known : n_known + n_unknown]


def run(known: list[int], values: list[float], unknown: list[int], **options: object):
    ids, numbers = torch.tensor([[CLS, *known]]), torch.tensor([[-2.0, *values]])
    return generate(MODEL, ids, numbers, None, torch.tensor([unknown]), **options)


@settings(max_examples=40, deadline=None)
@given(cell=cells(), n_rounds=st.integers(1, 6), order=st.sampled_from(ORDERS))
def test_each_gene_is_revealed_exactly_once(cell, n_rounds: int, order: str) -> None:
    known, values, unknown = cell
    result = run(known, values, unknown, n_rounds=n_rounds, order=order)
    rounds = result.rounds_BU[0]
    assert bool(((rounds >= 0) & (rounds < n_rounds)).all())
    counts = torch.bincount(rounds, minlength=n_rounds).cumsum(0).tolist()
    assert counts == [math.ceil(len(unknown) * (k + 1) / n_rounds) for k in range(n_rounds)]


@settings(max_examples=40, deadline=None)
@given(
    cell=cells(),
    n_rounds=st.integers(1, 4),
    order=st.sampled_from(ORDERS),
    random=st.randoms(use_true_random=False),
)
def test_the_order_of_genes_does_not_matter(cell, n_rounds: int, order: str, random) -> None:
    known, values, unknown = cell
    straight = run(known, values, unknown, n_rounds=n_rounds, order=order)
    prompt = list(zip(known, values, strict=True))
    random.shuffle(prompt)
    places = list(range(len(unknown)))
    random.shuffle(places)
    shuffled = run(
        [gene for gene, _ in prompt],
        [value for _, value in prompt],
        [unknown[place] for place in places],
        n_rounds=n_rounds,
        order=order,
    )
    assert torch.equal(straight.values_BU[0, places], shuffled.values_BU[0])
    assert torch.equal(straight.rounds_BU[0, places], shuffled.rounds_BU[0])


@settings(max_examples=40, deadline=None)
@given(cell=cells())
def test_an_unknown_gene_never_sees_another_unknown_gene(cell) -> None:
    known, values, unknown = cell
    together = run(known, values, unknown).values_BU[0]
    for place, gene in enumerate(unknown):
        alone = run(known, values, [gene]).values_BU[0, 0]
        assert float((together[place] - alone).abs()) < 1e-4


@settings(max_examples=25, deadline=None)
@given(cell=cells(), n_rounds=st.integers(2, 4), order=st.sampled_from(ORDERS))
def test_later_rounds_see_what_was_revealed_before_and_nothing_else(
    cell, n_rounds: int, order: str
) -> None:
    """Each round equals a single round whose prompt holds the earlier predictions."""
    known, values, unknown = cell
    result = run(known, values, unknown, n_rounds=n_rounds, order=order)
    for index in range(n_rounds):
        earlier = (result.rounds_BU[0] < index).nonzero().flatten().tolist()
        now = (result.rounds_BU[0] == index).nonzero().flatten().tolist()
        if not now:
            continue
        bins = result.values_BU[0].round().clamp(0, 50).tolist()
        once = run(
            [*known, *(unknown[place] for place in earlier)],
            [*values, *(bins[place] for place in earlier)],
            [unknown[place] for place in now],
        )
        assert torch.allclose(once.values_BU[0], result.values_BU[0, now], atol=1e-3)


def test_cells_of_different_size_share_a_batch() -> None:
    ids = torch.tensor([[CLS, 1, 2, 3], [CLS, 4, PAD, PAD]])
    values = torch.tensor([[-2.0, 5.0, 6.0, 7.0], [-2.0, 8.0, -2.0, -2.0]])
    unknown = torch.tensor([[10, 11, 12, 13, 14], [20, PAD, 21, PAD, PAD]])
    both = generate(MODEL, ids, values, ids == PAD, unknown, n_rounds=2)
    one = generate(MODEL, ids[:1], values[:1], None, unknown[:1], n_rounds=2)
    two = generate(MODEL, ids[1:, :2], values[1:, :2], None, torch.tensor([[20, 21]]), n_rounds=2)
    assert torch.allclose(both.values_BU[:1], one.values_BU, atol=1e-4)
    assert torch.allclose(both.values_BU[1, [0, 2]], two.values_BU[0], atol=1e-4)
    assert torch.equal(both.rounds_BU[1, [0, 2]], two.rounds_BU[0])
    assert both.rounds_BU[1, [1, 3, 4]].tolist() == [-1, -1, -1]
    assert not both.values_BU[1, [1, 3, 4]].any()
    assert torch.allclose(both.cell_embedding_BD[1:], two.cell_embedding_BD, atol=1e-5)


def test_one_round_is_the_forward_pass_of_training() -> None:
    ids, values = torch.tensor([[CLS, 1, 2]]), torch.tensor([[-2.0, 5.0, 6.0]])
    unknown = torch.tensor([[10, 12]])
    expected = MODEL(ids, values, unknown_gene_ids_BU=unknown)["gep_unknown"]
    assert torch.allclose(
        generate(MODEL, ids, values, None, unknown).values_BU, expected, atol=1e-4
    )


@pytest.mark.parametrize("order", ORDERS)
def test_a_cell_prompt_needs_no_genes_and_makes_a_difference(order: str) -> None:
    prompts = [torch.full((1, 16), value) for value in (0.5, -0.5)]
    first, second = (
        run([], [], [1, 2, 3], n_rounds=2, order=order, cell_prompt_BD=prompt).values_BU
        for prompt in prompts
    )
    assert not torch.allclose(first, second)


def test_genes_nearest_to_a_bin_come_first() -> None:
    at_once = run([1], [5.0], list(range(10, 20))).values_BU[0]
    rounds = run([1], [5.0], list(range(10, 20)), n_rounds=5).rounds_BU[0]
    first = (at_once - at_once.round()).abs().argsort()[:2]
    assert set(first.tolist()) == set((rounds == 0).nonzero().flatten().tolist())


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(DataError, match="gene id 3 occurs twice"):
        run([3], [1.0], [3, 4])
    with pytest.raises(DataError, match="gene id 4 occurs twice"):
        run([3], [1.0], [4, 4])
    with pytest.raises(ConfigError, match="order 'random'"):
        run([3], [1.0], [4], order="random")
    with pytest.raises(ConfigError, match="n_rounds 0"):
        run([3], [1.0], [4], n_rounds=0)
    MODEL.train()
    try:
        with pytest.raises(ConfigError, match="evaluation mode"):
            run([3], [1.0], [4])
    finally:
        MODEL.eval()
