"""Models as users hold them: loaded from a folder of either layout, saved in ours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scgpt.errors import CheckpointError, ConfigError
from scgpt.files import write_json
from scgpt.model import checkpoint, upstream
from scgpt.tokens.vocab import GeneVocab

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgpt.model.config import ScGPTConfig
    from scgpt.model.receipt import LoadReceipt
    from scgpt.model.scgpt import ScGPT

OURS = (checkpoint.CONFIG_FILE, checkpoint.VOCAB_FILE, checkpoint.WEIGHTS_FILE)
OFFICIAL = (upstream.WEIGHTS_FILE, upstream.ARGS_FILE, upstream.VOCAB_FILE)


@dataclass(frozen=True)
class LoadedModel:
    """A network, the vocabulary it was made for, and the account of its loading.

    Attributes
    ----------
    model
        The network, a `torch.nn.Module` in evaluation mode.
    vocab
        Which token id each gene symbol has.
    receipt
        What became of every tensor of the file and of the network.
    extra
        Whatever else the folder says: `args` of an official one, class names of a fine-tuned one.
    """

    model: ScGPT
    vocab: GeneVocab
    receipt: LoadReceipt
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> ScGPTConfig:
        """Sizes and options of the network."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> LoadedModel:
        """Move the network to a device and return this object.

        Raises
        ------
        ConfigError
            If there is no such device on this machine.
        """
        self.model.to(checked_device(device))
        return self

    def digest(self) -> str:
        """Return a SHA-256 of vocabulary and weights, the same in whatever layout they are kept."""
        found = hashlib.sha256("\n".join(self.vocab.tokens).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            found.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(flat.view(torch.uint8).numpy().data)
        return found.hexdigest()


def load_model(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    receipt_path: str | Path | None = None,
    allow: Mapping[str, str] | None = None,
    **options: Any,
) -> LoadedModel:
    """Load a model from its folder.

    Parameters
    ----------
    path
        Folder in the official layout (`best_model.pt`, `args.json`, `vocab.json`) or in ours
        (`config.json`, `vocab.json`, `weights.safetensors`); the files decide which.
    device
        Where to put the network; a GPU if there is one, unless given.
    receipt_path
        File to write the receipt to, as JSON.
    allow
        Tensors that may be missing, unused or of another shape: name pattern -> reason. Without
        it every tensor has to find its place.
    **options
        Fields of `ScGPTConfig` that no file states or that shall differ, such as
        ``cell_embedding="avg-pool"``; for the official layout also ``expect="whole-human"``,
        which refuses any other vocabulary.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged, files contradict each other, or a tensor has no place.
    ConfigError
        If the device is not there or an option is unknown.

    Examples
    --------
    >>> model = scgpt.load_model("scGPT_human")  # doctest: +SKIP
    >>> print(model.receipt.summary())  # doctest: +SKIP
    """
    target = checked_device(device)
    folder = Path(path)
    opener = _opener(folder)
    found = opener(folder, allow=allow, **options)
    vocab = GeneVocab.from_mapping(found.vocab, origin=str(folder))
    loaded = LoadedModel(found.model.eval(), vocab, found.receipt, found.extra)
    if receipt_path is not None:
        write_json(receipt_path, loaded.receipt.to_dict())
    return loaded.to(target)


def save_model(model: LoadedModel, path: str | Path) -> None:
    """Write a model to a folder in our layout, from which `load_model` reads the same numbers.

    Parameters
    ----------
    model
        A loaded model, fine-tuned since or not.
    path
        Folder to write into; made if needed.
    """
    checkpoint.save_checkpoint(path, model.model, model.vocab.tokens, model.extra)


def as_model(model: LoadedModel | str | Path) -> LoadedModel:
    """Return `model`, loaded first if it is the path of a folder."""
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, str | Path):
        return load_model(model)
    msg = f"the model is a {type(model).__name__}; give what scgpt.load_model returns, or a folder"
    raise ConfigError(msg)


def checked_device(device: str | torch.device | None) -> torch.device:
    """Return the device meant; None means a GPU if there is one.

    Raises
    ------
    ConfigError
        If the name is unknown or there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        msg = f"device {device!r} is unknown; expected 'cpu', 'cuda' or 'cuda:1'"
        raise ConfigError(msg) from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        n_gpus = torch.cuda.device_count()
        msg = f"device {str(found)!r} is not there ({n_gpus} GPUs found); use 'cpu'"
        raise ConfigError(msg)
    return found


def _opener(folder: Path) -> Any:
    """Return the function that opens a folder, by the files in it."""
    if folder.is_file():
        msg = f"{folder}: a file; give the folder it is in ({folder.parent})"
        raise CheckpointError(msg)
    if not folder.is_dir():
        msg = f"{folder}: no such folder; a model is a folder with {_listed(OFFICIAL)}"
        raise CheckpointError(msg)
    absent = {
        names: [name for name in names if not (folder / name).is_file()]
        for names in (OURS, OFFICIAL)
    }
    if not absent[OURS]:
        return checkpoint.open_checkpoint
    if not absent[OFFICIAL]:
        return upstream.open_official
    layout, meant = _meant(folder)
    if meant is None:
        msg = (
            f"{folder}: no model is in this folder; expected {_listed(OFFICIAL)} (official layout) "
            f"or {_listed(OURS)} (ours)"
        )
        raise CheckpointError(msg)
    msg = f"{folder}: {_listed(absent[meant])} missing; the {layout} layout needs {_listed(meant)}"
    raise CheckpointError(msg)


def _meant(folder: Path) -> tuple[str, tuple[str, ...] | None]:
    """Return the layout that an incomplete folder was meant to have, by the files only it has."""
    if any((folder / name).exists() for name in (upstream.WEIGHTS_FILE, upstream.ARGS_FILE)):
        return "official", OFFICIAL
    if any((folder / name).exists() for name in (checkpoint.WEIGHTS_FILE, checkpoint.CONFIG_FILE)):
        return "scgpt", OURS
    return "", None


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
