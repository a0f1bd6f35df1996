"""Step `dataset`: read or simulate one data set and write it by contract (C1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgpt.data import contracts
from scgpt.data.io import write_h5ad
from scgpt.data.preprocess import check_counts, check_lognorm
from scgpt.data.tables import write_table
from scgpt.errors import DataError
from scgpt.files import read_json, sha256_file, write_json
from scgpt.plan.checks import load
from scgpt.steps.cards import DIVISION, compare, division, split_card

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

KEPT = ("batch", "cell_type", "condition", "donor", "measured", "study", "subset")
KEPT_TABLES = ("changed_genes", "written_conditions")
COUNTED = {
    "n_batches": "batch",
    "n_donors": "donor",
    "n_cell_types": "cell_type",
    "n_conditions": "condition",
}


def run(
    spec: dict[str, Any],
    *,
    output: Path,
    card: Path,
    split: Path,
    raw: Path | None = None,
    record: Path | None = None,
) -> None:
    """Make the data set that `spec` (see `Plan.dataset_spec`) describes.

    Parameters
    ----------
    spec
        Reader, its arguments, limits and the words of the data card.
    output, card
        The h5ad and its data card (JSON) to write.
    split
        The table to write of who is in which part (see `cards.division`); without rows for a data
        set that comes whole.
    raw
        Folder of the downloaded files, for readers that take `files`.
    record
        What was downloaded from where (JSON of the `fetch` step), for the data card.
    """
    reader = load(spec["reader"], f"datasets.{spec['dataset']}.reader")
    arguments = dict(spec["params"]) if raw is None else {**spec["params"], "files": raw}
    adata = reader(**arguments)
    value_kind = adata.uns.get("value_kind", "counts")
    check = check_counts if value_kind == "counts" else check_lognorm
    check(adata.X, cell_names=adata.obs_names, gene_names=adata.var_names)
    warnings = list(adata.uns.get("warnings", ()))
    whole = adata.shape
    adata = limit(adata, **spec["limits"])
    adata.obs = adata.obs[[name for name in KEPT if name in adata.obs]].copy()
    for name in adata.obs:
        adata.obs[name] = adata.obs[name].astype("category").cat.remove_unused_categories()
    files = {} if record is None else read_json(record)["files"]
    is_limited = adata.shape != whole
    description = describe(adata, spec, limited=is_limited, warnings=warnings, files=files)
    parts = division(adata)
    adata.uns = {name: adata.uns[name] for name in KEPT_TABLES if name in adata.uns}
    write_h5ad(adata, output, contracts.DATASET, dataset=spec["dataset"], value_kind=value_kind)
    write_table(parts, split, DIVISION)
    written = {
        "split": split_card(parts, sha256_file(split)),
        "sha256": sha256_file(output),
        "size_bytes": output.stat().st_size,
        "value_kind": value_kind,
    }
    write_json(card, {**description, **written})


def limit(adata: AnnData, *, max_cells: int | None, max_genes: int | None) -> AnnData:
    """Return a data set within the limits of the scale.

    Cells are thinned evenly along their order and genes by the number of cells that express
    them, so that the result needs no seed and does not depend on one.
    """
    import numpy as np

    if max_cells is not None and adata.n_obs > max_cells:
        adata = adata[np.linspace(0, adata.n_obs - 1, max_cells).astype(int)]
    if max_genes is not None and adata.n_vars > max_genes:
        n_expressing = np.asarray((adata.X != 0).sum(axis=0)).ravel()
        kept = np.sort(np.argsort(-n_expressing, kind="stable")[:max_genes])
        adata = adata[:, kept]
    if adata.n_obs == 0:
        msg = "the reader returned no cells; check its source file and its filters"
        raise DataError(msg)
    return adata.copy()


def count(adata: AnnData) -> dict[str, int | None]:
    """Return every count that `expected` can name; None for what the data set does not have."""
    types = adata.var["feature_type"]
    found: dict[str, int | None] = {
        "n_cells": adata.n_obs,
        **{f"n_{kind}s": int((types == kind).sum()) for kind in ("gene", "peak", "protein")},
    }
    for key, column in COUNTED.items():
        found[key] = int(adata.obs[column].nunique()) if column in adata.obs else None
    if "condition" in adata.obs:
        found["n_conditions"] -= int((adata.obs["condition"] == "control").any())
    for subset in ("reference", "query"):
        here = adata.obs[adata.obs["subset"] == subset] if "subset" in adata.obs else None
        found[f"n_{subset}"] = None if here is None else len(here)
        has_types = here is not None and "cell_type" in here
        found[f"n_{subset}_types"] = int(here["cell_type"].nunique()) if has_types else None
    parts = adata.uns["division"]["subset"] if "division" in adata.uns else None
    for part in ("train", "valid", "test"):
        found[f"n_{part}"] = None if parts is None else int((parts == part).sum())
    return found


def describe(
    adata: AnnData,
    spec: dict[str, Any],
    *,
    limited: bool,
    warnings: Sequence[str] = (),
    files: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the data card: what it is, what was found, and where that differs from the source.

    Parameters
    ----------
    adata
        The data set as it will be written.
    spec
        As in `run`.
    limited
        Whether the scale left out cells or genes, so that counts cannot be compared.
    warnings
        What the reader had to say.
    files
        Downloaded files: digest, size and source of each.
    """
    found = count(adata)
    is_twin = spec.get("twin", False)
    checks, differences = compare(found, spec["expected"], comparable=not limited and not is_twin)
    kind = "simulated twin of a download" if is_twin else spec["kind"]
    return {
        **{key: spec[key] for key in ("title", "kind", "reference", "license", "notes")},
        "twin": is_twin,
        "source": f"{kind}: {spec['reader']}",
        "files": files or {},
        "found": found,
        "checks": checks,
        "warnings": [*warnings, *differences],
        "limited": limited,
    }
