"""The house style: sizes, colours, hatches, and files that repeat byte for byte."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.core.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from subnetworks.artefacts.turns import Over

SINGLE = 3.4
"""Width of one column of a two-column page, in inches."""
DOUBLE = 6.9
"""Width of the whole page, in inches."""
DPI = 300
SUFFIXES = (".csv", ".pdf", ".svg", ".png")
"""Of the files of a figure."""
INK = "#222222"
WHISKER: dict[str, Any] = {"ecolor": INK, "elinewidth": 0.8, "capsize": 2, "capthick": 0.8}
"""Intervals over seeds."""
FAINT = "#8a8a8a"
PAPER_GROUND = "#f1f1f1"
"""Ground of panels that show the paper's values, not ours."""

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "subnetworks",
    "path.simplify": False,
}


@dataclass(frozen=True)
class Look:
    """How an algorithm or a matrix looks everywhere: distinguishable without colour, too."""

    colour: str
    hatch: str = ""
    marker: str = "o"
    dash: str | tuple[int, tuple[float, ...]] = "-"


# Okabe and Ito's palette, extended by Paul Tol's; neighbours differ in lightness as well.
_ALGORITHMS = {
    "SFT": Look("#E69F00", "////", "s"),
    "RFT": Look("#F0E442", "\\\\\\\\", "D"),
    "GRPO": Look("#0072B2", "", "o"),
    "DPO": Look("#009E73", "....", "^"),
    "PPO": Look("#CC79A7", "xxxx", "v"),
    "PRIME": Look("#56B4E9", "----", "P"),
    "KTO": Look("#D55E00", "++++", "X"),
    "SIMPO": Look("#882255", "oo", "<"),
    "ORPO": Look("#999933", "||||", ">"),
    "RAFT++": Look("#332288", "OO", "p"),
}
_OTHER = Look("#666666", "**", "*")

MATRICES = {
    "Q": Look("#0072B2", marker="o"),
    "K": Look("#56B4E9", marker="s", dash=(0, (4, 1.5))),
    "V": Look("#D55E00", marker="^"),
    "O": Look("#E69F00", marker="v", dash=(0, (4, 1.5))),
    "gate": Look("#117733", marker="D"),
    "up": Look("#44AA99", marker="P", dash=(0, (4, 1.5))),
    "down": Look("#999933", marker="X", dash=(0, (1.5, 1.2))),
    "MLP": Look("#332288", marker="p"),
    "QKV": Look("#0072B2", marker="<"),
    "KV": Look("#56B4E9", marker=">", dash=(0, (4, 1.5))),
    "gate_up": Look("#117733", marker="d"),
    "router": Look("#661100", marker="8", dash=(0, (4, 1.5, 1, 1.5))),
    "norm": Look("#AA4499", marker="*", dash=(0, (1.5, 1.2))),
    "bias": Look("#888888", marker="h", dash=(0, (1.5, 1.2))),
    "mean, unweighted": Look("#000000", marker=""),
    "mean, weighted": Look("#000000", marker="", dash=(0, (3, 1.2))),
}
"""Looks of a layer's matrices, and of its mean over tensors (unweighted) and over weights."""


def algorithm(name: str) -> Look:
    """The look of an algorithm, the same in every figure; only its first word counts."""
    return _ALGORITHMS.get(name.split(",")[0].split()[0].upper(), _OTHER)


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    drawing: Figure = matplotlib.figure.Figure(figsize=(width, height))
    return drawing


def step_ticks(axes: Axes) -> None:
    """Marks at round whole steps."""
    axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True)
    )


def whiskers(axes: Axes, x: Sequence[float], rows: polars.DataFrame, key: str, **look: Any) -> None:
    """The intervals over seeds (`turns.with_intervals`) of a column at x; nothing without any."""
    found = [
        (at, row[key], row[f"{key}:low"], row[f"{key}:high"])
        for at, row in zip(x, rows.to_dicts(), strict=True)
        if row[f"{key}:low"] is not None
    ]
    if found:
        at, middle, below, above = zip(
            *((at, value, value - low, high - value) for at, value, low, high in found), strict=True
        )
        axes.errorbar(at, middle, (below, above), fmt="none", **{**WHISKER, "zorder": 4, **look})


def band(axes: Axes, x: Sequence[float], rows: polars.DataFrame, key: str, colour: str) -> None:
    """The same as a band along a curve."""
    low, high = (rows[f"{key}:{end}"].fill_null(rows[key]).to_numpy() for end in ("low", "high"))
    if rows[f"{key}:low"].is_not_null().any():
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def whisker(over: Over | None, shown_by: str = "") -> list[Any]:
    """What a legend shows of intervals over seeds, and what shows them; nothing without any."""
    if over is None:
        return []
    line = matplotlib.lines.Line2D(
        [], [], color=INK, linestyle="", marker="|", markersize=9, label=shown_by + over.brief
    )
    return [line]


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save in the house style, leaving matplotlib's settings as they were."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def on_paper_ground(axes: Axes) -> None:
    """Mark a panel as showing the paper's values."""
    axes.set_facecolor(PAPER_GROUND)


def write(figure: Figure, frame: polars.DataFrame, name: str, folder: Path) -> list[Path]:
    """Write `<name>.pdf`, `.svg`, `.png` (300 dpi) and the drawn data as `.csv`; returns the paths.

    The files carry no date and no random identifier: the same drawing gives the same bytes. To be
    called within `house_style`.
    """
    metadata: dict[str, dict[str, str | None]] = {
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        ".svg": {"Date": None, "Creator": None},
        ".png": {"Software": None},
    }
    paths = []
    for suffix, facts in metadata.items():
        path = folder / f"{name}{suffix}"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=DPI, metadata=facts)
        paths.append(path)
    buffer = io.BytesIO()
    frame.write_csv(buffer)
    path = folder / f"{name}.csv"
    write_text(path, buffer.getvalue().decode())
    return [*paths, path]
