"""Control: sparsity, and accuracy, against the learning rate, for SFT and for RL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from subnetworks.artefacts import shared, style
from subnetworks.artefacts.base import Benchmark, Figure, Scored, Specification, UpdateShown
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.core.results import Context, by_hand

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Sparsity and accuracy against the learning rate"
CAPTION = (
    "**Learning rate.** Sparsity after as many steps at learning rates from 5e-7 to 1.5e-5, "
    "and what accuracy goes with it. The paper compares SFT and RL at the learning rates that "
    "are usual for each, which differ."
)
ALT = (
    "Left, the share of weights left unchanged against the learning rate, a falling line for SFT "
    "and for each RL algorithm; right, accuracy on held-out questions with its standard error, "
    "and the start model's as a level."
)
SCHEMA = {
    "source": str,
    "algorithm": str,
    "update": str,
    "learning_rate": float,
    "steps": int,
    "n": int,
    "sparsity_pct": float,
    "bit_equal_pct": float,
    "questions": int,
    "accuracy_pct": float,
    "accuracy_stderr_pct": float,
    "start_accuracy_pct": float,
}


class Start(Specification):
    """The scored start model."""

    about: ClassVar[tuple[str, ...]] = ()
    full: Scored


class Row(UpdateShown):
    """An update."""

    needs: ClassVar[tuple[str, ...]] = ("algorithm", "learning_rate")
    full: Scored | None = None
    """The scored end of it."""
    learning_rate: float | None = None
    steps: int | None = None


class Shown(Specification):
    """What is shown."""

    updates: list[Row] = Field(min_length=1)
    benchmark: Benchmark
    start: Start


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["updates"]`; sparsity is the paper's, |Δ| ≤ 1e-5."""
    benchmark, start = context.spec["benchmark"], context.spec["start"]["full"]
    begin = context.score(start, benchmark)["score"]
    rows = []
    for entry in context.rows("updates"):
        measured = context.update(entry["update"])
        row: dict[str, Any] = {
            "source": "here",
            **{key: entry[key] for key in ("algorithm", "update", "learning_rate")},
            "steps": entry.get("steps"),
            "n": measured["n"],
            "sparsity_pct": 100 * measured["sparsity"],
            "bit_equal_pct": 100 * measured["bit_equal"] / measured["n"],
            "start_accuracy_pct": 100 * begin,
        }
        if "full" in entry:
            score = context.score(entry["full"], benchmark)
            row["questions"] = score["n"]
            row["accuracy_pct"] = 100 * score["score"]
            row["accuracy_stderr_pct"] = 100 * score["stderr"]
        rows.append(row)
    frame = shared.frame(rows, SCHEMA).sort("algorithm", "learning_rate", maintain_order=True)
    figure = style.canvas(style.DOUBLE, 2.6)
    left, right = figure.subplots(1, 2, sharex=True)
    for algorithm in dict.fromkeys(entry["algorithm"] for entry in rows):
        _line(left, frame.filter(algorithm=algorithm), "sparsity_pct")
        _line(right, frame.filter(algorithm=algorithm), "accuracy_pct", "accuracy_stderr_pct")
    steps = frame["steps"].drop_nulls().unique().sort().to_list()
    words = f" after {'–'.join(map(str, steps))} steps" if steps else ""
    left.set_title(f"Sparsity{words} (n = {frame['n'][0]:,})")
    left.set_ylabel("weights left unchanged (%)")
    left.set_ylim(0, 101)
    asked = frame["questions"].drop_nulls()
    right.set_title("Accuracy" + (f" (n = {asked[0]:,})" if len(asked) else ""))
    right.set_ylabel("right answers (%)")
    level = right.axhline(100 * begin, color=style.FAINT, linewidth=0.9, linestyle=(0, (4, 1.5)))
    rates = frame["learning_rate"].unique().sort().to_list()
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(rates)
        axes.xaxis.set_major_formatter(
            matplotlib.ticker.FuncFormatter(lambda rate, _: by_hand(rate))
        )
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_xlabel("learning rate")
    handles, labels = left.get_legend_handles_labels()
    handles, labels = [*handles, level], [*labels, "start model"]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure, frame


def _line(axes: Axes, rows: polars.DataFrame, key: str, error: str | None = None) -> None:
    rows = rows.drop_nulls(key)
    if rows.is_empty():
        return
    name = rows["algorithm"][0]
    look = style.algorithm(name)
    axes.errorbar(
        rows["learning_rate"].to_numpy(),
        rows[key].to_numpy(),
        yerr=None if error is None else rows[error].to_numpy(),
        label=name,
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash,
        capsize=2,
        elinewidth=0.9,
    )


def said(frame: polars.DataFrame) -> list[str]:
    """How much of sparsity is the learning rate's, against how much is the algorithm's."""
    lines = []
    spans: list[float] = []
    for (algorithm,), rows in frame.group_by("algorithm", maintain_order=True):
        rows = rows.sort("learning_rate")
        first, last = rows.row(0, named=True), rows.row(-1, named=True)
        spans.append(first["sparsity_pct"] - last["sparsity_pct"])
        words = (
            f"{algorithm}: from a learning rate of {by_hand(first['learning_rate'])} to "
            f"{by_hand(last['learning_rate'])} sparsity goes from {first['sparsity_pct']:.1f} to "
            f"{last['sparsity_pct']:.1f} %"
        )
        if not rows["accuracy_pct"].null_count():
            best = rows.sort("accuracy_pct").row(-1, named=True)
            words += (
                f", accuracy from {first['accuracy_pct']:.1f} to {last['accuracy_pct']:.1f} % "
                f"(best: {best['accuracy_pct']:.1f} % at {by_hand(best['learning_rate'])}, where "
                f"{best['sparsity_pct']:.1f} % are unchanged)"
            )
        lines.append(words + ".")
    apart = [
        float(rows["sparsity_pct"].max()) - float(rows["sparsity_pct"].min())  # type: ignore[arg-type]
        for _, rows in frame.group_by("learning_rate")
        if rows["algorithm"].n_unique() > 1
    ]
    if apart and spans:
        lines.append(
            f"The learning rate moves sparsity by {min(spans):.0f} to {max(spans):.0f} points, the "
            f"algorithm at one learning rate by {min(apart):.0f} to {max(apart):.0f}."
        )
    return lines


ARTEFACT = Figure(__name__, specification=Shown)
