"""Open, checkpoint-compatible scGPT and the benchmark around it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scgpt.library.attention_maps import attention
    from scgpt.library.embedding import embed
    from scgpt.library.generation import generate
    from scgpt.library.genes import gene_embeddings
    from scgpt.library.models import load_model, save_model

__version__ = "0.1.0"
__all__ = ["attention", "embed", "gene_embeddings", "generate", "load_model", "save_model"]

_HOMES = {
    "attention": "scgpt.library.attention_maps",
    "embed": "scgpt.library.embedding",
    "gene_embeddings": "scgpt.library.genes",
    "generate": "scgpt.library.generation",
    "load_model": "scgpt.library.models",
    "save_model": "scgpt.library.models",
}


def __getattr__(name: str) -> Any:
    """Import a function of the library at its first use: `import scgpt` itself loads nothing."""
    if name not in _HOMES:
        msg = f"module 'scgpt' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
