"""The verb `embed`: vectors of cells, from one h5ad file to another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from scgpt.arguments import positive
from scgpt.errors import DataError

if TYPE_CHECKING:
    import argparse

HELP = "embed the cells of an h5ad file with a pretrained model"
logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument("source", type=Path, metavar="IN.h5ad", help="cells x genes")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.h5ad")
    data = parser.add_argument_group("data")
    data.add_argument("--layer", help="layer to use instead of X; 'raw' for raw.X")
    data.add_argument(
        "--values",
        choices=("counts", "lognorm"),
        default="counts",
        help="what the matrix holds: raw counts, or normalised values",
    )
    data.add_argument("--gene-column", help="column of var with gene symbols")
    data.add_argument(
        "--gene-symbols",
        type=Path,
        metavar="TSV",
        help="table of two columns without a header: name in the data (Ensembl id), symbol",
    )
    data.add_argument("--duplicates", choices=("error", "sum"), default="error")
    data.add_argument(
        "--min-matched",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="smallest share of genes that the model has to know, from 0 to 1",
    )
    work = parser.add_argument_group("computation")
    work.add_argument("--batch-size", type=int, default=64)
    work.add_argument("--max-length", type=int, default=1200, help="most tokens per cell")
    work.add_argument("--seed", type=int, default=0, help="of the samples of longer cells")
    work.add_argument("--device", help="cpu, cuda, cuda:1 ...; a GPU if there is one")
    work.add_argument("--amp", choices=("bf16", "fp16"), help="faster, less exact matrix products")
    work.add_argument("--threads", type=positive, help="CPU threads")
    work.add_argument("--chunk-size", type=int, default=1024, help="cells read at a time")
    output = parser.add_argument_group("output")
    output.add_argument("--key-added", default="X_scgpt", help="key of obsm")
    output.add_argument(
        "--without-matrices", action="store_true", help="leave X, layers and raw out of the output"
    )
    output.add_argument(
        "--receipt",
        type=Path,
        help="what became of every tensor of the model, as JSON; beside the output by default",
    )
    output.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(options: argparse.Namespace) -> None:
    """Embed a file.

    Raises
    ------
    ScgptError
        If data, model or options cannot be used.
    """
    from scgpt.library.models import load_model
    from scgpt.library.streaming import check_request, embed_file

    check_request(
        options.source,
        options.out,
        key_added=options.key_added,
        min_matched=options.min_matched,
        chunk_size=options.chunk_size,
    )
    symbols = None if options.gene_symbols is None else read_symbols(options.gene_symbols)
    if not options.source.is_file():
        msg = f"{options.source}: no such file; give an h5ad file"
        raise DataError(msg)
    receipt = options.receipt or options.out.with_suffix(".receipt.json")
    model = load_model(options.model, device=options.device, receipt_path=receipt)
    logger.info("%s", model.receipt.summary())
    embed_file(
        options.source,
        model,
        options.out,
        layer=options.layer,
        values=options.values,
        gene_column=options.gene_column,
        gene_symbols=symbols,
        duplicates=options.duplicates,
        min_matched=options.min_matched,
        key_added=options.key_added,
        batch_size=options.batch_size,
        max_length=options.max_length,
        amp=options.amp,
        seed=options.seed,
        keep_matrices=not options.without_matrices,
        chunk_size=options.chunk_size,
        progress=not options.quiet,
        threads=options.threads,
    )
    logger.info("%s: obsm[%r] written", options.out, options.key_added)


def read_symbols(path: Path) -> dict[str, str]:
    """Read a table of two columns, separated by a tab or a comma: name, symbol.

    Raises
    ------
    DataError
        If the file is missing or a line has not two columns.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else "not a text file"
        msg = f"{path}: {what}; expected a table of two columns, name and symbol"
        raise DataError(msg) from error
    symbols = {}
    for number, line in enumerate(lines, start=1):
        parts = line.replace(",", "\t").split("\t")
        if not line.strip():
            continue
        if len(parts) != 2:
            msg = f"{path}, line {number}: {len(parts)} columns, expected two: name and symbol"
            raise DataError(msg)
        symbols[parts[0].strip()] = parts[1].strip()
    return symbols
