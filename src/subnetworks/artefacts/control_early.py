"""Control: how much of the final subnetwork is there after part of the training.

At each saved step, of the weights changed by then the share that is changed at the end (which falls
if early changes are undone), and of the weights changed at the end the share that has changed by
then, both against what chance matched by magnitude gives where the overlap was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from subnetworks.artefacts import over_training, shared, style
from subnetworks.artefacts.base import Figure, Overlap, Specification, rows_of
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Early subnetworks within the final one"
CAPTION = (
    "**Early subnetworks.** After part of the training, how much of what has changed by then "
    "is changed at the end, and how much of the final subnetwork has changed by then. Hollow "
    "markers: what chance gives, matched by tensor and by the power of two of |w|, at the "
    "steps where it was measured."
)
ALT = (
    "Against the share of training done: at the left, of the weights changed so far the share that "
    "is changed at the end; at the right, of the weights changed at the end the share changed so "
    "far. One line per run; hollow markers give chance matched by magnitude."
)
SIDES = {
    "early_in_final": "Of the early subnetwork, in the final",
    "final_in_early": "Of the final subnetwork, there already",
}
SCHEMA = {
    **over_training.SCHEMA,
    "done_pct": float,
    "changed_pct": float,
    **{f"{side}{kind}_pct": float for side in SIDES for kind in ("", "_chance", "_by_magnitude")},
}


class Step(Specification):
    """The overlap of the mask at a step and the final one, in this order."""

    overlap: Overlap
    step: int


class Row(over_training.RunShown):
    """A run, and overlaps of its early masks."""

    overlaps: list[Step] = Field(default=[])


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["runs"]`."""
    entries = over_training.runs(context)
    rows = [row for entry in entries for row in _steps(context, entry)]
    frame = shared.frame(rows, SCHEMA)
    figure = style.canvas(style.DOUBLE, 2.7)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (side, title) in zip(panels, SIDES.items(), strict=True):
        for _, drawn in shared.by_label(frame):
            _line(axes, drawn, side)
        axes.set_title(title)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 104)
        counts = ", ".join(f"{n:,}" for n in frame["n"].unique(maintain_order=True))
        axes.set_xlabel(f"training done (%) (n = {counts} weights)")
    panels[0].set_ylabel("weights (%)")
    handles, _ = panels[0].get_legend_handles_labels()
    chance = matplotlib.lines.Line2D(
        [], [], color=style.FAINT, linestyle=":", linewidth=1, marker="o", markerfacecolor="white",
        label="chance matched by magnitude",
    )  # fmt: skip
    figure.legend(handles=[*handles, chance], loc="outside lower center", ncols=6)
    return figure, frame


def _steps(context: Context, entry: dict[str, Any]) -> list[dict[str, Any]]:
    found = context.trajectory(entry["run"])
    n, final = found["n"], found["final"]
    last = found["steps"][-1]["step"]
    matched = {
        row["step"]: shared.matched_chance(context.overlap(row["overlap"]))
        for row in entry.get("overlaps", [])
    }
    rows = []
    for step in found["steps"]:
        changed, both = step["changed"], step["changed"] - step["outside_final"]
        by_magnitude = matched.get(step["step"], {})
        shares = {
            "changed": changed / n,
            "early_in_final": both / changed if changed else None,
            "final_in_early": both / final if final else None,
            "early_in_final_chance": final / n,
            "final_in_early_chance": changed / n,
            "early_in_final_by_magnitude": by_magnitude.get("o1"),
            "final_in_early_by_magnitude": by_magnitude.get("o2"),
        }
        rows.append(
            {
                **over_training.opening(entry, found),
                "step": step["step"],
                "done_pct": 100 * step["step"] / last,
                **{f"{k}_pct": None if v is None else 100 * v for k, v in shares.items()},
            }
        )
    return rows


def _line(axes: Axes, of: polars.DataFrame, side: str) -> None:
    look = style.algorithm(of["algorithm"][0])
    label = of["label"][0]
    drawn: dict[str, Any] = {"color": look.colour, "clip_on": False, "zorder": 3}
    axes.plot(
        of["done_pct"].to_numpy(), of[f"{side}_pct"].to_numpy(), label=label,
        linestyle=look.dash, marker=look.marker, markeredgewidth=0, **drawn,
    )  # fmt: skip
    known = of.drop_nulls(f"{side}_by_magnitude_pct")
    axes.plot(
        known["done_pct"].to_numpy(), known[f"{side}_by_magnitude_pct"].to_numpy(),
        linestyle=":", marker=look.marker,
        markerfacecolor="white", linewidth=1, **drawn,
    )  # fmt: skip


def said(frame: polars.DataFrame) -> list[str]:
    """What each run's first measured early mask shares with the final one, against chance."""
    lines = []
    for label, rows in shared.by_label(frame.drop_nulls("early_in_final_by_magnitude_pct")):
        for row in (rows.row(0, named=True), rows.row(-1, named=True))[: min(2, len(rows))]:
            lines.append(
                f"{label} after {row['done_pct']:.0f} % of training: "
                f"{row['early_in_final_pct']:.0f} % of what has changed stays changed (chance by "
                f"magnitude {row['early_in_final_by_magnitude_pct']:.0f} %), and "
                f"{row['final_in_early_pct']:.0f} % of the final subnetwork is there (chance "
                f"{row['final_in_early_by_magnitude_pct']:.0f} %)."
            )
    return lines


ARTEFACT = Figure(__name__, specification=rows_of("runs", Row))
