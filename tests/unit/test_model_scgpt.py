"""The whole network: what it returns, what it refuses, what it must not depend on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from scgpt.errors import ConfigError
from scgpt.model.config import ScGPTConfig
from scgpt.model.perturbation import predict_perturbation
from scgpt.model.scgpt import HEADS, ScGPT

SIZES = {"n_tokens": 30, "pad_id": 27, "d_model": 16, "n_heads": 4, "n_layers": 2, "d_ff": 24}
CLS = 28


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(**options: object) -> ScGPT:
    return ScGPT(ScGPTConfig(**(SIZES | options))).eval()


def cells(n_tokens: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.stack([torch.randperm(27, generator=generator)[:n_tokens] for _ in range(3)])
    values = torch.randint(1, 51, ids.shape, generator=generator).float()
    padding = torch.arange(n_tokens) >= torch.tensor([n_tokens, n_tokens - 2, n_tokens])[:, None]
    ids[:, 0], values[:, 0] = CLS, 0.0
    return ids.masked_fill(padding, 27), values.masked_fill(padding, -2.0), padding


FULL = {
    "gepc": "inner product",
    "n_classes": 5,
    "n_batch_labels": 2,
    "dar": True,
    "explicit_zero": True,
}
BATCH = torch.tensor([0, 1, 1])


def test_each_head_returns_its_shape() -> None:
    output = build(**FULL)(*cells(), batch_labels_B=BATCH, heads=HEADS)
    assert {name: tuple(tensor.shape) for name, tensor in output.items()} == {
        "gep": (3, 7),
        "gep_zero_prob": (3, 7),
        "gepc": (3, 7),
        "gepc_zero_prob": (3, 7),
        "cls": (3, 5),
        "dar": (3, 2),
        "cell_embedding": (3, 16),
    }


@pytest.mark.parametrize("head", HEADS)
def test_only_the_heads_asked_for_are_computed(head: str) -> None:
    model = build(**FULL)
    ran = []
    for name in ("gep", "gepc", "cls", "dar"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    output = model(*cells(), batch_labels_B=BATCH, heads=(head,))
    assert ran == ([] if head == "cell_embedding" else [head])
    assert {name.removesuffix("_zero_prob") for name in output} == {head}
    together = model(*cells(), batch_labels_B=BATCH, heads=HEADS)
    for name, tensor in output.items():
        assert torch.allclose(tensor, together[name], atol=1e-6)


def test_the_last_layer_is_computed_for_the_cell_only_when_that_is_enough() -> None:
    model = build(**FULL)
    shapes = []
    model.transformer.layers[-1].register_forward_hook(
        lambda _module, _inputs, output: shapes.append(output[0].shape[1])
    )
    model(*cells(), batch_labels_B=BATCH, heads=("cls", "dar", "cell_embedding"))
    model(*cells(), batch_labels_B=BATCH, heads=("cls", "gep"))
    assert shapes == [1, 7]


def test_gradients_are_those_of_the_full_computation() -> None:
    model = build(**FULL)
    gradients = []
    for heads in (("cls",), ("cls", "gep")):
        model.zero_grad()
        model(*cells(), batch_labels_B=BATCH, heads=heads)["cls"].square().sum().backward()
        gradients.append([p.grad.clone() for p in model.transformer.parameters()])
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(*gradients, strict=True))


def test_padding_does_not_change_a_cell() -> None:
    model, (ids, values, padding) = build(**FULL), cells()
    output = model(ids, values, padding, batch_labels_B=BATCH, heads=HEADS)
    alone = model(ids[1:2, :5], values[1:2, :5], batch_labels_B=BATCH[1:2], heads=HEADS)
    for name, tensor in alone.items():
        whole = output[name][1:2, :5] if tensor.shape == (1, 5) and name != "cls" else output[name]
        whole = whole if len(whole) == 1 else whole[1:2]
        assert torch.allclose(tensor, whole, atol=1e-5), name


def test_the_order_of_genes_does_not_matter() -> None:
    model, (ids, values, padding) = build(**FULL), cells()
    order = torch.tensor([0, 6, 3, 1, 5, 2, 4])
    straight = model(ids, values, padding, batch_labels_B=BATCH, heads=HEADS)
    shuffled = model(
        ids[:, order], values[:, order], padding[:, order], batch_labels_B=BATCH, heads=HEADS
    )
    assert torch.allclose(straight["cell_embedding"], shuffled["cell_embedding"], atol=1e-5)
    assert torch.allclose(straight["gepc"][:, order], shuffled["gepc"], atol=1e-4)


def test_weighted_pooling_by_hand() -> None:
    model, (ids, values, padding) = build(cell_embedding="w-pool"), cells()
    hidden = model.encode(ids, values, padding)
    pooled = (hidden * values.unsqueeze(-1)).sum(dim=1)
    expected = pooled / pooled.norm(dim=1, keepdim=True)
    output = model(ids, values, padding, heads=("cell_embedding",))["cell_embedding"]
    assert torch.allclose(output, expected, atol=1e-6)


def test_same_seed_same_weights_and_the_global_generator_stays() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    one, two, other = (ScGPT(ScGPTConfig(**SIZES), seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.gene_encoder.table.weight, other.gene_encoder.table.weight)


def test_batch_labels_reach_the_decoders_but_not_the_cell() -> None:
    model = build(**FULL)
    one = model(*cells(), batch_labels_B=torch.tensor([0, 0, 0]), heads=HEADS)
    two = model(*cells(), batch_labels_B=torch.tensor([1, 1, 1]), heads=HEADS)
    for name in ("cell_embedding", "cls", "dar"):
        assert torch.equal(one[name], two[name])
    for name in ("gep", "gep_zero_prob", "gepc", "gepc_zero_prob"):
        assert not torch.allclose(one[name], two[name])


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"n_modalities": 3, "modality_pad_id": 2}, {"modality_ids_BL"}),
        ({"n_batch_labels": 2}, {"batch_labels_B"}),
        (
            {"n_batch_labels": 2, "n_modalities": 3, "modality_pad_id": 2},
            {"batch_labels_B", "modality_ids_BL"},
        ),
    ],
)
def test_multiomic_labels_enter_both_sides_of_gepc(options: dict, given: set[str]) -> None:
    model = build(multiomic=True, gepc="inner product", **options)
    ids, values, padding = cells()
    labels = {
        "batch_labels_B": BATCH,
        "modality_ids_BL": (ids % 2).masked_fill(padding, 2),
    }
    labels = {name: tensor for name, tensor in labels.items() if name in given}
    assert model.gepc.gene_query.weight.shape == (32, 32)
    output = model(ids, values, padding, **labels, heads=("gep", "gepc", "cell_embedding"))
    token, cell = 0, 0
    if "batch_labels_B" in given:
        cell = model.batch_encoder(BATCH)
        token = cell.unsqueeze(1)
    if "modality_ids_BL" in given:
        modality = model.modality_encoder(labels["modality_ids_BL"])
        token, cell = token + modality, cell + modality[:, 0]
    token = token.expand(-1, 7, -1)
    hidden = model.encode(ids, values, padding)
    gep = model.gep(torch.cat([hidden, token], dim=-1), None)[0]
    gepc = model.gepc(
        torch.cat([hidden[:, 0], cell], dim=-1),
        torch.cat([model.gene_encoder(ids), token], dim=-1),
    )[0]
    assert torch.allclose(output["gep"], gep, atol=1e-6)
    assert torch.allclose(output["gepc"], gepc, atol=1e-4)


def test_generation_leaves_known_genes_alone_and_unknown_ones_apart() -> None:
    model = build(generative=True, gepc="inner product")
    ids, values, padding = cells()
    unknown = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    heads = ("gep", "gepc", "cell_embedding")
    plain = model(ids, values, padding, heads=heads)
    output = model(ids, values, padding, unknown_gene_ids_BU=unknown, heads=heads)
    for name in heads:
        assert torch.allclose(output[name], plain[name], atol=1e-6)
    assert output["gep_unknown"].shape == output["gepc_unknown"].shape == (3, 3)
    alone = model(ids, values, padding, unknown_gene_ids_BU=unknown[:, 1:2], heads=heads)
    assert torch.allclose(output["gep_unknown"][:, 1:2], alone["gep_unknown"], atol=1e-6)


POSITIONS = torch.tensor([[1, 4, 0], [3, 1, 0], [5, 6, 2]])


@pytest.mark.parametrize(
    "options",
    [
        FULL,
        {"cell_embedding": "avg-pool", "gepc": "inner product", "n_batch_labels": 2},
        {"cell_embedding": "w-pool", "gepc": "inner product, detach", "input_norm": "batchnorm"},
        {"gepc": "concat query"},
        {"gepc": "sum query", "gep": "affine", "decoder_adaptive_bias": True},
        {"multiomic": True, "n_modalities": 3, "n_batch_labels": 2, "gepc": "inner product"},
        {"generative": True, "gepc": "inner product", "n_batch_labels": 2},
    ],
)
def test_predictions_at_some_positions_are_those_of_the_full_pass(options: dict) -> None:
    """Numbers and gradients; what is not asked for is not computed, not merely left out."""
    model, (ids, values, padding) = build(**options), cells()
    heads = tuple(
        head for head in HEADS if head == "cell_embedding" or getattr(model, head) is not None
    )
    given = {
        "batch_labels_B": BATCH if model.config.n_batch_labels else None,
        "modality_ids_BL": ids % 2 if model.config.n_modalities else None,
        "unknown_gene_ids_BU": torch.tensor([[1, 2]] * 3) if model.config.generative else None,
        "heads": heads,
    }
    found, expected = {}, {}
    for output, positions in ((expected, None), (found, POSITIONS)):
        output |= model(ids, values, padding, positions_BM=positions, **given)
        for name in output:
            if positions is None and output[name].shape == ids.shape:
                output[name] = output[name].gather(1, POSITIONS)
        loss = sum((tensor**2).sum() for tensor in output.values())
        model.zero_grad()
        loss.backward()
        output |= {
            f"gradient of {name}": p.grad
            for name, p in model.named_parameters()
            if p.grad is not None
        }
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5), name


def test_nothing_is_computed_for_tokens_that_nobody_asks_for() -> None:
    model, (ids, values, padding) = build(generative=True, gepc="inner product"), cells()
    looked_up, last, decoded = [], [], []
    model.gene_encoder.register_forward_hook(lambda _, given, __: looked_up.append(given[0].shape))
    attention = model.transformer.layers[-1].attention
    attention.out.register_forward_hook(lambda _, given, __: last.append(given[0].shape))
    model.gep.register_forward_hook(lambda _, given, __: decoded.append(given[0].shape))
    unknown = torch.tensor([[1, 2], [4, 5], [7, 8]])
    heads = ("gep", "gepc")
    for positions in (None, POSITIONS, ids[:, :0]):
        model(
            ids, values, padding,
            unknown_gene_ids_BU=unknown, positions_BM=positions, heads=heads,
        )  # fmt: skip
    assert [shape[1] for shape in looked_up] == [9, 9, 9]
    assert [shape[1] for shape in last] == [7, 4, 1]
    assert [shape[1] for shape in decoded] == [9, 5, 2]


def test_a_cell_prompt_replaces_the_first_input() -> None:
    model, (ids, values, padding) = build(generative=True), cells()
    prompt = torch.ones(3, 16)
    output = model(ids, values, padding, cell_prompt_BD=prompt)["gep"]
    other_ids, other_values = ids.clone(), values.clone()
    other_ids[:, 0], other_values[:, 0] = 3, 40.0
    same = model(other_ids, other_values, padding, cell_prompt_BD=prompt)["gep"]
    assert torch.equal(output, same)
    assert not torch.allclose(output, model(ids, values, padding)["gep"])


def test_prediction_of_perturbed_profiles() -> None:
    model = build(n_perturbation_flags=3, gep="affine")
    genes = torch.tensor([27, 1, 2, 3, 4])
    control = torch.tensor([[0.0, 1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0]])
    flags = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]])
    everything = predict_perturbation(model, genes, control, flags)
    expected = model(genes.expand(2, -1), control, perturbation_flags_BL=flags)["gep"]
    assert torch.equal(everything, expected)
    some = predict_perturbation(model, genes, control, flags, genes="batch-wise")
    assert torch.equal(some != 0, torch.tensor([[False, True, False, True, False]] * 2))
    nothing = predict_perturbation(model, genes, control * 0, flags, genes="batch-wise")
    assert not nothing.any()
    with pytest.raises(ConfigError, match="'some'"):
        predict_perturbation(model, genes, control, flags, genes="some")


@pytest.mark.parametrize(
    ("options", "call", "complaint"),
    [
        ({}, {"heads": ("gepc",)}, "no 'gepc' head"),
        ({}, {"heads": ("mvc",)}, "unknown head 'mvc'"),
        ({"n_batch_labels": 2}, {}, "needs batch_labels_B"),
        ({"n_batch_labels": 2, "input_norm": "dsbn"}, {"heads": ()}, "needs batch_labels_B"),
        ({"multiomic": True, "n_modalities": 2}, {}, "needs modality_ids_BL"),
        ({"n_perturbation_flags": 3}, {}, "needs perturbation_flags_BL"),
        ({}, {"unknown_gene_ids_BU": torch.tensor([[1], [1], [1]])}, "cannot generate"),
    ],
)
def test_impossible_calls_are_refused(options: dict, call: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build(**options)(*cells(), **call)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n_heads": 3}, "16 cannot be split into 3"),
        ({"pad_id": 30}, "pad_id 30 is not a row"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"d_ff": 2.5}, "d_ff is 2.5"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"value_encoding": "binned"}, "value_encoding is 'binned'"),
        ({"gepc": "outer product"}, "gepc is 'outer product'"),
        ({"input_norm": "dsbn"}, "dsbn.*n_batch_labels"),
        ({"dar": True}, "dar needs n_batch_labels"),
        ({"n_modalities": 2}, "n_modalities needs multiomic"),
        ({"gep": "affine", "n_batch_labels": 2}, "affine GEP head cannot see"),
        ({"decoder_adaptive_bias": True}, "need gep='affine'"),
        ({"gepc": "sum query", "explicit_zero": True}, "'sum query' supports neither"),
        ({"generative": True, "multiomic": True}, "cannot be multiomic"),
        ({"value_encoding": "category", "pad_value": 90}, "pad_value 90 must be a row"),
    ],
)
def test_contradictory_options_are_refused(options: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ScGPTConfig(**(SIZES | options))


def test_config_survives_the_way_through_a_dictionary() -> None:
    config = ScGPTConfig(**SIZES, **FULL)
    assert ScGPTConfig.from_dict(config.to_dict()) == config
    assert {field.name for field in dataclasses.fields(config)} == set(config.to_dict())
    with pytest.raises(ConfigError, match="unknown model option 'embsize'"):
        ScGPTConfig.from_dict({"n_tokens": 3, "pad_id": 0, "embsize": 4})
    with pytest.raises(ConfigError, match="'pad_id' is missing"):
        ScGPTConfig.from_dict({"n_tokens": 3})
    with pytest.raises(ConfigError, match="unknown model option 'n_layer'"):
        config.replace(n_layer=3)


def test_attention_dropout_is_an_option_of_its_own() -> None:
    assert ScGPTConfig(**SIZES, dropout=0.3).attention_dropout_used == 0.3
    model = ScGPT(ScGPTConfig(**SIZES, dropout=0.3, attention_dropout=0.0))
    layer = model.transformer.layers[0]
    assert (layer.attention.dropout, layer.dropout.p) == (0.0, 0.3)
