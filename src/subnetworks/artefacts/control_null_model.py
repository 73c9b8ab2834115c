"""Control: sparsity that noise alone would have, predicted before each run, against the measured.

The null model (`subnetworks.measuring.null_model`) knows the init and the optimiser's settings.
What a run changes beyond its prediction is due to its gradients having a direction; how much of one
they have on the first batches is the one quantity more that a second prediction knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from subnetworks.artefacts import style
from subnetworks.artefacts.base import (
    Figure,
    Followed,
    Names,
    Overlap,
    Predicted,
    Specification,
    rows_of,
)
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.artefacts.shared import (
    by_label,
    difference,
    frame,
    opening_of_run,
    percent,
    span,
)
from subnetworks.core.results import Context
from subnetworks.core.schedule import FIRST_BATCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Sparsity measured against what noise alone would leave unchanged"
CAPTION = (
    "**Null model.** Sparsity (at most 1e-5 apart) of every run, at its end and at the steps it "
    "keeps, against what its optimiser's settings and its init alone let expect: AdamW moves "
    "every entry by about its learning rate, and an entry changes if bf16 does not round that "
    "away. The prediction takes gradients for noise without a direction; on the diagonal they "
    "might as well be. Where it is asked for, the same once more with the direction that the "
    f"gradients of the first {FIRST_BATCHES} batches have at the init, before any update. Small "
    "points are steps on the way, hollow ones runs within a mask."
)
ALT = (
    "First, measured against predicted sparsity, one point a run and step; most lie below the "
    "diagonal. Then, where there is one, against the prediction that knows the first gradients' "
    "signal. Last, all over training, the predictions as dotted and dashed lines."
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
    "with_signal_pct": float,
    "error_with_signal": float,
    "overlap_with_signal_pct": float,
}
"""Errors are predicted minus measured, in points; overlaps are the mean of o1 and o2. With signal:
predicted from the gradients of the first batches, too."""
LINES = (
    ("measured", "measured_pct", "-"),
    ("noise alone", "predicted_pct", ":"),
    ("with signal", "with_signal_pct", (0, (4, 2))),
)
"""Over training: what a line is of, its column and its dashes."""
Signal = Annotated[str, Names("runs", (f"predictions/{{}}/{FIRST_BATCHES}.json",))]


class Row(Specification):
    """A run; `followed` is the same if it keeps its steps, `overlap` that with another seed's,
    `signal` the same if its first gradients are looked at before it is made."""

    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    run: Predicted
    followed: Followed | None = None
    overlap: Overlap | None = None
    signal: Signal | None = None
    label: str | None = None
    algorithm: str | None = None
    learning_rate: float | None = None


def rows(context: Context) -> polars.DataFrame:
    """Ends of all of `spec["runs"]`, and the steps of those that are followed."""
    found: list[dict[str, Any]] = []
    for entry in context.rows("runs"):
        predicted, measured = context.prediction(entry["run"]), context.update(entry["run"])
        signal = context.prediction(entry["signal"], FIRST_BATCHES) if "signal" in entry else {}
        noise, known = _by_step(predicted), _by_step(signal)
        inner = [one["without_embeddings"].get("sparsity") for one in (predicted, measured)]
        common = {
            **opening_of_run(entry),
            "is_masked": predicted["mask"] is not None,
            "n": measured["n"],
        }
        end = max(noise)
        last: dict[str, Any] = {"step": end, "is_end": True}
        last |= _compared(noise[end], known.get(end), measured["sparsity"])
        last["predicted_without_embeddings_pct"] = percent(inner[0])
        last["measured_without_embeddings_pct"] = percent(inner[1])
        last["error_without_embeddings"] = percent(difference(*inner))
        if "overlap" in entry:
            overlap = context.overlap(entry["overlap"])
            last["predicted_overlap_pct"] = percent(predicted["two_runs"]["o1"])
            last["measured_overlap_pct"] = percent((overlap["o1"] + overlap["o2"]) / 2)
            last["overlap_with_signal_pct"] = percent(signal["two_runs"]["o1"] if signal else None)
        if "followed" in entry:
            found += [
                common
                | {"step": step, "is_end": False}
                | _compared(noise[step], known.get(step), row["sparsity"])
                for row in context.trajectory(entry["followed"])["steps"]
                if (step := row["step"]) in noise and step != end
            ]
        found.append(common | last)
    return frame(found, SCHEMA)


def _by_step(prediction: Mapping[str, Any]) -> dict[int, float]:
    """The expected sparsity, a share of 1, after each step that it is of."""
    return {row["step"]: row["sparsity"] for row in prediction.get("steps", [])}


def _compared(noise: float, known: float | None, measured: float) -> dict[str, Any]:
    """Sparsities in per cent, of noise alone, with the signal and measured; errors in points."""
    return {
        "predicted_pct": percent(noise),
        "measured_pct": percent(measured),
        "error": percent(difference(noise, measured)),
        "with_signal_pct": percent(known),
        "error_with_signal": percent(difference(known, measured)),
    }


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["runs"]`."""
    drawn = rows(context)
    knows = ["predicted_pct"]
    knows += ["with_signal_pct"] if drawn["with_signal_pct"].count() else []
    figure = style.canvas(style.DOUBLE, 2.9 if len(knows) == 1 else 2.5)
    *against, over = figure.subplots(1, len(knows) + 1)
    for axes, key in zip(against, knows, strict=True):
        _against(axes, drawn.drop_nulls(key), key)
    _over_steps(over, drawn)
    handles, labels = against[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    for label, key, dash in LINES:
        if drawn[key].count():
            named[label] = matplotlib.lines.Line2D([], [], color=style.FAINT, linestyle=dash)
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=6)
    return figure, drawn


def _against(axes: Axes, drawn: polars.DataFrame, key: str) -> None:
    axes.plot([0, 100], [0, 100], color=style.FAINT, linewidth=0.9)
    for row in drawn.to_dicts():
        look = style.algorithm(row["algorithm"])
        axes.plot(
            [row[key]],
            [row["measured_pct"]],
            linestyle="",
            marker=look.marker,
            color=look.colour,
            markersize=5 if row["is_end"] else 2.5,
            markerfacecolor="none" if row["is_masked"] else look.colour,
            label=None if row["is_masked"] else row["algorithm"],
            clip_on=False,
        )
    axes.set_title("Noise alone" if key == "predicted_pct" else "First gradients' signal")
    axes.set_xlabel("left unchanged, predicted (%)")
    axes.set_ylabel("left unchanged, measured (%)")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)


def _over_steps(axes: Axes, drawn: polars.DataFrame) -> None:
    for _, run in by_label(drawn):
        if len(run) < 2:
            continue
        look = style.algorithm(run["algorithm"][0])
        steps = [0, *run["step"]]
        for _, key, dash in LINES:
            if run[key].count():
                axes.plot(steps, [100, *run[key]], color=look.colour, linestyle=dash)
    axes.set_title("Over training")
    axes.set_xlabel("training step")
    axes.set_ylabel("left unchanged (%)")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 101)


def said(drawn: polars.DataFrame) -> list[str]:
    """How far off predictions are, for noise and for what learns."""
    whole = drawn.filter(is_end=True, is_masked=False)
    lines = [_right(whole, "error", "of the prediction")]
    if len(known := whole.drop_nulls("error_with_signal")):
        lines.append(_right(known, "error_with_signal", "of that with the first gradients' signal"))
    further = drawn.drop_nulls("measured_overlap_pct")
    lines += [
        f"{row['label']}: another seed's run shares {row['measured_overlap_pct']:.0f} % of the "
        f"changed weights, where noise alone would give {row['predicted_overlap_pct']:.0f} %"
        + (
            "."
            if row["overlap_with_signal_pct"] is None
            else f" and the signal {row['overlap_with_signal_pct']:.0f} %."
        )
        for row in further.to_dicts()
    ]
    return lines


def _right(whole: polars.DataFrame, key: str, of: str) -> str:
    """How many runs end close to a prediction."""
    right = whole.filter(polars.col(key).abs() <= WITHIN)
    return (
        f"Of {len(whole)} runs that train all weights, {len(right)} end within {WITHIN:g} points "
        f"{of} (errors {span(whole[key])} points)"
        + (f": {', '.join(right['label'])}." if 0 < len(right) <= len(whole) / 2 else ".")
    )


ARTEFACT = Figure(__name__, specification=rows_of("runs", Row))
