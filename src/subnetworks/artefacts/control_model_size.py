"""Control: does a larger model's update differ: sparsity, rank, overlap of seeds, agreement.

The same training of bases that differ in their size alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import linear_regression
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from subnetworks.artefacts import shared, style, turns
from subnetworks.artefacts.base import Figure, Names, Overlap, Specification, Update, rows_of
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Model size: what changes from a small base to a large one"
CAPTION = (
    "**Model size.** The same training, at the same learning rate and for as many steps, of bases "
    "of several sizes: sparsity (at most 1e-5 apart), mean rank of the update, overlap of two "
    "seeds' subnetworks beyond chance matched by magnitude, and agreement of full training with "
    "training within the own mask beyond that with another seed. The trend is the slope of a "
    "straight line over the logarithm of the number of weights, in points for ten times as many; "
    "over several seeds it has an interval, which is that of comparisons of seeds in all four "
    "panels. The paper's models differ in more than their size."
)
ALT = (
    "Four panels against the number of weights, on a logarithmic axis, a line each algorithm: "
    "sparsity, rank, overlap of two seeds beyond chance, agreement beyond another seed's; each "
    "with its trend for ten times as many weights."
)
MEASURES = {
    "sparsity_pct": "weights left unchanged (%)",
    "rank_pct": "mean rank (% of full)",
    "overlap_beyond": "overlap of two seeds\nbeyond chance (points)",
    "agreement_beyond": "agreement of masked and full\nbeyond another seed's (points)",
}
"""What is shown: the label of its axis."""
_APART = 0.03  # of a decade, from one algorithm's points to the next one's
SCHEMA = {
    "source": str,
    "label": str,
    "algorithm": str,
    "update": str,
    "n": int,
    **{key: float for measure in MEASURES for key in (measure, f"{measure}_trend")},
    "overlap_pct": float,
    "chance_pct": float,
    "agreement_pct": float,
    "another_seed_pct": float,
}
"""Trends are in points for ten times as many weights, alike in all rows of an algorithm."""


class Row(Specification):
    """A run of a base of one size."""

    about: ClassVar[tuple[str, ...]] = ("update",)
    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    update: Annotated[str, Names("updates", ("updates/{}.json", "updates/{}.rank.json"))]
    overlap: Overlap | None = None
    """Of its mask and another seed's."""
    agreement: Update | None = None
    """From the end of full training to that within the mask."""
    another_seed: Update | None = None
    """From the end of full training to another seed's."""
    label: str | None = None
    algorithm: str | None = None


def rows(context: Context) -> polars.DataFrame:
    """One row per entry of `spec["updates"]`, each algorithm's from the smallest base up."""
    found = [_row(context, entry) for entry in context.rows("updates")]
    algorithms = list(dict.fromkeys(row["algorithm"] for row in found))
    found.sort(key=lambda row: (algorithms.index(row["algorithm"]), row["n"]))
    for algorithm in algorithms:
        mine = [row for row in found if row["algorithm"] == algorithm]
        for measure in MEASURES:
            trend = _trend(mine, measure)
            for row in mine:
                row[f"{measure}_trend"] = trend
    return shared.frame(found, SCHEMA)


def _row(context: Context, entry: dict[str, Any]) -> dict[str, Any]:
    row = {**shared.opening(entry), "algorithm": entry["algorithm"]}
    measured = context.update(entry["update"])
    row |= {"n": measured["n"], "sparsity_pct": shared.percent(measured["sparsity"])}
    row["rank_pct"] = shared.percent(context.rank(entry["update"])["mean_rank"])
    if "overlap" in entry:
        overlap = context.overlap(entry["overlap"])
        chance = shared.matched_chance(overlap)
        for key, of in (("overlap_pct", overlap), ("chance_pct", chance)):
            first, second = of["o1"], of["o2"]
            if first is not None and second is not None:
                row[key] = shared.percent((first + second) / 2)
    for key, update in (("agreement_pct", "agreement"), ("another_seed_pct", "another_seed")):
        if update in entry:
            row[key] = shared.percent(context.update(entry[update])["sparsity"])
    for measure, more, less in (
        ("overlap_beyond", "overlap_pct", "chance_pct"),
        ("agreement_beyond", "agreement_pct", "another_seed_pct"),
    ):
        row[measure] = shared.difference(row.get(more), row.get(less))
    return row


def _trend(rows: Sequence[dict[str, Any]], measure: str) -> float | None:
    """The slope of a line by least squares over log10 of the weights; None for a single size."""
    points = [(math.log10(row["n"]), row[measure]) for row in rows if row[measure] is not None]
    if len({size for size, _ in points}) < 2:
        return None
    return linear_regression(*zip(*points, strict=True)).slope


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["updates"]`."""
    frame = rows(context)
    varied = [key for measure in MEASURES for key in (measure, f"{measure}_trend")]
    (shown,) = turns.with_intervals(context, [frame], *varied)
    figure = style.canvas(style.DOUBLE, 4.4)
    grid = figure.subplots(2, 2, sharex=True)
    for axes, (measure, label) in zip(grid.flat, MEASURES.items(), strict=True):
        _panel(axes, shown, measure)
        axes.set_ylabel(label)
    for axes in grid[1]:
        axes.set_xlabel("weights of the base")
    handles = [
        matplotlib.lines.Line2D(
            [], [], color=look.colour, marker=look.marker, linestyle=look.dash, label=algorithm
        )
        for algorithm in frame["algorithm"].unique(maintain_order=True)
        for look in (style.algorithm(algorithm),)
    ]
    handles += style.whisker(turns.spread_of(context))
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure, frame


def _panel(axes: Axes, shown: polars.DataFrame, measure: str) -> None:
    words = []
    for place, algorithm in enumerate(shown["algorithm"].unique(maintain_order=True)):
        line = shown.filter(algorithm=algorithm).drop_nulls(measure)
        if line.is_empty():
            continue
        look = style.algorithm(algorithm)
        sizes = (line["n"] * 10 ** (place * _APART)).to_list()
        style.whiskers(axes, sizes, line, measure, ecolor=look.colour)
        axes.plot(
            sizes,
            line[measure].to_list(),
            color=look.colour,
            marker=look.marker,
            linestyle=look.dash,
        )
        words += [f"{algorithm} {trend}" for trend in [_shown(line, measure)] if trend]
    axes.set_xscale("log")
    sizes = shown["n"].unique().sort().to_list()
    axes.set_xticks(sizes, [shared.short(size) for size in sizes])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.margins(x=0.08, y=0.15)
    if words:
        axes.set_title("\n".join(words), fontsize=7, weight="normal")


def _shown(line: polars.DataFrame, measure: str) -> str:
    """A trend with its interval over seeds, if it has one."""
    key = f"{measure}_trend"
    trend, low, high = line.row(0, named=True), f"{key}:low", f"{key}:high"
    if trend[key] is None:
        return ""
    words = f"{trend[key]:+z.1f}"
    if trend[low] is not None:
        words += f" [{trend[low]:+z.1f}, {trend[high]:+z.1f}]"
    return f"{words} for ten times the weights".replace("-", "−")


def said(drawn: polars.DataFrame) -> list[str]:
    """How far each effect goes from the smallest base to the largest."""
    lines = []
    for algorithm in drawn["algorithm"].unique(maintain_order=True):
        mine = drawn.filter(algorithm=algorithm)
        first, last = mine.row(0, named=True), mine.row(-1, named=True)
        if first["n"] == last["n"]:
            continue
        words = [
            f"{name} {first[key]:.1f} to {last[key]:.1f}"
            for key, name in (
                ("sparsity_pct", "sparsity"),
                ("rank_pct", "rank"),
                ("overlap_beyond", "overlap beyond chance"),
                ("agreement_beyond", "agreement beyond another seed"),
            )
            if first[key] is not None and last[key] is not None
        ]
        sizes = f"{first['n']:,} to {last['n']:,} weights"
        lines.append(f"{algorithm}, from {sizes}: {', '.join(words)}.".replace("-", "−"))
    return lines


ARTEFACT = Figure(__name__, specification=rows_of("updates", Row))
