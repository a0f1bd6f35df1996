"""Schemas of the files between two steps (C1, C2, C5, C6): what each must hold, checked twice.

A schema is a list of named slots; `check` reports every violation at once, so that a broken file
is mended in one go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from scgpt.errors import ContractError

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "scgpt"  # where every artefact carries its schema, version and keys: uns[KEY]

Kind = Literal["category", "text", "float", "flag", "csr", "array", "any"]


@dataclass(frozen=True)
class Slot:
    """One required or optional element of an AnnData file.

    `where` is `obs`, `var`, `layers`, `obsm` or `varm`; `name` the key in it. `complete` asks for
    no missing value, `allowed` lists the only values a category may take.
    """

    where: str
    name: str
    kind: Kind
    required: bool = True
    complete: bool = True
    allowed: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Schema:
    """A named and versioned shape of an AnnData file."""

    name: str
    version: int
    slots: tuple[Slot, ...] = ()
    matrix: Kind | None = "csr"
    keys: tuple[str, ...] = ()
    doc: str = field(default="", compare=False)


DATASET = Schema(
    name="dataset",
    version=1,
    slots=(
        Slot("obs", "batch", "category", required=False),
        Slot("obs", "cell_type", "category", required=False),
        Slot("obs", "condition", "category", required=False),
        Slot("obs", "donor", "category", required=False, complete=False),
        Slot("obs", "measured", "category", required=False),
        Slot("obs", "subset", "category", required=False, allowed=("reference", "query")),
        Slot("var", "gene_id", "text"),
        Slot("var", "feature_type", "category", allowed=("gene", "peak", "protein")),
    ),
    keys=("dataset", "value_kind"),
    doc="C1: one data set; X holds counts or log-normalised values, as value_kind says.",
)

TASK_DATA = Schema(
    name="task_data",
    version=1,
    slots=(
        *(slot for slot in DATASET.slots if slot.name != "cell_type"),
        Slot("obs", "cell_type", "category", required=False, complete=False),
        Slot("obs", "split", "category", allowed=("train", "valid", "test")),
        Slot("layers", "lognorm", "csr"),
        Slot("var", "highly_variable", "flag"),
        Slot("obsm", "X_pca", "array"),
    ),
    keys=("scale", "task", "dataset", "split", "value_kind"),
    doc="C2: what a method may see; hidden values are missing here and stand in the truth file.",
)

ANNOTATION_TRUTH = Schema(
    name="annotation_truth",
    version=1,
    slots=(Slot("obs", "cell_type", "category"),),
    matrix=None,
    keys=("scale", "task", "dataset", "split"),
    doc="C2: the cell types of the test cells.",
)

ANNOTATION_PREDICTION = Schema(
    name="annotation_prediction",
    version=1,
    slots=(
        Slot("obs", "cell_type_pred", "category"),
        Slot("obs", "confidence", "float", required=False),
        Slot("obsm", "X_emb", "array", required=False),
    ),
    matrix=None,
    keys=("scale", "task", "dataset", "split", "method", "seed"),
    doc="C5: one predicted cell type for every test cell.",
)

INTEGRATION_TRUTH = Schema(
    name="integration_truth",
    version=1,
    slots=(Slot("obs", "batch", "category"), Slot("obs", "cell_type", "category")),
    matrix=None,
    keys=("scale", "task", "dataset", "split"),
    doc="C2: the batches and cell types of all cells.",
)

INTEGRATION_PREDICTION = Schema(
    name="integration_prediction",
    version=1,
    slots=(Slot("obsm", "X_emb", "array"),),
    matrix=None,
    keys=("scale", "task", "dataset", "split", "method", "seed"),
    doc="C5: one vector for every cell.",
)

BOXES = tuple(f"box_{name}" for name in ("low", "q1", "median", "q3", "high"))

PERTURBATION_TRUTH = Schema(
    name="perturbation_truth",
    version=2,
    slots=(
        Slot("obs", "condition", "category"),
        Slot("obs", "subgroup", "category"),
        Slot("obs", "n_cells", "float"),
        Slot("obs", "n_cells_scored", "float"),
        Slot("var", "control_mean", "float"),
        Slot("var", "training_centroid", "float"),
        Slot("layers", "other_half", "array", required=False),
        Slot("layers", "de_rank", "array"),
        *(Slot("layers", name, "array") for name in BOXES),
    ),
    matrix="array",
    keys=("scale", "task", "dataset", "split"),
    doc="C2: mean expression of the test conditions, and what a change is measured against.",
)

PERTURBATION_PREDICTION = Schema(
    name="perturbation_prediction",
    version=1,
    slots=(
        Slot("obs", "condition", "category"),
        *(Slot("layers", name, "array", required=False) for name in BOXES),
    ),
    matrix="array",
    keys=("scale", "task", "dataset", "split", "method", "seed"),
    doc="C5: predicted mean log-normalised expression of every queried condition.",
)


def stamp(adata: AnnData, schema: Schema, **keys: Any) -> AnnData:
    """Write the schema, its version and the keys into `adata.uns` and return `adata`."""
    adata.uns[KEY] = {"schema": schema.name, "schema_version": schema.version, **keys}
    return adata


def check(adata: AnnData, schema: Schema, *, where: str = "data") -> AnnData:
    """Return `adata` if it has the shape that `schema` promises.

    Parameters
    ----------
    adata
        Cells x genes.
    schema
        One of the schemas of this module.
    where
        What to call the data in the message, usually its path.

    Raises
    ------
    ContractError
        With every violation found, one per line.
    """
    problems = [*_stamp_problems(adata, schema), *_index_problems(adata)]
    if schema.matrix is not None:
        problems += _kind_problems("X", adata.X, Slot("X", "X", schema.matrix))
    for slot in schema.slots:
        holder = getattr(adata, slot.where)
        if slot.name in holder:
            problems += _kind_problems(f"{slot.where}['{slot.name}']", holder[slot.name], slot)
        elif slot.required:
            problems.append(f"{slot.where}['{slot.name}'] is missing ({slot.kind} expected)")
    if problems:
        lines = "\n  ".join(problems)
        msg = f"{where}: not a valid '{schema.name}' (version {schema.version}):\n  {lines}"
        raise ContractError(msg)
    return adata


def _stamp_problems(adata: AnnData, schema: Schema) -> list[str]:
    record = adata.uns.get(KEY)
    if record is None:
        return [f"uns['{KEY}'] is missing: the file was not written by this pipeline"]
    found = (record.get("schema"), int(record.get("schema_version", 0)))
    if found != (schema.name, schema.version):
        return [f"schema is {found[0]!r} version {found[1]}; run the step that makes it again"]
    return [f"uns['{KEY}']['{key}'] is missing" for key in schema.keys if key not in record]


def _index_problems(adata: AnnData) -> list[str]:
    problems = []
    for name, index in (("cell", adata.obs_names), ("gene", adata.var_names)):
        if not index.is_unique:
            twice = index[index.duplicated()].unique()[:3].tolist()
            problems.append(f"{name} names are not unique, e.g. {twice}")
    if adata.n_obs == 0:
        problems.append("there are no cells")
    return problems


def _kind_problems(label: str, value: Any, slot: Slot) -> list[str]:
    checks = {
        "category": _category_problems,
        "text": _text_problems,
        "float": _number_problems,
        "flag": _flag_problems,
        "csr": _csr_problems,
        "array": _number_problems,
        "any": lambda _value, _slot: [],
    }
    return [f"{label} {problem}" for problem in checks[slot.kind](value, slot)]


def _category_problems(value: Any, slot: Slot) -> list[str]:
    if not isinstance(value.dtype, pd.CategoricalDtype):
        return [f"has dtype {value.dtype}, expected category"]
    problems = []
    n_missing = int(value.isna().sum())
    if slot.complete and n_missing:
        problems.append(f"has {n_missing} missing values")
    if slot.allowed is not None:
        wrong = sorted(set(map(str, value.cat.categories)) - set(slot.allowed))
        if wrong:
            problems.append(f"has values {wrong}, allowed are {list(slot.allowed)}")
    return problems


def _text_problems(value: Any, slot: Slot) -> list[str]:
    n_missing = int(pd.isna(value).sum())
    return [f"has {n_missing} missing values"] if slot.complete and n_missing else []


def _number_problems(value: Any, _slot: Slot) -> list[str]:
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.floating):
        return [f"has dtype {array.dtype}, expected floating point"]
    n_bad = int((~np.isfinite(array)).sum())
    return [f"has {n_bad} values that are NaN or infinite"] if n_bad else []


def _flag_problems(value: Any, _slot: Slot) -> list[str]:
    return [] if value.dtype == bool else [f"has dtype {value.dtype}, expected bool"]


def _csr_problems(value: Any, _slot: Slot) -> list[str]:
    if not sparse.issparse(value) or value.format != "csr":
        return [f"is {type(value).__name__}, expected a CSR matrix"]
    problems = [] if value.dtype == np.float32 else [f"has dtype {value.dtype}, expected float32"]
    n_bad = int((~np.isfinite(value.data)).sum())
    if n_bad:
        problems.append(f"has {n_bad} values that are NaN or infinite")
    return problems
