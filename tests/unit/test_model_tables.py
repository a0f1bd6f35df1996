"""Shortcuts for inference give what the plain network gives."""

from __future__ import annotations

import pytest
import torch

from scgpt.errors import ConfigError, DataError
from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.model.tabulated import tabulated

HEADS = ("gep", "gepc", "cls", "cell_embedding")


def build(**options: object) -> ScGPT:
    config = ScGPTConfig(
        n_tokens=30, pad_id=27, d_model=32, n_heads=4, n_layers=2, d_ff=24,
        gepc="inner product", n_classes=3, **options,
    )  # fmt: skip
    return ScGPT(config).eval()


def cells() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 27, (4, 9), generator=generator)
    values = torch.randint(-1, 51, (4, 9), generator=generator).float()
    padding = torch.arange(9) >= torch.tensor([9, 5, 7, 9])[:, None]
    return ids.masked_fill(padding, 27), values.masked_fill(padding, -2.0), padding


@pytest.mark.parametrize(
    "options",
    [{}, {"value_encoding": "scaling"}, {"value_encoding": "category", "pad_value": 51}],
)
@torch.no_grad()
def test_tables_change_nothing(options: dict) -> None:
    model, (ids, values, padding) = build(**options), cells()
    if options.get("value_encoding") == "category":
        values = values.masked_fill(values < 0, 51)
    plain, fast = (net(ids, values, padding, heads=HEADS) for net in (model, tabulated(model)))
    for name, tensor in plain.items():
        assert torch.allclose(fast[name], tensor, rtol=0, atol=1e-6), name


@torch.no_grad()
def test_the_cell_alone_equals_the_cell_of_the_full_pass() -> None:
    model, given = build(), cells()
    alone = model(*given, heads=("cls", "cell_embedding"))
    full = model(*given, heads=HEADS)
    for name, tensor in alone.items():
        assert torch.allclose(tensor, full[name], rtol=0, atol=1e-6), name


def test_weights_are_shared_and_the_plain_network_stays_as_it_was() -> None:
    model = build()
    encoder, names = model.gene_encoder, list(model.state_dict())
    fast = tabulated(model)
    assert fast.transformer is model.transformer
    assert fast is not model
    assert model.gene_encoder is encoder
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("value", [3.5, 51.0, -3.0, -2.5, float("nan"), float("inf"), 1e30])
@torch.no_grad()
def test_values_outside_the_table_are_refused_and_never_taken_for_others(value: float) -> None:
    ids, values, _ = cells()
    fast = tabulated(build())
    fast.value_encoder.check(values.numpy())
    clean = fast.value_encoder(values)
    values[0, 1] = value
    with pytest.raises(DataError, match=r"not among the binned values -2 to 50"):
        fast.value_encoder.check(values.numpy())
    vectors = fast.value_encoder(values)
    assert vectors[0, 1].isnan().all()
    vectors[0, 1] = clean[0, 1]
    assert torch.equal(vectors, clean)
    assert fast(ids, values)["gep"][0].isnan().all()


def test_looking_values_up_never_waits_for_the_device() -> None:
    """A tensor without data cannot be asked for numbers, as one that is still being computed."""
    encoder = tabulated(build()).value_encoder.to("meta")
    values = torch.empty(2, 3, device="meta")
    assert encoder(values).shape == (2, 3, 32)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool((values == 0).all())


def test_tables_are_for_inference() -> None:
    with pytest.raises(ConfigError, match=r"model\.eval\(\)"):
        tabulated(build().train())
