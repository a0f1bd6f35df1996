"""Step `predict`: fit one method on one split with one seed, and record how it ran (C5, C8)."""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scgpt.data import contracts
from scgpt.data.io import read_h5ad, write_h5ad
from scgpt.files import sha256_file, write_json
from scgpt.methods.base import MethodContext, load_method, parse_params
from scgpt.steps import provenance

if TYPE_CHECKING:
    from pathlib import Path


def run(
    spec: dict[str, Any],
    *,
    seed: int,
    data: Path,
    truth: Path | None = None,
    checkpoint: Path | None = None,
    knowledge: dict[str, Path],
    output: Path,
    record: Path,
    threads: int = 1,
    code: str = "",
    task_module: str,
) -> None:
    """Fit and predict; write the prediction and then its run record.

    Parameters
    ----------
    spec
        Method, entry point, role and resolved parameters (see `Plan.method_spec`).
    seed
        Seed of everything random in the method.
    data, truth
        C2 files; the truth is given to positive controls only.
    checkpoint
        Folder of pretrained weights, for methods that start from one.
    knowledge
        Tables of the knowledge bases that the method uses, by name.
    output, record
        The prediction (h5ad) and the run record (JSON) to write.
    threads
        Threads the method may use.
    code
        Digest of the code, as the workflow knows it.
    task_module
        Module of the task; it names the schema of a prediction.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    task = importlib.import_module(task_module)
    adata = read_h5ad(data, contracts.TASK_DATA)
    hidden = None if truth is None else read_h5ad(truth, task.TRUTH)
    method_class = load_method(spec["entry"])
    params = parse_params(method_class, spec["params"])
    # Beside the outputs and kept after a kill: the same command resumes from here.
    scratch = output.parent / "scratch"
    context = MethodContext(
        seed=seed,
        device=_device(spec),
        threads=threads,
        checkpoint=checkpoint,
        truth=hidden,
        knowledge=knowledge,
        scratch=scratch,
        progress=True,
    )
    method = method_class(params, context)
    method.fit(adata)
    prediction = method.predict(adata)
    keys = {name: adata.uns[contracts.KEY][name] for name in ("scale", "task", "dataset", "split")}
    keys |= {"method": spec["method"], "seed": seed}
    if method.notes:
        prediction.uns["notes"] = method.notes
    write_h5ad(prediction, output, task.PREDICTION, **keys)
    write_json(
        record,
        {
            **keys,
            "entry": spec["entry"],
            "role": spec["role"],
            "params": params.model_dump(mode="json"),
            "code": code,
            "started": started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.perf_counter() - clock, 3),
            "threads": threads,
            "device": context.device,
            **provenance.peak_memory(),
            "inputs": input_digests(data, truth, checkpoint, knowledge),
            "outputs": {output.name: sha256_file(output)},
            "git": provenance.git_commit(),
            "packages": provenance.package_versions(),
            "hardware": provenance.hardware(),
            "history": list(method.history),
            "notes": method.notes,
            **_extras(method),
        },
    )
    shutil.rmtree(scratch, ignore_errors=True)


def input_digests(
    data: Path, truth: Path | None, checkpoint: Path | None, knowledge: dict[str, Path]
) -> dict[str, str]:
    """Return the digest of every file that a method was given, by what it is.

    The files of the checkpoint folder (weights, settings, vocabulary) are `checkpoint/NAME`, so
    that a run record says which weights its scores come from.
    """
    files = {"data": data, **knowledge}
    if truth is not None:
        files["truth"] = truth
    if checkpoint is not None:
        files |= {
            f"checkpoint/{path.name}": path
            for path in sorted(checkpoint.iterdir())
            if path.is_file() and not path.name.startswith(".")
        }
    return {name: sha256_file(path) for name, path in files.items()}


def _device(spec: dict[str, Any]) -> str:
    """Return the GPU for a method that asks for one where there is one, else the CPU."""
    if not spec.get("gpus"):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    print(f"{spec['method']}: no GPU found, running on the CPU", file=sys.stderr)
    return "cpu"


def _extras(method: Any) -> dict[str, Any]:
    receipt = getattr(method, "receipt", None)
    return {} if receipt is None else {"receipt": receipt.to_dict()}
