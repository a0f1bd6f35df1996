"""GEARS, by its authors' own package (cell-gears), on our task data and without any download.

The package looks for its knowledge files in its data folder before it fetches them. This adapter
writes them there: the terms of genes, the genes that can be perturbed, and the graph of genes with
terms in common, all from the knowledge bases of the configuration.
"""

from __future__ import annotations

import importlib
import pickle
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from pydantic import Field

from scgpt.data.conditions import CONTROL
from scgpt.data.perturbation_splits import genes_of
from scgpt.errors import ConfigError, DataError
from scgpt.methods.base import Method, MethodParams
from scgpt.methods.packages.isolation import isolated_library, unused_module
from scgpt.methods.perturbation_data import (
    PerturbedCells,
    box_statistics,
    count_note,
    perturbed_cells,
    queries_of,
)
from scgpt.methods.predictions import perturbation_prediction
from scgpt.methods.task_data import shown
from scgpt.training.records import rows as history_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

KNOWLEDGE = ("gene2go", "gears_go_graph")
# Names that the package expects.
GENE2GO_FILE = "gene2go_all.pkl"
GENES_FILE = "essential_all_data_pert_genes.pkl"
GRAPH_FOLDER = "go_essential_all"
NAME = "task"
SPLIT, SPLIT_SEED, SPLIT_SHARE = "no_test", 1, 0.75
N_CHANGED = 20
MOST_GENES = 2


class GEARSParams(MethodParams):
    """Parameters of `GEARS`; the defaults are those of the package and its tutorial."""

    hidden_size: int = Field(default=64, ge=1)
    num_go_gnn_layers: int = Field(default=1, ge=1)
    num_gene_gnn_layers: int = Field(default=1, ge=1)
    decoder_hidden_size: int = Field(default=16, ge=1)
    num_similar_genes_go_graph: int = Field(default=20, ge=1)
    num_similar_genes_co_express_graph: int = Field(default=20, ge=1)
    coexpress_threshold: float = Field(default=0.4, ge=0, lt=1)
    direction_lambda: float = Field(default=0.1, ge=0)
    """Weight of the loss on the direction of change."""

    epochs: int = Field(default=20, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of Adam; halved after every epoch by the package."""

    weight_decay: float = Field(default=5e-4, ge=0)
    batch_size: int = Field(default=32, ge=2)
    n_control_cells: int = Field(default=300, ge=1)
    """Control cells, drawn with replacement, whose predictions are averaged."""

    def model_options(self) -> dict[str, Any]:
        """Return the options of the network."""
        training = {"epochs", "learning_rate", "weight_decay", "batch_size", "n_control_cells"}
        return self.model_dump(exclude=training)


class GEARS(Method):
    """Graph network over gene co-expression and Gene Ontology, trained by the original package.

    A condition that the package cannot represent (a perturbed gene that is not in the graph, or
    more than two perturbed genes) is left out of the training, and answered with the mean control
    cell. Training conditions of split `valid` select the epoch. A perturbed gene need not be
    measured.

    References
    ----------
    Roohani, Huang & Leskovec 2024, doi:10.1038/s41587-023-01905-6; cell-gears 0.1.2.
    """

    Params = GEARSParams
    params: GEARSParams

    def fit(self, data: AnnData) -> None:
        """Write the package's files, train, and keep the epoch that it finds best.

        Raises
        ------
        ConfigError
            If a knowledge base is not given.
        DataError
            If there are fewer than 20 genes, or no training condition is in the graph.
        """
        self.cells = perturbed_cells(data, "train", "valid")
        if len(self.cells.genes) < N_CHANGED:
            msg = f"GEARS needs at least {N_CHANGED} genes, found {len(self.cells.genes)}"
            raise DataError(msg)
        gene2go, graph = self._knowledge()
        self.known = set(gene2go)
        self._fit_notes: list[str] = []
        split = self._split()
        with self._folder() as folder:
            _write_knowledge(folder, gene2go, graph)
            with self._isolated("import"):
                _import_package()
            with self._isolated("fit"):
                self.model = self._train(folder, split)

    def predict(self, data: AnnData) -> AnnData:
        """Return the mean prediction over a pool of control cells for every question."""
        queries = [str(name) for name in queries_of(data)]
        control = self.cells.control_mean()
        means = np.tile(control, (len(queries), 1))
        still = {name: np.tile(values, (len(queries), 1)) for name, values in self._pool_box()}
        outside = []
        for row, query in enumerate(queries):
            if not self._representable(query):
                outside.append(query)
                continue
            profiles = self._profiles(genes_of(query))
            means[row] = profiles.mean(axis=0)
            for name, values in box_statistics(profiles).items():
                still[name][row] = values
        what = (
            "hold a gene that is not in the graph of GEARS, or more than two genes: answered with "
            "the mean control cell"
        )
        self.notes = [*self._fit_notes, *count_note(outside, len(queries), what)]
        ordered = {name: self.cells.as_asked(data, values) for name, values in still.items()}
        return perturbation_prediction(
            queries, data.var_names, self.cells.as_asked(data, means), box=ordered
        )

    def _knowledge(self) -> tuple[dict[str, set[str]], pd.DataFrame]:
        """Return terms of every gene that can be perturbed, and the edges between those genes."""
        missing = [name for name in KNOWLEDGE if name not in self.context.knowledge]
        if missing:
            msg = (
                f"GEARS needs the knowledge bases {', '.join(KNOWLEDGE)}; not given: "
                f"{', '.join(missing)}. Name them in the declaration of the method (`knowledge:`)"
            )
            raise ConfigError(msg)
        terms = _read(self.context.knowledge["gene2go"], {"set": str, "gene": str})
        types = {"regulator": str, "target": str, "weight": float}
        edges = _read(self.context.knowledge["gears_go_graph"], types)
        in_graph = set(edges["regulator"]) | set(edges["target"])
        terms = terms[terms["gene"].isin(in_graph)]
        gene2go = {str(gene): set(sets) for gene, sets in terms.groupby("gene")["set"]}
        edges = edges[edges["regulator"].isin(gene2go) & edges["target"].isin(gene2go)]
        return gene2go, edges.sort_values(["target", "regulator"], ignore_index=True)

    def _representable(self, condition: str) -> bool:
        genes = genes_of(condition)
        return len(genes) <= MOST_GENES and set(genes) <= self.known

    def _split(self) -> dict[str, list[str]]:
        """Return the conditions of training and validation, in the package's names."""
        cells = self.cells
        found = sorted(set(cells.conditions.tolist()) - {CONTROL})
        training = set(cells.conditions[cells.splits == "train"].tolist())
        kept = [name for name in found if self._representable(name)]
        dropped = [name for name in found if name not in kept]
        if dropped:
            self._fit_notes.append(
                f"{len(dropped)} of {len(found)} training conditions are not in the graph of GEARS "
                f"and were left out: {shown(dropped)}"
            )
        train = [_gears_name(name) for name in kept if name in training]
        valid = [_gears_name(name) for name in kept if name not in training]
        if not train:
            msg = (
                f"none of the {len(found)} training conditions is in the graph of GEARS, which has "
                f"{len(self.known)} genes; conditions: {shown(found)}"
            )
            raise DataError(msg)
        if not valid:
            self._fit_notes.append(
                "no validation condition in the graph of GEARS: its best epoch was chosen on the "
                "training conditions"
            )
        return {"train": [_gears_name(CONTROL), *train], "val": valid or train}

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Yield a fresh folder for the package's files, removed in the end."""
        scratch = self.context.scratch
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        # Fresh: the package takes up whatever an interrupted run has left, half-written or not.
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix="gears-"))
        try:
            yield folder
        finally:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()

    def _isolated(self, *keys: str) -> Any:
        context = self.context
        return isolated_library(
            context.seed, "gears", *keys, device=context.device, threads=context.threads
        )

    def _train(self, folder: Path, split: dict[str, list[str]]) -> Any:
        """Build the package's data and network, and train it."""
        from gears import GEARS as Package
        from gears import PertData

        params = self.params
        wanted = {*split["train"], *split["val"]}
        adata = _package_data(self.cells, wanted)
        data = PertData(str(folder))
        data.new_data_process(NAME, adata, skip_calc_de=True)
        splits = folder / NAME / "splits"
        splits.mkdir()
        # A stored split is what the package prefers to drawing one.
        file = splits / f"{NAME}_{SPLIT}_{SPLIT_SEED}_{SPLIT_SHARE}.pkl"
        file.write_bytes(pickle.dumps(split))
        data.prepare_split(split=SPLIT, seed=SPLIT_SEED, train_gene_set_size=SPLIT_SHARE)
        # The package drops an incomplete last batch, and so all cells if they make no full one.
        n_training = int(adata.obs["condition"].isin(split["train"]).sum())
        data.get_dataloader(batch_size=min(params.batch_size, n_training))
        model = Package(data, device=self.context.device)
        model.model_initialize(**params.model_options())
        model.wandb = _Recorder(params.learning_rate)
        model.train(params.epochs, lr=params.learning_rate, weight_decay=params.weight_decay)
        self.history = model.wandb.history
        model.wandb = None
        return model

    def _profiles(self, genes: list[str]) -> np.ndarray:
        """Return the predicted profile of each control cell of the pool, float64."""
        import torch
        from gears.utils import create_cell_graph_dataset_for_prediction
        from torch_geometric.data import Batch

        model, n_cells = self.model, self.params.n_control_cells
        # Seeded alike for every condition: all are predicted from the same control cells.
        with self._isolated("predict"), torch.no_grad():
            graphs = create_cell_graph_dataset_for_prediction(
                genes, model.ctrl_adata, model.pert_list, model.device, num_samples=n_cells
            )
            network = model.best_model.to(model.device).eval()
            predicted = network(Batch.from_data_list(graphs).to(model.device))
        return predicted.cpu().numpy().astype(np.float64)

    def _pool_box(self) -> list[tuple[str, np.ndarray]]:
        control = self.cells.values[self.cells.control].toarray().astype(np.float64)
        return list(box_statistics(control).items())


def _import_package() -> None:
    """Import the package apart from its use: the first import seeds PyTorch and sets options."""
    import scanpy

    verbosity = scanpy.settings.verbosity
    # It compiles for seconds at import (and LLVM has aborted a long-lived process meanwhile), for
    # an analysis of pairs that is not used here.
    with unused_module("dcor", "distance_correlation"):
        importlib.import_module("gears")
    scanpy.settings.verbosity = verbosity


class _Recorder:
    """Takes what the package would send to a tracking service, and keeps it as history."""

    def __init__(self, learning_rate: float) -> None:
        self.rate, self.epoch, self.step = learning_rate, 0, 0
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []
        self.start = time.monotonic()

    def log(self, values: dict[str, float]) -> None:
        """Collect the loss of a step, or one of the two groups of scores after an epoch."""
        if "training_loss" in values:
            self.losses.append(float(values["training_loss"]))
            self.step += 1
            return
        found: dict[str, dict[str, float]] = {"train": {}, "valid": {}}
        for name, value in values.items():
            phase, _, objective = name.partition("_")
            found["valid" if phase == "val" else "train"][objective] = float(value)
        # The package reports one metric after the other; the second ends the epoch.
        if "mse" in found["train"]:
            found["train"] = {"loss": float(np.mean(self.losses)), **found["train"]}
            self.losses = []
        for phase, scores in found.items():
            self.history += history_rows(
                scores,
                epoch=self.epoch,
                step=self.step,
                phase=phase,
                lr=self.rate * 0.5**self.epoch,
                seconds=time.monotonic() - self.start,
            )
        if "pearson" in found["train"]:
            self.epoch += 1


def _gears_name(condition: str) -> str:
    genes = genes_of(condition)
    return "+".join([*genes, *["ctrl"] * (MOST_GENES - len(genes))]) if genes else "ctrl"


def _read(path: Path, types: dict[str, type]) -> pd.DataFrame:
    # "NA" and "nan" can be gene symbols; there are no missing values in these tables.
    table = pd.read_csv(path, sep="\t", dtype=types, keep_default_na=False)
    missing = [name for name in types if name not in table]
    if missing:
        msg = f"{path}: columns are {list(table.columns)}, expected {list(types)}"
        raise DataError(msg)
    return table


def _write_knowledge(folder: Path, gene2go: dict[str, set[str]], edges: pd.DataFrame) -> None:
    (folder / GENE2GO_FILE).write_bytes(pickle.dumps(gene2go))
    (folder / GENES_FILE).write_bytes(pickle.dumps(sorted(gene2go)))
    (folder / GRAPH_FOLDER).mkdir()
    names = {"regulator": "source", "weight": "importance"}
    table = edges.rename(columns=names)[["source", "target", "importance"]]
    table.to_csv(folder / GRAPH_FOLDER / f"{GRAPH_FOLDER}.csv", index=False)


def _package_data(cells: PerturbedCells, wanted: set[str]) -> AnnData:
    """Return cells and genes in the package's layout, with the gene lists that it trains on."""
    conditions = np.array([_gears_name(name) for name in cells.conditions])
    rows = np.flatnonzero(np.isin(conditions, sorted(wanted)))
    conditions = conditions[rows]
    obs = pd.DataFrame({"condition": conditions, "cell_type": "cell"}, index=cells.names[rows])
    var = pd.DataFrame({"gene_name": cells.genes}, index=cells.genes)
    adata = ad.AnnData(cells.values[rows], obs=obs, var=var)
    means = {
        name: np.asarray(adata.X[conditions == name].mean(axis=0, dtype=np.float64)).ravel()
        for name in sorted(wanted)
    }
    control = means["ctrl"]
    full = {name: f"cell_{name}_1+1" for name in means if name != "ctrl"}
    # The package picks the 20 genes by a t test, which a condition with one cell does not allow.
    changed = {name: np.argsort(-np.abs(means[name] - control), kind="stable") for name in full}
    changed |= _changed_by_test(adata, conditions)
    adata.uns["rank_genes_groups_cov_all"] = {
        full[name]: cells.genes[order[:N_CHANGED]] for name, order in changed.items()
    }
    adata.uns["non_zeros_gene_idx"] = {full[n]: np.flatnonzero(means[n]) for n in full}
    return adata


def _changed_by_test(adata: AnnData, conditions: np.ndarray) -> dict[str, np.ndarray]:
    """Return the genes that change most, by the package's own test, of conditions of two cells."""
    from gears.data_utils import rank_genes_groups_by_cov

    names, counts = np.unique(conditions, return_counts=True)
    tested = names[counts > 1].tolist()
    if "ctrl" not in tested or len(tested) < 2:
        return {}
    part = adata[np.isin(conditions, tested)].copy()
    groups = [f"cell_{name}" for name in part.obs["condition"]]
    part.obs = pd.DataFrame(
        {"group": pd.Categorical(groups), "cell_type": "cell"}, index=part.obs_names
    )
    found = rank_genes_groups_by_cov(
        part,
        groupby="group",
        control_group="ctrl",
        covariate="cell_type",
        n_genes=N_CHANGED,
        key_added="ranked",
        return_dict=True,
    )
    return {
        group.removeprefix("cell_"): np.searchsorted(adata.var_names.to_numpy(), genes)
        for group, genes in found.items()
    }
