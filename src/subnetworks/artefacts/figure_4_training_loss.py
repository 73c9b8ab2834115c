"""Figure 4: training within the subnetwork follows full training, or does better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from subnetworks.artefacts import style, turns
from subnetworks.artefacts.base import Figure, Logged, Specification, rows_of
from subnetworks.artefacts.claims import Claim
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.statistics import over_steps
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Figure 4. Training: full against within the subnetwork"
CAPTION = (
    "**Training within the subnetwork.** Loss (preference training) or mean reward (online "
    "training) of the full run and of the run within its subnetwork, on the same data in the "
    "same order; below, their difference, with one standard error of the running mean. The "
    "paper finds the loss of the masked DPO run below the full run's throughout."
)
ALT = (
    "One column a pair of runs. Above, loss or reward against the training step, raw and "
    "smoothed, for full training and for training within its subnetwork; below, the difference of "
    "the two with its standard error around a zero line."
)
_ONLINE = {"GRPO", "PPO", "PRIME", "RLOO", "RAFT++"}
_MEASURES = {"loss": "loss", "reward": "mean reward", "accuracy": "accuracy"}
_KINDS = ("full", "subnetwork", "difference")
SCHEMA = {
    "algorithm": str,
    "measure": str,
    "step": int,
    **{f"{kind}{suffix}": float for kind in _KINDS for suffix in ("", "_smoothed", "_stderr")},
    "window": int,
}


class Row(Specification):
    """A full run and the run within its subnetwork."""

    about: ClassVar[tuple[str, ...]] = ("full",)
    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    full: Logged
    subnetwork: Logged
    algorithm: str | None = None
    measure: str | None = None
    """A column of the log, instead of the loss or the reward."""


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["pairs"]`: the loss of preference training, the reward of online algorithms, whose
    loss says nothing. Source: Figure 4.
    """
    pairs = context.rows("pairs")
    panels = [_joined(context, pair) for pair in pairs]
    frame = polars.concat(panels)
    panels = turns.with_intervals(context, panels, *(f"{kind}_smoothed" for kind in _KINDS))
    figure = style.canvas(style.DOUBLE if len(panels) > 1 else style.SINGLE, 3.7)
    grid = figure.subplots(2, len(panels), sharex="col", squeeze=False, height_ratios=[2.2, 1])
    for column, panel in enumerate(panels):
        _curves(grid[0][column], panel)
        _difference(grid[1][column], panel, turns.spread_of(context))
    return figure, frame


def smooth(values: polars.Expr, window: int) -> polars.Expr:
    """Centred running mean over `window` steps (fewer at the ends)."""
    return values.rolling_mean(window, min_samples=1, center=True)


def _joined(context: Context, pair: dict[str, Any]) -> polars.DataFrame:
    """Both logs by step, smoothed, with the standard errors of the running means."""
    algorithm = pair["algorithm"]
    online = algorithm.split(",")[0].upper() in _ONLINE
    measure = pair.get("measure", "reward" if online else "loss")
    logs = []
    for kind in ("full", "subnetwork"):
        log = context.log(pair[kind])
        if measure not in log.columns or log[measure].null_count() == log.height:
            raise UserError(
                f"runs/{pair[kind]}/log.csv: nothing in column {measure!r}; "
                f"name another as `measure`: {', '.join(c for c in log.columns if c != 'step')}"
            )
        logs.append(log.select("step", polars.col(measure).alias(kind)))
    joined = logs[0].join(logs[1], on="step").drop_nulls().sort("step")
    if joined.is_empty():
        raise UserError(f"runs {pair['full']} and {pair['subnetwork']}: no step in common")
    window = max(5, joined.height // 10) | 1
    joined = joined.with_columns(
        difference=polars.col("subnetwork") - polars.col("full"),
        algorithm=polars.lit(algorithm),
        measure=polars.lit(measure),
        window=polars.lit(window),
    )
    for kind in _KINDS:
        values = polars.col(kind)
        spread = values.rolling_std(window, min_samples=2, center=True)
        held = values.is_not_null().cast(float).rolling_sum(window, min_samples=1, center=True)
        joined = joined.with_columns(
            smooth(values, window).alias(f"{kind}_smoothed"),
            (spread / held.sqrt()).alias(f"{kind}_stderr"),
        )
    return joined.select(polars.col(name).cast(kind) for name, kind in SCHEMA.items())


_SUBNETWORK = style.Look(style.INK, dash=(0, (4, 1.5)))


def _curves(axes: Axes, panel: polars.DataFrame) -> None:
    algorithm, measure = panel.select("algorithm", "measure").row(0)
    steps = panel["step"].to_numpy()
    for kind, look, dash, label in (
        ("full", style.algorithm(algorithm), "-", "full"),
        ("subnetwork", _SUBNETWORK, _SUBNETWORK.dash, "within the subnetwork"),
    ):
        axes.plot(steps, panel[kind].to_numpy(), color=look.colour, linewidth=0.5, alpha=0.35)
        smoothed = panel[f"{kind}_smoothed"].to_numpy()
        style.band(axes, steps, panel, f"{kind}_smoothed", look.colour)
        axes.plot(steps, smoothed, color=look.colour, linestyle=dash, label=label)
    name = _MEASURES.get(measure, measure)
    axes.set_title(f"{algorithm}: {name}", pad=16)
    axes.set_ylabel(name)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _difference(axes: Axes, panel: polars.DataFrame, over: turns.Over | None) -> None:
    look = style.algorithm(panel["algorithm"][0])
    steps = panel["step"].to_numpy()
    middle = panel["difference_smoothed"].to_numpy()
    axes.axhline(0, color=style.INK, linewidth=0.7)
    if over:
        style.band(axes, steps, panel, "difference_smoothed", look.colour)
    else:
        error = panel["difference_stderr"].fill_null(0).to_numpy()
        axes.fill_between(
            steps, middle - error, middle + error, color=look.colour, alpha=0.3, linewidth=0
        )
    axes.plot(steps, middle, color=look.colour)
    axes.set_title(
        f"thick: mean over {panel['window'][0]} steps; band: "
        + (over.brief if over else "± 1 standard error"),
        loc="right",
        fontsize=7,
        weight="normal",
    )
    axes.set_ylabel("subnetwork\n− full")
    axes.set_xlabel(f"training step (n = {panel.height} steps)")
    style.step_ticks(axes)


def claims(drawn: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    for algorithm in drawn.filter(measure="loss")["algorithm"].unique(maintain_order=True):
        differences = drawn.filter(algorithm=algorithm, measure="loss")["difference"]
        late = differences.tail(max(2, differences.len() // 2))
        found = over_steps(late.to_list())
        low, high = found.interval()
        noise = high - found.value
        yield Claim(
            f"The loss of masked {algorithm} lies below the full run's",
            "yes" if high < 0 else "no" if low > 0 else "unclear",
            f"{found.value:+.2g} ± {noise:.1g} (95 %) over the second half of training",
            "below throughout (DPO)",
            margin=-found.value,
        )


ARTEFACT = Figure(__name__, label="Figure 4", specification=rows_of("pairs", Row), place=12)
