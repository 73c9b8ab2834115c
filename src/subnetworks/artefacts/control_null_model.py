"""Control: sparsity that noise alone would have, predicted before each run, against the measured.

The null model (`subnetworks.measuring.null_model`) knows the init and the optimiser's settings.
What a run changes beyond its prediction is due to its gradients having a direction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from subnetworks.artefacts import style
from subnetworks.artefacts.base import Figure, Followed, Overlap, Predicted, Specification, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import (
    by_label,
    difference,
    frame,
    opening_of_run,
    percent,
    span,
)
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Sparsity measured against what noise alone would leave unchanged"
CAPTION = (
    "**Null model.** Sparsity (at most 1e-5 apart) of every run, at its end and at the steps it "
    "keeps, against what its optimiser's settings and its init alone let expect: AdamW moves "
    "every entry by about its learning rate, and an entry changes if bf16 does not round that "
    "away. The prediction takes gradients for noise without a direction; on the diagonal they "
    "might as well be. Small points are steps on the way, hollow ones runs within a mask."
)
ALT = (
    "Left, measured against predicted sparsity, one point a run and step; most lie below the "
    "diagonal. Right, both over training, the prediction as a dotted line."
)
WITHIN = 3.0
"""Points by which a prediction may be off and still count as right."""
SCHEMA = {
    "source": str,
    "label": str,
    "algorithm": str,
    "run": str,
    "learning_rate": float,
    "step": int,
    "is_end": bool,
    "is_masked": bool,
    "n": int,
    "predicted_pct": float,
    "measured_pct": float,
    "error": float,
    "predicted_without_embeddings_pct": float,
    "measured_without_embeddings_pct": float,
    "error_without_embeddings": float,
    "predicted_overlap_pct": float,
    "measured_overlap_pct": float,
}
"""Errors are predicted minus measured, in points; overlaps are the mean of o1 and o2."""


class Row(Specification):
    """A run; `followed` is the same if it keeps its steps, `overlap` that with another seed's."""

    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    run: Predicted
    followed: Followed | None = None
    overlap: Overlap | None = None
    label: str | None = None
    algorithm: str | None = None
    learning_rate: float | None = None


def rows(context: Context) -> polars.DataFrame:
    """Ends of all of `spec["runs"]`, and the steps of those that are followed."""
    found: list[dict[str, Any]] = []
    for entry in context.rows("runs"):
        predicted, measured = context.prediction(entry["run"]), context.update(entry["run"])
        inner = [one["without_embeddings"].get("sparsity") for one in (predicted, measured)]
        common = {
            **opening_of_run(entry),
            "is_masked": predicted["mask"] is not None,
            "n": measured["n"],
        }
        last = {"step": predicted["steps"][-1]["step"], "is_end": True}
        last |= _compared(predicted["sparsity"], measured["sparsity"])
        last |= _compared(inner[0], inner[1], "_without_embeddings")
        if "overlap" in entry:
            overlap = context.overlap(entry["overlap"])
            last["predicted_overlap_pct"] = percent(predicted["two_runs"]["o1"])
            last["measured_overlap_pct"] = percent((overlap["o1"] + overlap["o2"]) / 2)
        if "followed" in entry:
            expected = {row["step"]: row["sparsity"] for row in predicted["steps"]}
            found += [
                common
                | {"step": row["step"], "is_end": False}
                | _compared(expected[row["step"]], row["sparsity"])
                for row in context.trajectory(entry["followed"])["steps"]
                if row["step"] in expected and row["step"] != last["step"]
            ]
        found.append(common | last)
    return frame(found, SCHEMA)


def _compared(predicted: float | None, measured: float | None, suffix: str = "") -> dict[str, Any]:
    """Two shares of 1 in per cent, and the first minus the second in points."""
    return {
        f"predicted{suffix}_pct": percent(predicted),
        f"measured{suffix}_pct": percent(measured),
        f"error{suffix}": percent(difference(predicted, measured)),
    }


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["runs"]`."""
    drawn = rows(context)
    figure = style.canvas(style.DOUBLE, 2.9)
    left, right = figure.subplots(1, 2)
    _against(left, drawn)
    _over_steps(right, drawn)
    handles, labels = left.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=6)
    return figure, drawn


def _against(axes: Axes, drawn: polars.DataFrame) -> None:
    axes.plot([0, 100], [0, 100], color=style.FAINT, linewidth=0.9)
    for row in drawn.to_dicts():
        look = style.algorithm(row["algorithm"])
        axes.plot(
            [row["predicted_pct"]],
            [row["measured_pct"]],
            linestyle="",
            marker=look.marker,
            color=look.colour,
            markersize=5 if row["is_end"] else 2.5,
            markerfacecolor="none" if row["is_masked"] else look.colour,
            label=None if row["is_masked"] else row["algorithm"],
            clip_on=False,
        )
    axes.set_title("All runs")
    axes.set_xlabel("unchanged by noise alone, predicted (%)")
    axes.set_ylabel("left unchanged, measured (%)")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)


def _over_steps(axes: Axes, drawn: polars.DataFrame) -> None:
    for _, run in by_label(drawn):
        if len(run) < 2:
            continue
        look = style.algorithm(run["algorithm"][0])
        steps = [0, *run["step"]]
        for key, dash in (("measured_pct", look.dash), ("predicted_pct", ":")):
            axes.plot(steps, [100, *run[key]], color=look.colour, linestyle=dash)
    axes.set_title("Over training (dotted: predicted)")
    axes.set_xlabel("training step")
    axes.set_ylabel("left unchanged (%)")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 101)


def said(drawn: polars.DataFrame) -> list[str]:
    """How far off predictions are, for noise and for what learns."""
    ends = drawn.filter(is_end=True)
    whole = ends.filter(is_masked=False)
    right = whole.filter(polars.col("error").abs() <= WITHIN)
    lines = [
        f"Of {len(whole)} runs that train all weights, {len(right)} end within {WITHIN:g} points "
        f"of the prediction (errors {span(whole['error'])} points)"
        + (f": {', '.join(right['label'])}." if len(right) else ".")
    ]
    further = drawn.drop_nulls("measured_overlap_pct")
    lines += [
        f"{row['label']}: another seed's run shares {row['measured_overlap_pct']:.0f} % of the "
        f"changed weights, where noise alone would give {row['predicted_overlap_pct']:.0f} %."
        for row in further.to_dicts()
    ]
    return lines


ARTEFACT = Figure(__name__, specification=rows_of("runs", Row))
