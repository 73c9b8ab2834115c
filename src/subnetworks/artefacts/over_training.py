"""What the figures over training share: a run's saved steps as a frame, and panels of lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from subnetworks.artefacts import shared, style, turns
from subnetworks.artefacts.base import Followed, Specification
from subnetworks.artefacts.lazy import polars
from subnetworks.core.results import Context, compared_share_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

RUN_SCHEMA = {
    "source": str,
    "label": str,
    "algorithm": str,
    "run": str,
    "n": int,
    "compared_share_pct": float,
}
"""What `opening` gives."""
SCHEMA = {**RUN_SCHEMA, "step": int}
"""Columns that open the frame of every such figure."""


class RunShown(Specification):
    """A run that keeps its steps."""

    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    run: Followed
    label: str | None = None
    algorithm: str | None = None


def runs(context: Context) -> list[dict[str, Any]]:
    """The entries of `spec["runs"]`, each with `run`, `algorithm` and `label`."""
    entries = context.rows("runs")
    labels = [entry.get("label", entry["algorithm"]) for entry in entries]
    return [{**entry, "label": label} for entry, label in zip(entries, labels, strict=True)]


def opening(entry: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What opens a row of one of `runs` whose trajectory was `found`. Keys: `RUN_SCHEMA`."""
    return {
        "source": "here",
        **{key: entry[key] for key in ("label", "algorithm", "run")},
        "n": found["n"],
        "compared_share_pct": compared_share_of(found),
    }


def steps(context: Context, entry: dict[str, Any], **shares: str) -> polars.DataFrame:
    """A run's saved steps, from step 0, where nothing has changed yet.

    Args:
        context: where the results lie.
        entry: one of `runs`.
        shares: column of the figure to column of the trajectory, a share; given in per cent. One
            that is called `sparsity…` is 100 % at step 0, others 0.
    """
    found = context.trajectory(entry["run"])
    rows = [{"step": 0, **{key: float(key.startswith("sparsity")) for key in shares}}]
    rows += [
        {"step": row["step"], **{key: row[column] for key, column in shares.items()}}
        for row in found["steps"]
    ]
    return frame(
        [
            {
                **opening(entry, found),
                "step": row["step"],
                **{key: None if row[key] is None else 100 * row[key] for key in shares},
            }
            for row in rows
        ],
        *shares,
    )


def digitised(paper: polars.DataFrame, column: str, value: str) -> polars.DataFrame:
    """The paper's PRIME run, `column` of its digitised values as `value`."""
    rows = [
        {
            "source": "paper",
            "label": "PRIME",
            "algorithm": "PRIME",
            "step": row["step"],
            value: row[column],
        }
        for row in paper.to_dicts()
    ]
    return frame(rows, value)


def frame(rows: list[dict[str, Any]], *values: str) -> polars.DataFrame:
    """Rows with the opening columns and `values`, absent ones null."""
    return shared.frame(rows, {**SCHEMA, **dict.fromkeys(values, float)})


def beside_the_paper(
    context: Context, value: str, column: str, paper: tuple[str, str], ylabel: str
) -> tuple[Drawing, polars.DataFrame]:
    """Our runs at the left, the paper's at the right on grey ground, on one scale.

    Args:
        context: where the results lie; `spec["runs"]` are drawn.
        value: what is drawn, in per cent.
        column: what a trajectory calls it.
        paper: the file of the paper's values, and what that calls it.
        ylabel: the axis' label.
    """
    ours = polars.concat([steps(context, entry, **{value: column}) for entry in runs(context)])
    theirs = digitised(context.paper(paper[0]), paper[1], value)
    drawn = polars.concat([ours, theirs])
    ours, theirs = turns.with_intervals(context, [ours, theirs], value)
    figure = style.canvas(style.DOUBLE, 2.7)
    left, right = figure.subplots(1, 2, sharey=True)
    named: dict[str, Any] = {}
    for axes, lines, title in (
        (left, ours, "This experiment"),
        (right, theirs, "The paper (digitised, ±0.3)"),
    ):
        for label, steps_of in shared.by_label(lines):
            line(axes, steps_of, value, label)
        axes.set_title(title)
        step_axis(axes, lines)
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    style.on_paper_ground(right)
    right.tick_params(axis="y", length=0)
    left.set_ylabel(ylabel)
    handles = [*named.values(), *style.whisker(turns.spread_of(context))]
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure, drawn


def line(axes: Axes, of: polars.DataFrame, value: str, label: str, **look: Any) -> None:
    """One run's `value` over its steps in its algorithm's look, with its intervals over seeds."""
    drawn = style.algorithm(of["algorithm"][0])
    style.whiskers(axes, of["step"].to_list(), of, value, ecolor=look.get("color", drawn.colour))
    axes.plot(
        of["step"].to_numpy(),
        of[value].to_numpy(),
        **{
            "color": drawn.colour,
            "linestyle": drawn.dash,
            "marker": drawn.marker,
            "markeredgewidth": 0,
            "markersize": 4.5,
            "clip_on": False,  # steps at an axis' end keep their whole marker
            "zorder": 3,
            "label": label,
            **look,
        },
    )


def step_axis(axes: Axes, lines: polars.DataFrame) -> None:
    """Steps from 0, and how many weights the shares are of, where that is known."""
    counts = sorted(set(lines["n"].drop_nulls()))
    weights = ", ".join(f"{n:,}" for n in counts)
    axes.set_xlabel("training step" + (f" (n = {weights} weights)" if counts else ""))
    style.step_ticks(axes)
    axes.set_xlim(left=0)
