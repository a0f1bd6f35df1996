"""Look of all figures: one set of matplotlib settings, palettes, and reproducible files.

Nothing here touches matplotlib's global state: `context` applies the settings while a figure is
drawn and while it is written.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

from scgpt.errors import ConfigError
from scgpt.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from matplotlib.figure import Figure

INK = "#222222"
GREY = "#777777"
LIGHT = "#d9d9d9"
CONTROLS = {"negative_control": "#b5b5b5", "positive_control": "#6b6b6b"}
CONTROL_ROLES = tuple(CONTROLS)

# Chosen one after the other, each as far as possible from those before it in OKLab, averaged over
# normal vision and the worse of protanopia and deuteranopia (Machado et al. 2009,
# 10.1109/TVCG.2009.113). The first six are Okabe and Ito's.
# fmt: off
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a0021", "#64f4bc",
    "#4e2185", "#006400", "#a6376f", "#ffbcff", "#59c86f", "#004e59", "#dede4e", "#ff9b9b",
    "#907ae9", "#9b4300", "#376f64", "#64deff", "#de90f4", "#7a8500", "#a66f6f", "#b159b1",
    "#9bc8b1", "#4390b1", "#004ea6", "#bc9064", "#6f0059", "#374316", "#ffc89b", "#8543a6",
    "#4eb1a6", "#7aa621", "#6f4343", "#4e5985", "#bca6c8", "#646f2c", "#6f64d3", "#6f6f90",
    "#c8b17a", "#f46f7a", "#b1c837", "#bc4343", "#9b90d3", "#7a2c7a", "#f4bcc8", "#e97a2c",
)
# fmt: on

SETTINGS = {
    "font.family": "sans-serif",
    # DejaVu travels with matplotlib: another font would change the files from machine to machine.
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.1,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "scgpt",
    "path.simplify": True,
}

# Dates and program versions would make every file differ from the one before.
METADATA = {
    ".pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}


@contextmanager
def context() -> Iterator[None]:
    """Apply the settings of all figures inside the block."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def in_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names sorted without regard to case, the order of every figure."""
    return sorted(set(names), key=lambda name: (name.casefold(), name))


def assign_colours(names: Iterable[str]) -> dict[str, str]:
    """Give each distinct name a colour, by alphabetical order.

    Parameters
    ----------
    names
        Cell types, or anything else; repeats count once.

    Returns
    -------
    dict of str to str
        Name to hexadecimal colour, sorted by name without regard to case.

    Raises
    ------
    ConfigError
        If there are more names than colours that can be told apart.
    """
    names = in_order(names)
    if len(names) > len(PALETTE):
        msg = (
            f"{len(names)} categories, but only {len(PALETTE)} colours; merge categories or give "
            f"`colours` yourself"
        )
        raise ConfigError(msg)
    return dict(zip(names, PALETTE, strict=False))


def method_colours(roles: Mapping[str, str]) -> dict[str, str]:
    """Give each method a colour that is the same in every figure of a benchmark.

    Parameters
    ----------
    roles
        Every method of the benchmark, in its declared order, with its role. Controls are grey, so
        that no colour is spent on them.
    """
    coloured = [method for method, role in roles.items() if role not in CONTROLS]
    if len(coloured) > len(PALETTE):
        msg = f"{len(coloured)} methods, but only {len(PALETTE)} colours"
        raise ConfigError(msg)
    own = dict(zip(coloured, PALETTE, strict=False))
    return {method: own.get(method) or CONTROLS[role] for method, role in roles.items()}


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure so that the same figure always gives the same bytes.

    Parameters
    ----------
    figure
        The figure.
    path
        Ends in .pdf, .svg or .png.

    Raises
    ------
    ConfigError
        If the ending is another one.
    """
    suffix = Path(path).suffix
    if suffix not in METADATA:
        msg = f"{path}: cannot write {suffix!r} figures; choose one of {sorted(METADATA)}"
        raise ConfigError(msg)
    with context(), atomic_path(path) as temporary:
        figure.savefig(temporary, metadata=METADATA[suffix])


def text_colour(background: tuple[float, ...]) -> str:
    """Return black or white, whichever reads better on an RGB background."""
    red, green, blue = background[:3]
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK
