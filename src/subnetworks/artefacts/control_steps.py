"""Control: by how many bf16 steps weights moved, and how many moved by the power of two of |w|.

A bf16 number has eight significant bits, so that one step of a weight w is between |w| / 256 and
|w| / 128: what moves less than half of it stays where it was. If that rounding decides which
weights change, small ones do and large ones do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from subnetworks.artefacts import shared, style
from subnetworks.artefacts.base import Figure, UpdateShown, rows_of
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.core.results import Context, label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Steps of bf16 that weights moved, and which weights moved, by magnitude"
CAPTION = (
    "**Steps of bf16.** At the left, how many weights moved by how many representable bf16 "
    "numbers; more than some thousand steps mean that a weight changed its sign. At the "
    "right, the share of weights that moved at all by the power of two of their magnitude "
    "before, over how many weights there are of it (grey). One bf16 step of a weight w is "
    "between |w| / 256 and |w| / 128: rounding alone makes small weights move and keeps large "
    "ones where they are."
)
ALT = (
    "At the left, the share of weights that moved by 1, 2, 3 to 4, … bf16 steps, falling with the "
    "number of steps; at the right, the share that moved at all against the power of two of |w|, "
    "over the distribution of |w| in grey. One line per update."
)
FAR = 1024
"""More steps than this are shown together; beyond some thousands a weight has changed its sign."""
FEWEST = 0.001
"""Powers of two with a smaller share of all weights are not drawn: theirs means little."""
SCHEMA = {
    **shared.UPDATE_SCHEMA,
    "by": str,
    "steps": str,
    "exponent": int,
    "n": int,
    "changed": int,
    "weights": int,
    "share_pct": float,
}
"""`by` steps: n of all `weights` moved by so many; by magnitude: `changed` of the bin's n did."""


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["updates"]`."""
    entries = context.rows("updates")
    rows = [row for entry in entries for row in _counted(context, entry)]
    frame = shared.frame(rows, SCHEMA)
    figure = style.canvas(style.DOUBLE, 2.9)
    left, right = figure.subplots(1, 2)
    _steps(left, frame.filter(by="steps"))
    _magnitudes(right, frame.filter(by="magnitude"))
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    return figure, frame


def _counted(context: Context, entry: dict[str, Any]) -> list[dict[str, Any]]:
    measured = context.update(entry["update"])
    label = label_of(entry)
    common = {
        "source": "here",
        "label": label,
        "algorithm": entry.get("algorithm", label),
        "update": entry["update"],
        "weights": measured["n"],
    }
    steps: dict[str, int] = {}
    for row in measured["histograms"]["ulp_steps"]:
        if row["steps"] != "0":
            first = int(row["steps"].split("-")[0])
            name = row["steps"] if first <= FAR else f">{FAR}"
            steps[name] = steps.get(name, 0) + row["n"]
    rows: list[dict[str, Any]] = [
        {**common, "by": "steps", "steps": name, "n": n, "share_pct": 100 * n / measured["n"]}
        for name, n in steps.items()
    ]
    for row in measured["histograms"]["magnitude"]:
        if isinstance(row["exponent"], int):
            share = 100 * row["changed"] / row["n"]
            rows.append({**common, "by": "magnitude", **row, "share_pct": share})
    return rows


def _order(name: str) -> int:
    return int(name.removeprefix(">").split("-")[0]) + name.startswith(">")


def _look(of: polars.DataFrame, place: int) -> dict[str, Any]:
    """Lines drawn later are thinner, so that those below show where they coincide."""
    look = style.algorithm(of["algorithm"][0])
    return {
        "linewidth": max(1.2, 2.4 - 0.3 * place),
        "color": look.colour,
        "linestyle": look.dash,
        "marker": look.marker,
        "markeredgewidth": 0,
        "markersize": 4.5,
        "zorder": 3,
    }


def _steps(axes: Axes, frame: polars.DataFrame) -> None:
    names = sorted(frame["steps"].unique(), key=_order)
    for place, (label, rows) in enumerate(shared.by_label(frame)):
        shares = dict(zip(rows["steps"], rows["share_pct"], strict=True))
        places = [k for k, name in enumerate(names) if name in shares]
        axes.plot(places, [shares[names[k]] for k in places], label=label, **_look(rows, place))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    shown = [name.replace("-", "–") for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("moved by so many bf16 steps")
    axes.set_ylabel("weights (%)")
    axes.set_title("How far")


def _magnitudes(axes: Axes, frame: polars.DataFrame) -> None:
    enough = frame.filter(polars.col("n") >= FEWEST * polars.col("weights"))
    _, first = next(shared.by_label(enough))
    total = first["weights"][0]
    axes.bar(
        first["exponent"].to_numpy() + 0.5,
        100 * first["n"].to_numpy() / total,
        width=1,
        color="#e3e3e3",
        edgecolor="white",
        linewidth=0.5,
        label="share of all weights",
        zorder=1,
    )
    for place, (label, rows) in enumerate(shared.by_label(enough)):
        axes.plot(
            rows["exponent"].to_numpy() + 0.5,
            rows["share_pct"].to_numpy(),
            label=label,
            **_look(rows, place),
        )
    axes.set_ylim(0, 104)
    exponents = np.array(enough["exponent"])
    axes.set_xlim(exponents.min() - 0.3, exponents.max() + 1.3)
    axes.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(4))
    axes.xaxis.set_major_formatter(
        matplotlib.ticker.FuncFormatter(lambda value, _: f"$2^{{{value:.0f}}}$")
    )
    axes.set_xlabel(f"|w| before (n = {total:,} weights)")
    axes.set_ylabel("of these, moved (%)")
    axes.set_title("Which")


def said(frame: polars.DataFrame) -> list[str]:
    """How many changed weights moved one step, and how the smallest and largest weights fare."""
    lines = []
    for label, rows in shared.by_label(frame):
        steps = rows.filter(by="steps")
        if steps.is_empty():
            lines.append(f"{label}: no weight moved.")
            continue
        one = steps.filter(steps="1")["n"].sum() / steps["n"].sum()
        bins = rows.filter(by="magnitude").sort("exponent")
        small, large = _quarter(bins), _quarter(bins.reverse())
        lines.append(
            f"{label}: {100 * one:.0f} % of the weights that moved did so by one step; of the "
            f"smallest quarter of all weights {small:.1f} % moved, of the largest {large:.1f} %."
        )
    return lines


def _quarter(bins: polars.DataFrame) -> float:
    """Share (%) of changed weights in the first bins that together hold a quarter of all."""
    held = bins["n"].cum_sum()
    needed = int((held < 0.25 * bins["n"].sum()).sum()) + 1
    first = bins.head(needed)
    return 100 * float(first["changed"].sum()) / float(first["n"].sum())


ARTEFACT = Figure(__name__, specification=rows_of("updates", UpdateShown))
