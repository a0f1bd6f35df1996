"""Options that no stored case uses, against a second implementation made of PyTorch's own parts.

`Oracle` follows the published description with `torch.nn.TransformerEncoder`, the official tensor
names and none of our modules; each test lets it write a case folder and compares us with it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scgpt.steps.parity import compare_case

if TYPE_CHECKING:
    from pathlib import Path

D, HEADS, FF, LAYERS, GENES = 16, 2, 24, 2, 20
CELLS, TOKENS = 4, 9
EPS = 6.1e-5


def named(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def table(rows: int, pad: int | None = None) -> nn.Module:
    return named(embedding=nn.Embedding(rows, D, padding_idx=pad), enc_norm=nn.LayerNorm(D))


def look_up(part: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return part.enc_norm(part.embedding(ids))


def mlp(n_inputs: int) -> nn.Sequential:
    parts = [nn.Linear(n_inputs, D), nn.LeakyReLU(), nn.Linear(D, D), nn.LeakyReLU()]
    return nn.Sequential(*parts, nn.Linear(D, 1))


def decoder(n_inputs: int, *, zero: bool) -> nn.Module:
    return named(fc=mlp(n_inputs), **({"zero_logit": mlp(n_inputs)} if zero else {}))


def classifier(n_out: int, n_layers: int, activation: type[nn.Module]) -> nn.Module:
    blocks = [(nn.Linear(D, D), activation(), nn.LayerNorm(D)) for _ in range(n_layers - 1)]
    layers = nn.ModuleList(part for block in blocks for part in block)
    return named(_decoder=layers, out_layer=nn.Linear(D, n_out))


def classify(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for layer in part._decoder:
        x = layer(x)
    return part.out_layer(x)


class Oracle(nn.Module):
    """A second opinion on the network, for the options given as in the official constructor."""

    def __init__(self, model_class: str, pad_id: int, **o: Any) -> None:
        super().__init__()
        self.o, self.is_generator = o, model_class == "TransformerGenerator"
        self.is_multiomic = model_class == "MultiOmicTransformerModel"
        zero, style = o.get("explicit_zero_prob", False), o.get("input_emb_style", "continuous")
        self.encoder = table(GENES, pad_id)
        if style == "continuous":
            self.value_encoder = named(
                linear1=nn.Linear(1, D), linear2=nn.Linear(D, D), norm=nn.LayerNorm(D)
            )
        elif style == "category":
            self.value_encoder = table(o["n_input_bins"], o["pad_value"])
        labels = 1 if o.get("use_batch_labels") or o.get("use_mod") else 0
        if o.get("use_batch_labels"):
            self.batch_encoder = table(o["num_batch_labels"])
        if o.get("use_mod"):
            self.mod_encoder = table(o["ntokens_mod"], 2)
        norm = o.get("domain_spec_batchnorm", False)
        if norm == "batchnorm":
            self.bn = nn.BatchNorm1d(D, eps=EPS)
        elif norm in (True, "dsbn"):
            norms = [nn.BatchNorm1d(D, eps=EPS, affine=False) for _ in range(o["num_batch_labels"])]
            self.dsbn = named(bns=nn.ModuleList(norms))
        layer = nn.TransformerEncoderLayer(D, HEADS, FF, dropout=0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, LAYERS)
        if self.is_generator:
            self.pert_encoder = nn.Embedding(3, D, padding_idx=o.get("pert_pad_id", 2))
            self.decoder = named(
                coeff_decoder=decoder(D, zero=zero), bias_decoder=decoder(D, zero=zero)
            )
        else:
            self.decoder = decoder(D * (1 + labels), zero=zero)
        self.cls_decoder = classifier(o.get("n_cls", 1), o.get("nlayers_cls", 3), nn.ReLU)
        if o.get("do_mvc"):
            gene, cell = D * (1 + labels * self.is_multiomic), D * (1 + labels)
            parts = {"gene2query": nn.Linear(gene, gene), "W": nn.Linear(gene, cell, bias=False)}
            parts |= {"W_zero_logit": nn.Linear(gene, cell)} if zero else {}
            self.mvc_decoder = named(**parts)
        if o.get("do_dab"):
            self.grad_reverse_discriminator = classifier(o["num_batch_labels"], 3, nn.LeakyReLU)

    def pool(self, x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        style = self.o.get("cell_emb_style", "cls")
        if style == "cls":
            return x[:, 0]
        if style == "avg-pool":
            return x.mean(1)
        return F.normalize(torch.einsum("bld,bl->bd", x, values.float()), dim=1)

    def embed(self, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        genes, values = look_up(self.encoder, given["src"]), given["values"]
        style = self.o.get("input_emb_style", "continuous")
        if style == "continuous":
            part = self.value_encoder
            x = torch.relu(part.linear1(values.clamp(max=512)[..., None]))
            total = genes + part.norm(part.linear2(x))
        elif style == "category":
            total = genes + look_up(self.value_encoder, values.long())
        else:
            total = genes * values[..., None]
        if self.is_generator:
            total = total + self.pert_encoder(given["pert_flags"])
        norm = getattr(self, "bn", None)
        if hasattr(self, "dsbn"):
            norm = self.dsbn.bns[int(given["batch_labels"][0])]
        return genes, total if norm is None else norm(total.permute(0, 2, 1)).permute(0, 2, 1)

    def expression(self, x: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, Any]:
        if not self.is_generator:
            zero = self.decoder.zero_logit(x) if hasattr(self.decoder, "zero_logit") else None
            return self.decoder.fc(x)[..., 0], zero
        coeff, bias = (
            part.fc(x)[..., 0] for part in (self.decoder.coeff_decoder, self.decoder.bias_decoder)
        )
        if "decoder_activation" in self.o:
            activation = getattr(nn, self.o["decoder_activation"])()
            coeff, bias = activation(coeff), activation(bias)
        if self.o.get("decoder_adaptive_bias"):
            bias = bias * (values.sum(1) / (values != 0).sum(1))[:, None]
        part = self.decoder.coeff_decoder
        zero = part.zero_logit(x) if hasattr(part, "zero_logit") else None
        return coeff * values + bias, zero

    def forward(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values = given["values"]
        genes, x = self.embed(given)
        hidden = self.transformer_encoder(x, src_key_padding_mask=given["pad_mask"])
        cell = self.pool(hidden, values)
        output = {"cell_emb": cell, "cls_output": classify(self.cls_decoder, cell)}
        token_label, cell_label = None, None
        if self.o.get("use_batch_labels"):
            cell_label = look_up(self.batch_encoder, given["batch_labels"])
            token_label = cell_label[:, None, :].repeat(1, TOKENS, 1)
        if self.o.get("use_mod"):
            modality = look_up(self.mod_encoder, given["mod_types"])
            pooled = self.pool(modality, values)
            token_label = modality if token_label is None else token_label + modality
            cell_label = pooled if cell_label is None else cell_label + pooled
        wide, query, target = hidden, genes, cell
        if token_label is not None:
            wide, target = torch.cat([hidden, token_label], 2), torch.cat([cell, cell_label], 1)
            query = torch.cat([genes, token_label], 2) if self.is_multiomic else genes
        output["mlm_output"], zero = self.expression(wide, values)
        if zero is not None:
            output["mlm_zero_probs"] = torch.sigmoid(zero)[..., 0]
        if self.o.get("do_mvc"):
            part = self.mvc_decoder
            query = query.detach() if "detach" in self.o.get("mvc_decoder_style", "") else query
            query = torch.sigmoid(part.gene2query(query))
            output["mvc_output"] = torch.einsum("bls,bs->bl", part.W(query), target)
            if zero is not None:
                logit = torch.einsum("bls,bs->bl", part.W_zero_logit(query), target)
                output["mvc_zero_probs"] = torch.sigmoid(logit)
        if self.o.get("do_dab"):
            # The reversed gradient: the value of the input, minus its gradient.
            reversed_cell = 2 * cell.detach() - cell
            output["dab_output"] = classify(self.grad_reverse_discriminator, reversed_cell)
        return output

    def losses(self, given: dict, output: dict) -> dict[str, torch.Tensor]:
        style = self.o.get("input_emb_style", "continuous")
        mask = given["values"] == (self.o["n_input_bins"] - 1 if style == "category" else -1)
        mask = torch.ones_like(mask) if self.is_generator else mask
        target = given["target"][mask]
        found = {"gep": F.mse_loss(output["mlm_output"][mask], target)}
        found["cls"] = F.cross_entropy(output["cls_output"], torch.arange(CELLS) % self.o["n_cls"])
        if "mvc_output" in output:
            found["gepc"] = F.mse_loss(output["mvc_output"][mask], target)
        for name, key in (("gep_zero", "mlm_zero_probs"), ("gepc_zero", "mvc_zero_probs")):
            if key in output:
                bernoulli = torch.distributions.Bernoulli(probs=output[key][mask])
                found[name] = -bernoulli.log_prob((target > 0).float()).mean()
        if "dab_output" in output:
            found["dab"] = F.cross_entropy(output["dab_output"], given["batch_labels"])
        return found


def draw_inputs(model_class: str, pad_id: int, o: dict[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    pads = torch.arange(TOKENS) >= torch.tensor([TOKENS, 6, 7, TOKENS])[:, None]
    if model_class == "TransformerGenerator":
        pads = torch.zeros_like(pads)
    genes = torch.tensor([row for row in range(GENES) if row != pad_id])
    src = torch.stack(
        [genes[torch.randperm(len(genes), generator=generator)][:TOKENS] for _ in pads]
    )
    target = torch.randint(0, 12, (CELLS, TOKENS), generator=generator).float()
    is_category = o.get("input_emb_style") == "category"
    pad_value, mask_value = (o["pad_value"], o["n_input_bins"] - 1) if is_category else (-2, -1)
    hide = torch.rand(CELLS, TOKENS, generator=generator) < 0.4
    hide[:, 0] = False
    values = (
        target if model_class == "TransformerGenerator" else target.masked_fill(hide, mask_value)
    )
    return {
        "src": src.masked_fill(pads, pad_id),
        "values": values.masked_fill(pads, pad_value),
        "target": target.masked_fill(pads, pad_value),
        "pad_mask": pads,
        "batch_labels": torch.tensor([1, 0, 2, 1]),
        "mod_types": torch.randint(0, 2, (CELLS, TOKENS), generator=generator).masked_fill(pads, 2),
        "pert_flags": torch.randint(0, 2, (CELLS, TOKENS), generator=generator),
    }


def write_case(folder: Path, model_class: str, pad_id: int = 17, **o: Any) -> None:
    """Run the oracle and store the case as the official implementation's cases are stored."""
    torch.manual_seed(0)
    o = {"n_cls": 3} | o
    oracle = Oracle(model_class, pad_id, **o)
    with torch.no_grad():
        for tensor in oracle.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand_like(tensor))
    given = draw_inputs(model_class, pad_id, o)
    torch.save(oracle.state_dict(), folder / "best_model.pt")
    vocab = {f"G{row}": row for row in range(GENES) if row != pad_id} | {"<pad>": pad_id}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    sizes = {"embsize": D, "nheads": HEADS, "d_hid": FF, "nlayers": LAYERS}
    (folder / "args.json").write_text(json.dumps(sizes | {"pad_token": "<pad>"}))
    meta = {"model_class": model_class, "constructor": o, "sizes": sizes, "forward_flags": {}}
    (folder / "meta.json").write_text(json.dumps(meta))
    arrays = {f"in.{name}": tensor for name, tensor in given.items()}
    output = oracle.eval()(given)
    if model_class == "TransformerGenerator" and o.get("explicit_zero_prob"):
        output["mlm_output"] = output["mlm_output"] * torch.bernoulli(output["mlm_zero_probs"])
    arrays |= {f"slow.{name}": tensor.detach() for name, tensor in output.items()}
    arrays |= train_step(oracle.train(), given)
    np.savez(folder / "io.npz", **{name: np.asarray(array) for name, array in arrays.items()})


def train_step(oracle: Oracle, given: dict[str, torch.Tensor]) -> dict[str, Any]:
    losses = oracle.losses(given, oracle(given))
    total = sum(losses.values())
    total.backward()
    parameters = dict(oracle.named_parameters())
    norms = [float("nan") if p.grad is None else p.grad.norm().item() for p in parameters.values()]
    norm = torch.nn.utils.clip_grad_norm_(oracle.parameters(), 1.0)
    torch.optim.Adam(oracle.parameters(), lr=1e-4, eps=1e-4).step()
    after = [p.detach().double() for p in parameters.values()]
    stored = {f"train.loss.{name}": loss.detach() for name, loss in losses.items()}
    stored |= {
        "train.loss.total": total.detach(),
        "train.grad_names": np.array(list(parameters)),
        "train.grad_norms": np.array(norms),
        "train.total_grad_norm": norm,
        "train.param_sum_after": np.array([p.sum().item() for p in after]),
        "train.param_norm_after": np.array([p.norm().item() for p in after]),
    }
    buffers = {name: b for name, b in oracle.named_buffers() if "running" in name}
    return stored | {f"train.buffer.{name}": buffer for name, buffer in buffers.items()}


PLAIN, MULTIOMIC, GENERATOR = (
    "TransformerModel",
    "MultiOmicTransformerModel",
    "TransformerGenerator",
)
BATCHES = {"use_batch_labels": True, "num_batch_labels": 3}
MODALITIES = {"use_mod": True, "ntokens_mod": 5}
MVC, ZERO = {"do_mvc": True}, {"explicit_zero_prob": True}
CATEGORY = {"input_emb_style": "category", "n_input_bins": 16, "pad_value": 14}
DETACH = {"mvc_decoder_style": "inner product, detach"}
CASES = [
    (PLAIN, {"cell_emb_style": "w-pool", **MVC}),
    (PLAIN, {"cell_emb_style": "w-pool", **BATCHES, **MVC, "do_dab": True}),
    (PLAIN, {"cell_emb_style": "avg-pool", **BATCHES, **MVC, **ZERO}),
    (PLAIN, {**CATEGORY, **MVC}),
    (PLAIN, {**CATEGORY, "cell_emb_style": "w-pool"}),
    (PLAIN, {"input_emb_style": "scaling", **MVC}),
    (PLAIN, {"domain_spec_batchnorm": "batchnorm", **MVC}),
    (PLAIN, {"domain_spec_batchnorm": "do_affine", "num_batch_labels": 3}),
    (PLAIN, {"domain_spec_batchnorm": "dsbn", "num_batch_labels": 3, "do_dab": True}),
    (PLAIN, {"domain_spec_batchnorm": True, **BATCHES, **MVC, **ZERO}),
    (PLAIN, {**MVC, **DETACH, **BATCHES}),
    (PLAIN, {"nlayers_cls": 1, "n_cls": 2}),
    (PLAIN, {"nlayers_cls": 4, "pre_norm": True, "use_fast_transformer": True}),
    (PLAIN, {"pad_id": 0, **MVC}),
    (MULTIOMIC, {**MODALITIES, **MVC}),
    (MULTIOMIC, {**BATCHES, **MVC, "do_dab": True}),
    (MULTIOMIC, {**BATCHES, **MODALITIES, **MVC, **ZERO}),
    (MULTIOMIC, {**BATCHES, **MODALITIES, **MVC, "cell_emb_style": "avg-pool"}),
    (MULTIOMIC, {**BATCHES, **MODALITIES, **MVC, "domain_spec_batchnorm": "dsbn"}),
    (MULTIOMIC, {**MVC}),
    (GENERATOR, {"pert_pad_id": 0}),
    (GENERATOR, {"pert_pad_id": 2, **MVC}),
    (GENERATOR, {"decoder_adaptive_bias": True}),
    (GENERATOR, {"decoder_activation": "ReLU", "decoder_adaptive_bias": True}),
    (GENERATOR, {**ZERO, "cell_emb_style": "avg-pool"}),
    (GENERATOR, {"cell_emb_style": "w-pool", **MVC, **DETACH}),
]


@pytest.mark.parametrize(
    ("model_class", "options"), CASES, ids=[f"{c}-{'-'.join(map(str, o))}" for c, o in CASES]
)
def test_options_agree_with_the_second_implementation(
    model_class: str, options: dict[str, Any], tmp_path: Path
) -> None:
    options = dict(options)
    write_case(tmp_path, model_class, options.pop("pad_id", 17), **options)
    rows = compare_case(tmp_path)
    assert [row for row in rows if not row.passed] == []
    assert {"mlm_output", "train.grad_norms", "train.param_sum_after"} <= {row.name for row in rows}


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ({"cell_emb_style": "w-pool"}, {"cell_emb_style": "avg-pool"}),
        ({**MVC, **DETACH}, {"mvc_decoder_style": "inner product"}),
        ({"input_emb_style": "continuous"}, {"input_emb_style": "scaling"}),
    ],
)
def test_another_option_than_the_one_stored_is_noticed(
    options: dict[str, Any], instead: dict[str, Any], tmp_path: Path
) -> None:
    write_case(tmp_path, PLAIN, **options)
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["constructor"] |= instead
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    try:
        rows = compare_case(tmp_path)
    except ValueError:
        return
    assert [row for row in rows if not row.passed]
