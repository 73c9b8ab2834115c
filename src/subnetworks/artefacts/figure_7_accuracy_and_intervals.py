"""Figure 7: accuracy over training beside sparsity, from the init and from save to save."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from subnetworks.artefacts import over_training, shared, style, turns
from subnetworks.artefacts.base import FOLLOWED, Figure, Names, rows_of
from subnetworks.artefacts.claims import TWO_SIDED_95, Claim, all_hold, listed
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Figure 7. Sparsity from the init and from save to save, and accuracy"
CAPTION = (
    "**Accuracy, and updates between saved steps.** Above, the share of weights left "
    "unchanged (at most 1e-5 apart) since the init, and since the saved step before. Below, "
    "the accuracy of training as its log has it, before each step learns from its batch: "
    "right answers among those sampled, or for preference training pairs whose chosen answer "
    "leads; thick, the running mean. It is not the accuracy of saved steps on a benchmark. "
    "The paper prints no values of this figure."
)
ALT = (
    "One column a run. Above, the share of weights left unchanged since the init, falling, and "
    "since the saved step before; below, the accuracy of training, raw and smoothed."
)
_VALUES = ("sparsity_pct", "sparsity_consecutive_pct", "accuracy_pct", "accuracy_smoothed_pct")
SCHEMA = {**over_training.SCHEMA, **dict.fromkeys(_VALUES, float)}
_BETWEEN: dict[str, Any] = {
    "color": style.INK,
    "linestyle": (0, (4, 1.5)),
    "markerfacecolor": "white",
    "markeredgecolor": style.INK,
    "markeredgewidth": 0.9,
}
_RAW: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.4}
_PREFERENCE = {"DPO", "ORPO", "KTO", "SIMPO"}


class Row(over_training.RunShown):
    """A run that keeps its steps."""

    run: Annotated[str, Names(FOLLOWED, ("trajectories/{}.json", "runs/{}/log.csv"))]


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["runs"]`.

    Sparsity is the paper's, |Δ| ≤ 1e-5. Accuracy is the log's, on the batch of each step before it
    is learnt from: right answers among those sampled, or for preference training pairs whose chosen
    answer leads. It is smoothed over the steps between two saves. Source: Figure 7, of which no
    values are printed.
    """
    entries = over_training.runs(context)
    panels = []
    for entry in entries:
        saved = over_training.steps(
            context,
            entry,
            sparsity_pct="sparsity",
            sparsity_consecutive_pct="sparsity_consecutive",
        )
        panels.append(_joined(context, saved))
    frame = polars.concat(panels)
    panels = turns.with_intervals(
        context, panels, "sparsity_pct", "sparsity_consecutive_pct", "accuracy_smoothed_pct"
    )
    figure = style.canvas(style.DOUBLE if len(panels) > 1 else style.SINGLE, 3.6)
    grid = figure.subplots(
        2, len(panels), sharex="col", sharey="row", squeeze=False, height_ratios=[1.3, 1]
    )
    for column, panel in enumerate(panels):
        _sparsity(grid[0][column], panel)
        _accuracy(grid[1][column], panel)
    lowest = float(frame["sparsity_pct"].min() or 0)  # type: ignore[arg-type]
    grid[0][0].set_ylim(max(0, 10 * ((lowest - 1) // 10)), 101)
    grid[0][0].set_ylabel("weights left\nunchanged (%)")
    grid[1][0].set_ylabel("accuracy in\ntraining (%)")
    looks: dict[str, dict[str, Any]] = {
        "since the init": {"marker": "o"},
        "since the saved step before": _BETWEEN | {"marker": "o"},
        "accuracy of one step": _RAW,
        "its running mean": {},
    }
    handles = [
        matplotlib.lines.Line2D([], [], **{"color": style.FAINT, "label": label, **look})
        for label, look in looks.items()
    ]
    over = turns.spread_of(context)
    handles += style.whisker(over, "bars and bands: ")
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if over else 4)
    return figure, frame


def _joined(context: Context, saved: polars.DataFrame) -> polars.DataFrame:
    """Every logged step with its accuracy, the saved ones with their sparsities too."""
    first = saved.row(0, named=True)
    log = context.log(first["run"])
    if "accuracy" not in log.columns or log["accuracy"].null_count() == log.height:
        raise UserError(f"runs/{first['run']}/log.csv: nothing in column 'accuracy'")
    window = max(5, saved["step"][1]) | 1
    accuracy = log.select(
        polars.col("step").cast(int),
        accuracy_pct=100 * polars.col("accuracy"),
        accuracy_smoothed_pct=100
        * polars.col("accuracy").rolling_mean(window, min_samples=1, center=True),
    )
    constant = ("source", "label", "algorithm", "run", "n")
    return (
        saved.drop(constant)
        .join(accuracy, on="step", how="full", coalesce=True)
        .sort("step")
        .with_columns(**{key: polars.lit(first[key]) for key in constant})
        .select(polars.col(name).cast(kind) for name, kind in SCHEMA.items())
    )


def _sparsity(axes: Axes, panel: polars.DataFrame) -> None:
    saved = panel.drop_nulls("sparsity_pct")
    over_training.line(axes, saved, "sparsity_pct", "since the init")
    over_training.line(
        axes,
        saved.filter(polars.col("step") > 0),
        "sparsity_consecutive_pct",
        "since the saved step before",
        **_BETWEEN,
    )
    every = saved["step"][1]
    axes.set_title(f"{panel['label'][0]}: saved every {every} steps")


def _accuracy(axes: Axes, panel: polars.DataFrame) -> None:
    name = panel["algorithm"][0]
    look = style.algorithm(name)
    logged = panel.drop_nulls("accuracy_pct")
    steps = logged["step"].to_numpy()
    style.band(axes, steps, logged, "accuracy_smoothed_pct", look.colour)
    axes.plot(steps, logged["accuracy_pct"].to_numpy(), color=look.colour, **_RAW)
    axes.plot(steps, logged["accuracy_smoothed_pct"].to_numpy(), color=look.colour)
    preference = name.split(",")[0].split()[0].upper() in _PREFERENCE
    axes.set_title(
        "chosen answer leads" if preference else "sampled answers right",
        fontsize=7.5,
        weight="normal",
    )
    axes.set_ylim(0, 100)
    over_training.step_axis(axes, panel)


def claims(drawn: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    saves: list[dict[str, Any]] = []
    rises: list[dict[str, Any]] = []
    for label, rows in shared.by_label(drawn.sort("step")):
        saved = rows.drop_nulls("sparsity_consecutive_pct")
        last = saved.row(-1, named=True)
        between, since = last["sparsity_consecutive_pct"], last["sparsity_pct"]
        saves.append({"label": label, "between": between, "since": since})
        accuracy = rows["accuracy_pct"].drop_nulls()
        quarter = max(2, accuracy.len() // 4)
        early, late = accuracy.head(quarter), accuracy.tail(quarter)
        gain = float(late.mean()) - float(early.mean())  # type: ignore[arg-type]
        spread = [float(part.std() or 0) ** 2 / part.len() for part in (early, late)]  # type: ignore[arg-type]
        rises.append({"label": label, "gain": gain, "error": math.sqrt(sum(spread))})
    yield Claim(
        "From save to save few weights change, fewer than since the init (at the end)",
        all_hold([run["between"] > run["since"] for run in saves]),
        listed(saves, "label", lambda run: f"{run['between']:.1f} % kept since the last save"),
        "drawn (PRIME), no values",
        margin=min(run["between"] - run["since"] for run in saves),
    )
    yield Claim(
        "Accuracy in training rises, beyond the noise",
        all_hold([run["gain"] > TWO_SIDED_95 * run["error"] for run in rises]),
        listed(rises, "label", lambda run: f"{run['gain']:+z.1f} ± {run['error']:.1f} points")
        + " from the first quarter to the last",
        "drawn (PRIME), no values",
        margin=min(run["gain"] for run in rises),
    )


ARTEFACT = Figure(__name__, label="Figure 7", specification=rows_of("runs", Row), place=15)
