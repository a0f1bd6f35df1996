"""Who sees whom: padding, known genes, unknown genes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from scgpt.model.attention import Attention
from scgpt.model.config import ScGPTConfig
from scgpt.model.transformer import Transformer

D_MODEL, N_HEADS = 16, 4


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    layer = Attention(D_MODEL, N_HEADS, dropout=0.0)
    torch.nn.init.normal_(layer.qkv.bias)
    torch.nn.init.normal_(layer.out.bias)
    return layer.eval()


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padding(lengths: list[int], n_tokens: int) -> torch.Tensor:
    return torch.arange(n_tokens) >= torch.tensor(lengths)[:, None]


def by_hand(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """Attention of one unpadded cell, head by head."""
    q, k, v = (x @ attention.qkv.weight.T + attention.qkv.bias).split(D_MODEL, dim=-1)
    width = D_MODEL // N_HEADS
    heads = []
    for head in range(N_HEADS):
        part = slice(head * width, (head + 1) * width)
        weights = (q[:, part] @ k[:, part].T / width**0.5).softmax(dim=-1)
        heads.append(weights @ v[:, part])
    return torch.cat(heads, dim=-1) @ attention.out.weight.T + attention.out.bias


def test_attention_equals_the_formula(attention: Attention) -> None:
    x = draw(1, 6, D_MODEL)
    assert torch.allclose(attention(x)[0][0], by_hand(attention, x[0]), atol=1e-6)


def test_padding_is_never_seen(attention: Attention) -> None:
    x, pads = draw(2, 6, D_MODEL), padding([6, 4], 6)
    changed = x.clone()
    changed[pads] = 1e3
    before, after = attention(x, pads)[0], attention(changed, pads)[0]
    assert torch.equal(before[~pads], after[~pads])
    shorter = attention(x[1:, :4])[0]
    assert torch.allclose(before[1, :4], shorter[0], atol=1e-6)


def test_unknown_tokens_see_known_ones_and_themselves_only(attention: Attention) -> None:
    known, unknown, pads = draw(2, 5, D_MODEL), draw(2, 3, D_MODEL, seed=2), padding([5, 3], 5)
    _, before = attention(known, pads, unknown)
    for other in range(3):
        changed = unknown.clone()
        changed[:, other] += 5.0
        _, after = attention(known, pads, changed)
        same = [index for index in range(3) if index != other]
        assert torch.equal(before[:, same], after[:, same])
        assert not torch.allclose(before[:, other], after[:, other])
    seen = known.clone()
    seen[:, 1] += 5.0
    assert not torch.allclose(attention(seen, pads, unknown)[1], before)
    hidden = known.clone()
    hidden[pads] += 5.0
    assert torch.equal(attention(hidden, pads, unknown)[1], before)


def test_known_tokens_never_see_unknown_ones(attention: Attention) -> None:
    known, unknown = draw(2, 5, D_MODEL), draw(2, 3, D_MODEL, seed=2)
    with_unknown, without = attention(known, None, unknown)[0], attention(known)[0]
    assert torch.equal(with_unknown, without)


def test_generation_equals_one_call_with_the_mask_of_the_paper(attention: Attention) -> None:
    """A dense mask over all tokens, output projection on the known ones only."""
    known, unknown, pads = draw(2, 5, D_MODEL), draw(2, 3, D_MODEL, seed=2), padding([5, 3], 5)
    q, k, v = attention.project(torch.cat([known, unknown], dim=1))
    allowed = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    allowed[:, :, :, :5] = ~pads[:, None, None, :]
    allowed[:, :, range(5, 8), range(5, 8)] = True
    joined = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
    ours_known, ours_unknown = attention(known, pads, unknown)
    assert torch.allclose(ours_known[~pads], attention.out(joined[:, :5])[~pads], atol=1e-6)
    assert torch.allclose(ours_unknown, joined[:, 5:], atol=1e-6)


def test_fewer_queries_are_a_part_of_all(attention: Attention) -> None:
    x, pads = draw(2, 6, D_MODEL), padding([6, 4], 6)
    some = attention(x, pads, query_BQD=x[:, [0, 3]])[0]
    assert torch.allclose(some, attention(x, pads)[0][:, [0, 3]], atol=1e-6)


def test_raw_scores_are_query_key_products(attention: Attention) -> None:
    x = draw(1, 4, D_MODEL)
    q, k, _ = (x[0] @ attention.qkv.weight.T + attention.qkv.bias).split(D_MODEL, dim=-1)
    width = D_MODEL // N_HEADS
    expected = q[:, :width] @ k[:, :width].T
    assert torch.allclose(attention.raw_scores(x)[0, 0], expected, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    attention = Attention(D_MODEL, N_HEADS, dropout=0.5)
    known, unknown = draw(1, 8, D_MODEL), draw(1, 4, D_MODEL, seed=2)
    attention.train()
    first, second = attention(known, None, unknown), attention(known, None, unknown)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    attention.eval()
    first, second = attention(known, None, unknown), attention(known, None, unknown)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def small_transformer() -> Transformer:
    torch.manual_seed(0)
    config = ScGPTConfig(n_tokens=1, pad_id=0, d_model=16, n_heads=4, n_layers=3, d_ff=24)
    return Transformer(config).eval()


def test_the_order_of_genes_does_not_matter() -> None:
    transformer, x, pads = small_transformer(), draw(2, 6, 16), padding([6, 4], 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    straight = transformer(x, pads)[0]
    shuffled = transformer(x[:, order], pads[:, order])[0]
    assert torch.allclose(straight[:, order], shuffled, atol=1e-5)


def test_unknown_tokens_stay_apart_through_all_layers() -> None:
    transformer, known, unknown = small_transformer(), draw(1, 5, 16), draw(1, 4, 16, seed=2)
    known_out, together = transformer(known, None, unknown)
    assert torch.equal(known_out, transformer(known)[0])
    for index in range(4):
        alone = transformer(known, None, unknown[:, index : index + 1])[1]
        assert torch.allclose(together[:, index], alone[:, 0], atol=1e-6)


def test_layers_can_start_equal() -> None:
    transformer = small_transformer()
    first, last = transformer.layers[0].linear_1.weight, transformer.layers[2].linear_1.weight
    assert not torch.equal(first, last)
    transformer.start_layers_equal()
    assert torch.equal(first, last)
    assert first.data_ptr() != last.data_ptr()
