"""What the figures over training share: a run's saved steps as a frame, and panels of lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from subnetworks.artefacts import style
from subnetworks.artefacts.base import Followed, Specification
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.core.results import Context, compared_share_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

SCHEMA = {
    "source": str,
    "label": str,
    "algorithm": str,
    "run": str,
    "n": int,
    "compared_share_pct": float,
    "step": int,
}
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
                "source": "here",
                "label": entry["label"],
                "algorithm": entry["algorithm"],
                "run": entry["run"],
                "n": found["n"],
                "compared_share_pct": compared_share_of(found),
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


def frame(rows: Sequence[dict[str, Any]], *values: str) -> polars.DataFrame:
    """Rows with the opening columns and `values`, absent ones null."""
    schema = {**SCHEMA, **dict.fromkeys(values, float)}
    filled = [{key: row.get(key) for key in schema} for row in rows]
    return polars.DataFrame(filled, schema=schema, orient="row")


def beside_the_paper(
    ours: polars.DataFrame, theirs: polars.DataFrame, value: str, ylabel: str
) -> tuple[Drawing, polars.DataFrame]:
    """Our runs at the left, the paper's at the right on grey ground, on one scale."""
    figure = style.canvas(style.DOUBLE, 2.7)
    left, right = figure.subplots(1, 2, sharey=True)
    named: dict[str, Any] = {}
    for axes, lines, title in (
        (left, ours, "This experiment"),
        (right, theirs, "The paper (digitised, ±0.3)"),
    ):
        for label in lines["label"].unique(maintain_order=True):
            line(axes, lines.filter(polars.col("label") == label), value, label)
        axes.set_title(title)
        step_axis(axes, lines)
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    style.on_paper_ground(right)
    right.tick_params(axis="y", length=0)
    left.set_ylabel(ylabel)
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=6)
    return figure, polars.concat([ours, theirs])


def line(axes: Axes, of: polars.DataFrame, value: str, label: str, **look: Any) -> None:
    """One run's `value` over its steps in its algorithm's look."""
    drawn = style.algorithm(of["algorithm"][0])
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
    axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True)
    )
    axes.set_xlim(left=0)
