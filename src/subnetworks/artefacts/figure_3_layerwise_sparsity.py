"""Figure 3: the update is about equally sparse in all layers and matrices, norms apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from subnetworks.artefacts import style, turns
from subnetworks.artefacts.base import Figure, Names, UpdateShown, rows_of
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context, label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Figure 3. Sparsity by layer and matrix"
CAPTION = (
    "**Sparsity by layer and matrix.** Share of unchanged weights (at most 1e-5 apart) in "
    "each layer's attention and MLP matrices, biases and norms. The thick black line is the "
    "mean over the layer's tensors, each counted once whatever its size (unweighted, as in "
    "the paper), the broken one the mean over the layer's weights (weighted). Fused matrices "
    "(QKV, KV, gate and up) and routers are lines of their own; an expert's matrices count "
    "with their kind. On grey ground the paper's values, read off its plot (±0.3; gaps where "
    "curves hide each other): updates are sparse in all layers alike, and layer norms hardly "
    "change."
)
ALT = (
    "One panel an update: the share of unchanged weights against the layer, a line each for the "
    "matrices Q, K, V, O, the MLP's, biases and norms, a thick black line for the unweighted mean "
    "over the layer's tensors, a broken one for the mean over its weights; the paper's "
    "values, read off its plot, on grey ground."
)
_COLUMNS = 3
_UNWEIGHTED, _WEIGHTED = MEANS = ("mean, unweighted", "mean, weighted")
"""Means of a layer: over its tensors, each counted once (the paper's), and over its weights."""
_NAMES = {"LN": "norm", "avg": _UNWEIGHTED}
_LABELS = {
    "norm": "norms",
    "bias": "biases",
    "gate_up": "gate and up",
    _UNWEIGHTED: "mean over tensors\n(unweighted, paper's)",
    _WEIGHTED: "mean over weights",
}
_WIDTHS = {_UNWEIGHTED: 2, _WEIGHTED: 1.3}
SCHEMA = {
    "source": str,
    "panel": str,
    "algorithm": str,
    "update": str,
    "matrix": str,
    "layer": int,
    "sparsity_pct": float,
    "equal_pct": float,
    "n": int,
}


class Row(UpdateShown):
    """An update."""

    update: Annotated[str, Names("updates", ("updates/{}.parquet",))]
    published: str | None = None


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["updates"]`.

    Sparsity by the paper's rule (|Δ| ≤ 1e-5). The paper's mean is over tensors, not weights: a
    norm of 128 weights counts as much as a matrix. Source: Figure 3.
    """
    entries = context.rows("updates")
    ours = [_measured(context, entry) for entry in entries]
    paper = context.paper("figure3_layerwise_digitised")
    theirs = [_published(paper, name) for name in paper["algorithm"].unique(maintain_order=True)]

    frame = polars.concat([*ours, *theirs])
    panels = turns.with_intervals(context, [*ours, *theirs], "sparsity_pct")
    rows = math.ceil(len(panels) / _COLUMNS)
    figure = style.canvas(style.DOUBLE, 0.75 + 1.85 * rows)
    grid = figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False)
    cells = list(grid.flat)
    lowest = float(frame["sparsity_pct"].min() or 0)  # type: ignore[arg-type]
    floor = 10 * math.floor(max(lowest - 1, 0) / 10)
    for number, (axes, panel) in enumerate(zip(cells, panels, strict=False)):
        _panel(axes, panel)
        axes.set_ylim(floor, 104)
        if number % _COLUMNS == 0:
            axes.set_ylabel("unchanged weights (%)")
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    shown = [matrix for matrix in style.MATRICES if matrix in set(frame["matrix"])]
    handles = [_line(matrix) for matrix in shown] + style.whisker(turns.spread_of(context))
    if len(panels) < len(cells):
        cells[-1].legend(handles=handles, loc="upper left", borderaxespad=0, labelspacing=0.3)
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure, frame


def _measured(context: Context, entry: dict[str, Any]) -> polars.DataFrame:
    """Sparsity per layer and matrix, and both means: over tensors, over weights."""
    tensors = context.update_tensors(entry["update"]).filter(polars.col("layer").is_not_null())
    if tensors.is_empty():
        raise UserError(f"{entry['update']}: no tensor of this update lies in a numbered layer")
    close, equal = polars.col("isclose_bf16_1e-5"), polars.col("equal")
    n = polars.col("n")
    by_matrix = tensors.group_by("matrix", "layer").agg(
        sparsity_pct=100 * close.sum() / n.sum(),
        equal_pct=100 * equal.sum() / n.sum(),
        n=n.sum(),
    )
    unweighted = tensors.group_by("layer").agg(
        matrix=polars.lit(_UNWEIGHTED),
        sparsity_pct=100 * (close / n).mean(),
        equal_pct=100 * (equal / n).mean(),
        n=n.sum(),
    )
    weighted = tensors.group_by("layer").agg(
        matrix=polars.lit(_WEIGHTED),
        sparsity_pct=100 * close.sum() / n.sum(),
        equal_pct=100 * equal.sum() / n.sum(),
        n=n.sum(),
    )
    means = [mean.select(by_matrix.columns) for mean in (unweighted, weighted)]
    label = label_of(entry)
    order = list(style.MATRICES)
    return (
        polars.concat([by_matrix, *means])
        .with_columns(
            source=polars.lit("here"),
            panel=polars.lit(label),
            algorithm=polars.lit(entry.get("algorithm", label)),
            update=polars.lit(entry["update"]),
        )
        .select(polars.col(name).cast(kind) for name, kind in SCHEMA.items())
        .filter(polars.col("matrix").is_in(order))
        .sort(polars.col("matrix").replace_strict(order, range(len(order))), "layer")
    )


def _published(paper: polars.DataFrame, algorithm: str) -> polars.DataFrame:
    return (
        paper.filter(polars.col("algorithm") == algorithm)
        .with_columns(
            source=polars.lit("paper"),
            panel=polars.lit(f"The paper: {algorithm} (digitised)"),
            update=polars.lit(None),
            matrix=polars.col("matrix").replace(_NAMES),
            equal_pct=polars.lit(None),
            n=polars.lit(None),
        )
        .select(polars.col(name).cast(kind) for name, kind in SCHEMA.items())
    )


def _panel(axes: Axes, panel: polars.DataFrame) -> None:
    layers = int(panel["layer"].max()) + 1  # type: ignore[arg-type]
    for matrix in style.MATRICES:
        line = panel.filter(polars.col("matrix") == matrix).sort("layer")
        if line.is_empty():
            continue
        look = style.MATRICES[matrix]
        style.whiskers(
            axes, line["layer"].to_list(), line, "sparsity_pct", ecolor=look.colour, capsize=0
        )
        axes.plot(
            line["layer"].to_numpy(),
            line["sparsity_pct"].cast(float).fill_null(math.nan).to_numpy(),
            color=look.colour,
            linestyle=look.dash,
            marker=look.marker,
            markevery=max(1, layers // 8),
            linewidth=_WIDTHS.get(matrix, 1),
            zorder=3 if matrix in MEANS else 2,
        )
    first = panel.row(0, named=True)
    weights = panel.filter(polars.col("matrix") == _WEIGHTED)["n"].sum()
    axes.set_title(first["panel"])
    axes.set_xlabel("layer" if not weights else f"layer (n = {weights:,} weights)")
    axes.set_xlim(-0.03 * layers - 0.1, layers - 0.9 + 0.03 * layers)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=8))
    if first["source"] == "paper":
        style.on_paper_ground(axes)


def _line(matrix: str) -> matplotlib.lines.Line2D:
    look = style.MATRICES[matrix]
    return matplotlib.lines.Line2D(
        [],
        [],
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        linewidth=_WIDTHS.get(matrix, 1),
        label=_LABELS.get(matrix, matrix),
    )


ARTEFACT = Figure(__name__, label="Figure 3", specification=rows_of("updates", Row))
