"""Figure 1: supervised finetuning changes nearly every weight, reinforcement learning far fewer."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, ClassVar

from subnetworks.artefacts import shared, style, turns
from subnetworks.artefacts.base import Figure, Specification, Update, rows_of
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.artefacts.published import Published, Quotes, ends
from subnetworks.core.results import Context, compared_share_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Figure 1. Sparsity of the update: SFT against RL"
CAPTION = (
    "**SFT against RL.** Share of weights left exactly unchanged (bars; ticks: at most 1e-5 "
    "apart) by supervised finetuning and by the reinforcement learning or preference training "
    "that follows it. On grey ground the paper's six families: {sft_low} to {sft_high} % for "
    "SFT, {rl_low} to {rl_high} % for RL. The runs differ in learning rate as well, which by "
    "itself makes an update sparser or denser."
)
ALT = (
    "Pairs of bars, one pair per model family: the share of weights that supervised finetuning "
    "leaves unchanged beside the share that reinforcement learning leaves unchanged; ours at the "
    "left, the paper's on grey ground at the right."
)
_WIDTH = 0.38
SCHEMA = {
    "source": str,
    "family": str,
    "training": str,
    "algorithm": str,
    "update": str,
    "n": int,
    "compared_share_pct": float,
    "sparsity_exact_pct": float,
    "sparsity_1e-5_pct": float,
}


class Row(Specification):
    """A model finetuned twice."""

    about: ClassVar[tuple[str, ...]] = ("rl",)
    family: str
    sft: Update
    rl: Update
    algorithm: str | None = None
    published: str | None = None


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["families"]`.

    Bars show exact equality (Δ = 0), as the paper's figure does (its values are those of Table 6 at
    tolerance 1e-8); a tick on ours shows |Δ| ≤ 1e-5.
    """
    families = context.rows("families")
    ours = [row for entry in families for row in _measured(context, entry)]
    theirs = [
        row for entry in context.paper("figure1_sft_vs_rl").to_dicts() for row in _published(entry)
    ]
    frame = shared.frame([*ours, *theirs], SCHEMA)
    (shown,) = turns.with_intervals(context, [frame], "sparsity_exact_pct")
    ours, theirs = (shown.filter(source=one).to_dicts() for one in ("here", "paper"))
    groups = [len(rows) // 2 for rows in (ours, theirs)]
    figure = style.canvas(style.DOUBLE, 2.9)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[groups[0] + 0.5, groups[1]])
    _bars(left, ours, "This experiment")
    _bars(right, theirs, "The paper")
    style.on_paper_ground(right)
    right.tick_params(axis="y", length=0)
    left.set_ylabel("weights left unchanged (%)")
    # Room for a number above a bar that is nearly as high as can be.
    full = any(_top(row) > 92 for row in [*ours, *theirs])
    left.set_ylim(0, 108 if full else 100)
    left.set_yticks(range(0, 101, 20))
    handles: list[Any] = [
        _patch(algorithm, label)
        for algorithm, label in {
            row["algorithm"]: "SFT" if row["training"] == "SFT" else f"RL: {row['algorithm']}"
            for row in [*ours, *theirs]
        }.items()
    ]
    (tick,) = left.plot([], [], color=style.INK, linewidth=1.6, label="at |Δ| ≤ 1e-5 (bars: Δ = 0)")
    handles += [tick, *style.whisker(turns.spread_of(context))]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure, frame


def _measured(context: Context, entry: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for training, key in (("SFT", "sft"), ("RL", "rl")):
        measured = context.update(entry[key])
        n = measured["n"]
        rows.append(
            {
                "source": "here",
                "family": entry["family"],
                "training": training,
                "algorithm": "SFT"
                if key == "sft"
                else entry.get("algorithm") or _named(entry["family"]),
                "update": entry[key],
                "n": n,
                "compared_share_pct": compared_share_of(measured),
                "sparsity_exact_pct": 100 * measured["equal"] / n,
                "sparsity_1e-5_pct": 100 * measured["isclose_bf16"]["1e-5"] / n,
            }
        )
    return rows


def _published(entry: dict[str, Any]) -> list[dict[str, Any]]:
    common = {
        "source": "paper",
        "family": entry["family"],
        "update": None,
        "n": None,
        "compared_share_pct": None,
    }
    return [
        {
            **common,
            "training": training,
            "algorithm": "SFT" if training == "SFT" else _named(entry["family"]),
            "sparsity_exact_pct": entry[f"{training.lower()}_sparsity_pct"],
            "sparsity_1e-5_pct": None,
        }
        for training in ("SFT", "RL")
    ]


def _named(family: str) -> str:
    """The algorithm that a family's name ends with, as in `Tulu 8B DPO`."""
    return family.replace(",", " ").split()[-1]


def _top(row: dict[str, Any]) -> float:
    """How high a bar, its tick and its interval reach, in per cent."""
    reached = ("sparsity_exact_pct", "sparsity_exact_pct:high", "sparsity_1e-5_pct")
    return max(row[key] or 0 for key in reached)


def _bars(axes: Axes, rows: list[dict[str, Any]], title: str) -> None:
    labels = []
    for number, row in enumerate(rows):
        group, place = divmod(number, 2)
        x = group + (place - 0.5) * (_WIDTH + 0.03)
        look = style.algorithm(row["algorithm"])
        height = row["sparsity_exact_pct"]
        axes.bar(
            x,
            height,
            _WIDTH,
            color=look.colour,
            hatch=look.hatch,
            edgecolor=style.INK,
            linewidth=0.6,
        )
        if (tick := row["sparsity_1e-5_pct"]) is not None:
            axes.hlines(tick, x - _WIDTH / 2, x + _WIDTH / 2, color=style.INK, linewidth=1.6)
        style.whiskers(axes, [x], polars.DataFrame([row]), "sparsity_exact_pct")
        axes.annotate(
            f"{height:.1f}",
            (x, _top(row)),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
        if place == 0:
            name = textwrap.fill(row["family"], 13, break_on_hyphens=False)
            labels.append(name if row["n"] is None else f"{name}\nn = {shared.short(row['n'])}")
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", length=0, labelsize=7)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_title(title)


def _patch(algorithm: str, label: str) -> matplotlib.patches.Patch:
    look = style.algorithm(algorithm)
    return matplotlib.patches.Patch(
        facecolor=look.colour, hatch=look.hatch, edgecolor=style.INK, linewidth=0.6, label=label
    )


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    return {
        **ends("sft", paper.values("figure1_sft_vs_rl", "sft_sparsity_pct"), 0),
        **ends("rl", paper.values("figure1_sft_vs_rl", "rl_sparsity_pct"), 0),
    }


ARTEFACT = Figure(__name__, label="Figure 1", specification=rows_of("families", Row))
