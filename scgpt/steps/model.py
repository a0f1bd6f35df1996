"""Step `model`: one folder in one layout (C3) for every model, whatever made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scgpt.files import write_json
from scgpt.library.models import LoadedModel, load_model, save_model
from scgpt.model.scgpt import ScGPT


def run(spec: dict[str, Any], *, folder: Path) -> None:
    """Make the model that `spec` (see `Catalogue.model_spec`) describes.

    Parameters
    ----------
    spec
        Name, `init` and the folder of the source: for `fetched` the downloaded files, for `random`
        the model whose architecture and vocabulary it gets.
    folder
        Folder to write `config.json`, `vocab.json`, `weights.safetensors` and `card.json` to.

    Raises
    ------
    CheckpointError
        If the source is not a complete model.
    """
    source = load_model(Path(spec["source"]), device="cpu")
    model = source if spec["init"] == "fetched" else untrained(source, seed=spec["seed"])
    parameters = sum(tensor.numel() for tensor in model.model.parameters())
    # The card comes first: config.json, the last file of a model, vouches for all.
    card = {**spec, "n_parameters": parameters, "digest": model.digest()}
    if spec["init"] == "fetched":
        card["receipt"] = model.receipt.to_dict()
    write_json(folder / "card.json", card)
    save_model(model, folder)


def untrained(source: LoadedModel, *, seed: int) -> LoadedModel:
    """Return a network of the same architecture and vocabulary with weights drawn from `seed`."""
    network = ScGPT(source.config, seed=seed).eval()
    return LoadedModel(network, source.vocab, source.receipt, source.extra)
