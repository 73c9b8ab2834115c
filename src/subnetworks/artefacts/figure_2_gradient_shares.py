"""Figure 2: most weights that end unchanged were never updated, few were updated and cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from subnetworks.artefacts import over_training, shared, style, turns
from subnetworks.artefacts.base import Figure, rows_of
from subnetworks.artefacts.claims import Claim, all_hold, listed
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Figure 2. Weights never updated, updated and cancelled out, in the final subnetwork"
CAPTION = (
    "**What became of the weights.** Shares of the weights that no saved step shows changed "
    "(never updated), that some saved step shows changed but the last one does not (updated, "
    "then cancelled out), and that the last one shows changed (final subnetwork), all as Δ ≠ "
    "0 against the init. An update undone between two saved steps is not seen: the first "
    "share is an upper bound, the second a lower one. On grey ground the paper's PRIME run: "
    "{never}, {cancelled} and {final} %."
)
ALT = (
    "One horizontal bar per run, parted into weights never updated, weights updated whose updates "
    "cancelled out, and weights of the final subnetwork; ours above, the paper's PRIME run on grey "
    "ground below."
)
_PARTS = {
    "never": ("never updated", "#ffffff", ""),
    "cancelled": ("updated, then cancelled out", "#b3b3b3", "////"),
    "final": ("final subnetwork", "#4d5b6a", ""),
}
_ROOM = 20  # per cent, of a part in which an interval can be read
SCHEMA = {
    **over_training.RUN_SCHEMA,
    "saved_steps": int,
    "part": str,
    "pct": float,
}


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["runs"]`.

    The parts are those of `subnetworks.measuring.trajectories`: an update undone between two saved
    steps is not seen, so ours bound `never` from above and `cancelled` from below. Source: Figure
    2.
    """
    entries = over_training.runs(context)
    ours = [row for entry in entries for row in _measured(context, entry)]
    theirs = _published(context.paper("figure2_prime_gradients"))
    frame = shared.frame([*ours, *theirs], SCHEMA)
    (shown,) = turns.with_intervals(context, [frame], "pct")
    ours, theirs = (shown.filter(source=one).to_dicts() for one in ("here", "paper"))
    bars = len(entries)
    figure = style.canvas(style.DOUBLE, 1.35 + 0.42 * (bars + 1))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[bars + 0.1, 1.1])
    _bars(above, ours, "This experiment")
    _bars(below, theirs, "The paper")
    style.on_paper_ground(below)
    above.tick_params(axis="x", length=0)
    over = turns.spread_of(context)
    below.set_xlabel(f"share of all weights (%{f'; in brackets: {over.brief}' if over else ''})")
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
            **over_training.opening(entry, found),
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
                _number(row),
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


def _number(row: dict[str, Any]) -> str:
    """A part's share, with its interval over seeds if there is one and room for it."""
    if row["source"] == "paper":
        return f"{row['pct']:g}"
    low, high = row["pct:low"], row["pct:high"]
    interval = f" [{low:.1f}, {high:.1f}]" if low is not None and row["pct"] > _ROOM else ""
    return f"{row['pct']:.1f}{interval}"


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    shares = {
        "never": "never updated",
        "cancelled": "updated, then cancelled out",
        "final": "subnetwork",
    }
    return {
        name: f"{paper.value('figure2_prime_gradients', 'pct', share=share):.0f}"
        for name, share in shares.items()
    }


def claims(drawn: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    runs: list[dict[str, Any]] = [
        {"label": label, **dict(zip(rows["part"], rows["pct"], strict=True))}
        for label, rows in shared.by_label(drawn)
    ]
    yield Claim(
        "Most weights are never updated",
        all_hold([run["never"] > 50 for run in runs]),
        listed(runs, "label", lambda run: f"{run['never']:.1f} %"),
        "{never} % (PRIME)",
    )
    yield Claim(
        "… and few were updated and cancelled out",
        all_hold([run["cancelled"] <= 10 for run in runs]),
        listed(runs, "label", lambda run: f"{run['cancelled']:.2f} %") + " seen between saves",
        "{cancelled} % (PRIME)",
    )


ARTEFACT = Figure(
    __name__, label="Figure 2", specification=rows_of("runs", over_training.RunShown), place=11
)
