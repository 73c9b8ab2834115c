"""Figure 7: accuracy over training beside sparsity, from the init and from save to save."""

from typing import Any

import matplotlib.lines
import polars
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subnetworks.errors import UserError
from subnetworks.figures import over_training, style
from subnetworks.results import Context

NAME = "figure_7_accuracy_and_intervals"
TITLE = "Figure 7. Sparsity from the init and from save to save, and accuracy"
ALT = (
    "One column a run. Above, the share of weights left unchanged since the init, falling, and "
    "since the saved step before; below, the accuracy of training, raw and smoothed."
)
_VALUES = ("sparsity_pct", "sparsity_consecutive_pct", "accuracy_pct", "accuracy_smoothed_pct")
SCHEMA = {**over_training.SCHEMA, **dict.fromkeys(_VALUES, polars.Float64)}
_BETWEEN: dict[str, Any] = {
    "color": style.INK,
    "linestyle": (0, (4, 1.5)),
    "markerfacecolor": "white",
    "markeredgecolor": style.INK,
    "markeredgewidth": 0.9,
}
_RAW: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.4}
_PREFERENCE = {"DPO", "ORPO", "KTO", "SIMPO"}


def draw(context: Context) -> tuple[Figure, polars.DataFrame]:
    """Draw `spec["runs"]`, each with `run`, `algorithm` and maybe `label`.

    Sparsity is the paper's, |Δ| ≤ 1e-5. Accuracy is the log's, on the batch of each step before it
    is learnt from: right answers among those sampled, or for preference training pairs whose chosen
    answer leads. It is smoothed over the steps between two saves. Source: Figure 7, of which no
    values are printed.
    """
    entries = over_training.runs(context, NAME)
    panels = []
    for entry in entries:
        saved = over_training.steps(
            context,
            entry,
            sparsity_pct="sparsity",
            sparsity_consecutive_pct="sparsity_consecutive",
        )
        panels.append(_joined(context, saved))
    figure = Figure(figsize=(style.DOUBLE if len(panels) > 1 else style.SINGLE, 3.6))
    grid = figure.subplots(
        2, len(panels), sharex="col", sharey="row", squeeze=False, height_ratios=[1.3, 1]
    )
    for column, panel in enumerate(panels):
        _sparsity(grid[0][column], panel)
        _accuracy(grid[1][column], panel)
    frame = polars.concat(panels)
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
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure, frame


def _joined(context: Context, saved: polars.DataFrame) -> polars.DataFrame:
    """Every logged step with its accuracy, the saved ones with their sparsities too."""
    first = saved.row(0, named=True)
    log = context.log(first["run"])
    if "accuracy" not in log.columns or log["accuracy"].null_count() == log.height:
        raise UserError(f"runs/{first['run']}/log.csv: nothing in column 'accuracy'")
    window = max(5, saved["step"][1]) | 1
    accuracy = log.select(
        polars.col("step").cast(polars.Int64),
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
