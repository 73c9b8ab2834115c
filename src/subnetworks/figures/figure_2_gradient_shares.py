"""Figure 2: most weights that end unchanged were never updated, few were updated and cancelled."""

from typing import Any

import matplotlib.patches
import polars
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subnetworks.figures import over_training, style
from subnetworks.results import Context, compared_share_of

NAME = "figure_2_gradient_shares"
TITLE = "Figure 2. Weights never updated, updated and cancelled out, in the final subnetwork"
ALT = (
    "One horizontal bar a run, parted into weights never updated, weights updated whose updates "
    "cancelled out, and weights of the final subnetwork; ours above, the paper's PRIME run on grey "
    "ground below."
)
_PARTS = {
    "never": ("never updated", "#ffffff", ""),
    "cancelled": ("updated, then cancelled out", "#b3b3b3", "////"),
    "final": ("final subnetwork", "#4d5b6a", ""),
}
SCHEMA = {
    "source": polars.String,
    "label": polars.String,
    "algorithm": polars.String,
    "run": polars.String,
    "n": polars.Int64,
    "compared_share_pct": polars.Float64,
    "saved_steps": polars.Int64,
    "part": polars.String,
    "pct": polars.Float64,
}


def draw(context: Context) -> tuple[Figure, polars.DataFrame]:
    """Draw `spec["runs"]`, each with `run`, `algorithm` and maybe `label`.

    The parts are those of `subnetworks.trajectories`: an update undone between two saved steps is
    not seen, so ours bound `never` from above and `cancelled` from below. Source: Figure 2.
    """
    entries = over_training.runs(context, NAME)
    ours = [row for entry in entries for row in _measured(context, entry)]
    theirs = _published(context.paper("figure2_prime_gradients"))
    frame = polars.DataFrame(
        [{key: row.get(key) for key in SCHEMA} for row in [*ours, *theirs]],
        schema=SCHEMA,
        orient="row",
    )
    bars = len(entries)
    figure = Figure(figsize=(style.DOUBLE, 1.35 + 0.42 * (bars + 1)))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[bars + 0.1, 1.1])
    _bars(above, ours, "This experiment")
    _bars(below, theirs, "The paper")
    style.on_paper_ground(below)
    above.tick_params(axis="x", length=0)
    below.set_xlabel("share of all weights (%)")
    handles = [
        matplotlib.patches.Patch(
            facecolor=colour, hatch=hatch, edgecolor=style.INK, linewidth=0.6, label=words
        )
        for words, colour, hatch in _PARTS.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure, frame


def _measured(context: Context, entry: dict[str, Any]) -> list[dict[str, Any]]:
    found = context.trajectory(entry["run"])
    return [
        {
            "source": "here",
            **{key: entry[key] for key in ("label", "algorithm", "run")},
            "n": found["n"],
            "compared_share_pct": compared_share_of(found),
            "saved_steps": len(found["steps"]),
            "part": part,
            "pct": 100 * found[part] / found["n"],
        }
        for part in _PARTS
    ]


def _published(paper: polars.DataFrame) -> list[dict[str, Any]]:
    named = {"subnetwork": "final", "never updated": "never"}
    return [
        {
            "source": "paper",
            "label": "PRIME",
            "algorithm": "PRIME",
            "part": named.get(row["share"], "cancelled"),
            "pct": float(row["pct"]),
        }
        for row in paper.to_dicts()
    ]


def _bars(axes: Axes, rows: list[dict[str, Any]], title: str) -> None:
    labels: list[str] = []
    for start in range(0, len(rows), len(_PARTS)):
        place, left = len(labels), 0.0
        first = rows[start]
        for row in rows[start : start + len(_PARTS)]:
            _, colour, hatch = _PARTS[row["part"]]
            axes.barh(
                place,
                row["pct"],
                0.62,
                left,
                color=colour,
                hatch=hatch,
                edgecolor=style.INK,
                linewidth=0.6,
            )
            dark = row["part"] == "final"
            axes.annotate(
                f"{row['pct']:.1f}" if row["source"] == "here" else f"{row['pct']:g}",
                (left + row["pct"] / 2, place),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else style.INK,
                bbox=None
                if dark or not hatch
                else {"boxstyle": "square,pad=0.15", "facecolor": "white", "linewidth": 0},
            )
            left += row["pct"]
        words = first["label"]
        if first.get("n") is not None:
            words += f"\nn = {first['n']:,}; {first['saved_steps']} saves"
        labels.append(words)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(visible=False)
    axes.set_xlim(0, 100)
    axes.set_title(title)
