"""Control: sparsity over ten times the usual training, by schedule and after a restart.

Does the subnetwork stop growing, or does training only have to go on? Beside each curve stands the
null model's, which was predicted before the run from its init and its settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from subnetworks.artefacts import over_training, shared, style, turns
from subnetworks.artefacts.base import FOLLOWED, Figure, Names, Specification, Update, rows_of
from subnetworks.artefacts.claims import Claim, Verdict, all_hold, listed
from subnetworks.artefacts.figure_5_sparsity_over_training import DIGITISED
from subnetworks.artefacts.lazy import matplotlib, polars
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

SATURATED, FALLING = 0.5, 1.0
"""Points of sparsity that the last fifth of training takes: at most the first, and it saturates;
more than the second, and it does not; between them it is unclear."""
LAST = 0.2
TITLE = "Sparsity over long training, by schedule and after a restart"
CAPTION = (
    "**Long training.** Share of the weights that still equal the start (at most 1e-5 apart) over "
    "ten times the usual steps, with a constant learning rate and a decaying one; dotted, what the "
    "null model predicted of each before it was run. A restart goes on from the end of another "
    "run, with fresh optimiser state and its warm-up once more. At the left it is compared with "
    "the first start, at its end alone; at the right each is compared with the weights that it "
    "started from itself."
)
ALT = (
    "Two panels of sparsity against training steps. Left, from the first start: one falling line "
    "per schedule, its prediction dotted, and a restart's end as a hollow marker. Right, each from "
    "its own start."
)
_LOOKS = (
    style.Look("#009E73", marker="^"),
    style.Look("#332288", marker="s"),
    style.Look("#E69F00", marker="D"),
    style.Look("#56B4E9", marker="v"),
)
_RESTART = style.Look("#D55E00", marker="o")
SCHEMA = {
    **over_training.RUN_SCHEMA,
    "schedule": str,
    "after": str,
    "step": int,
    "step_in_all": int,
    "sparsity_pct": float,
    "predicted_pct": float,
    "since_first_pct": float,
}
"""`step` and sparsity count from the run's own start, `step_in_all` and `since_first_pct` from the
first; the latter is measured at the start and the end of a restart."""


class Row(Specification):
    """A run that keeps its steps."""

    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    run: Annotated[str, Names(FOLLOWED, ("trajectories/{}.json", "predictions/{}.json"))]
    label: str | None = None
    algorithm: str | None = None
    schedule: str | None = None
    after: Annotated[str, Names(FOLLOWED, ("trajectories/{}.json",))] | None = None
    """The run whose end it starts from, if it is a restart."""
    since: Update | None = None
    """From where that run started to this one's end."""


def rows(context: Context) -> polars.DataFrame:
    """Every kept step of `spec["runs"]`, from step 0."""
    found = [row for entry in context.rows("runs") for row in _steps(context, entry)]
    return shared.frame(found, SCHEMA)


def _steps(context: Context, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    trajectory = context.trajectory(entry["run"])
    predicted = {row["step"]: row["sparsity"] for row in context.prediction(entry["run"])["steps"]}
    predicted[0] = 1.0
    schedule = entry.get("schedule", "constant")
    entry = {**entry, "label": entry.get("label", f"{entry['algorithm']}, {schedule}")}
    before, reached = 0, 1.0
    if "after" in entry:
        last = context.trajectory(entry["after"])["steps"][-1]
        before, reached = last["step"], last["sparsity"]
    ends: dict[int, float | None] = {0: reached}
    if "since" in entry:
        end = trajectory["steps"][-1]["step"]
        ends[end] = context.update(entry["since"])["sparsity"]
    for row in ({"step": 0, "sparsity": 1.0}, *trajectory["steps"]):
        step = row["step"]
        yield {
            **over_training.opening(entry, trajectory),
            "schedule": schedule,
            "after": entry.get("after"),
            "step": step,
            "step_in_all": before + step,
            "sparsity_pct": shared.percent(row["sparsity"]),
            "predicted_pct": shared.percent(predicted[step]),
            "since_first_pct": shared.percent(ends.get(step) if "after" in entry else None),
        }


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["runs"]`."""
    drawn = rows(context)
    (shown,) = turns.with_intervals(context, [drawn], "sparsity_pct", "since_first_pct")
    looks = _looks(drawn)
    figure = style.canvas(style.DOUBLE, 3.0)
    left, right = figure.subplots(1, 2, sharey=True)
    for label, run in shared.by_label(shown):
        look = looks[label]
        _line(right, run, look, label)
        if run["after"][0] is None:
            _line(left, run, look, label)
        else:
            _leap(left, run, look, label)
    left.set_title("From the first start")
    right.set_title("Each from its own start")
    for axes in (left, right):
        over_training.step_axis(axes, drawn)
        axes.set_ylim(0, 103)
    right.tick_params(axis="y", length=0)
    left.set_ylabel("left unchanged (%)")
    noise = matplotlib.lines.Line2D(
        [], [], color=style.INK, linestyle=":", linewidth=1, label="predicted from noise alone"
    )
    handles, _ = left.get_legend_handles_labels()
    handles += [noise, *style.whisker(turns.spread_of(context))]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure, drawn


def _looks(drawn: polars.DataFrame) -> dict[str, style.Look]:
    found, free = {}, iter(_LOOKS * len(drawn))
    for label, run in shared.by_label(drawn):
        found[label] = next(free) if run["after"][0] is None else _RESTART
    return found


def _line(axes: Axes, run: polars.DataFrame, look: style.Look, label: str) -> None:
    """A run's sparsity, and its prediction dotted."""
    over_training.line(
        axes, run, "sparsity_pct", label,
        color=look.colour, linestyle="-", marker=look.marker, markersize=3.5,
    )  # fmt: skip
    axes.plot(
        run["step"].to_numpy(), run["predicted_pct"].to_numpy(), color=look.colour,
        linestyle=":", linewidth=1,
    )  # fmt: skip


def _leap(axes: Axes, run: polars.DataFrame, look: style.Look, label: str) -> None:
    """A restart from the first start: what is known are its ends."""
    ends = run.drop_nulls("since_first_pct")
    steps = ends["step_in_all"].to_list()
    style.whiskers(axes, steps, ends, "since_first_pct", ecolor=look.colour)
    axes.plot(
        steps, ends["since_first_pct"].to_numpy(), color=look.colour,
        linestyle=(0, (4, 1.5)), marker=look.marker, markersize=5, markerfacecolor="white",
        markevery=[len(ends) - 1], zorder=4, label=label, clip_on=False,
    )  # fmt: skip


def _last_fifth(steps: Sequence[float], values: Sequence[float]) -> float:
    """By how much values fall over the last fifth of the steps, or the least that covers it."""
    before = max(k for k, step in enumerate(steps) if step <= (1 - LAST) * steps[-1])
    return values[before] - values[-1]


def _verdict(falls: list[float]) -> Verdict:
    if all(fall <= SATURATED for fall in falls):
        return "yes"
    return "no" if all(fall > FALLING for fall in falls) else "unclear"


def _runs(drawn: polars.DataFrame) -> list[dict[str, Any]]:
    """Each run in short."""
    found = []
    for label, run in shared.by_label(drawn):
        ends = run.drop_nulls("since_first_pct")
        found.append(
            {
                "label": label,
                "schedule": run["schedule"][0],
                "restart": run["after"][0] is not None,
                "end": run["sparsity_pct"][-1],
                **{
                    fall: _last_fifth(run["step"].to_list(), run[key].to_list())
                    for fall, key in (("fall", "sparsity_pct"), ("predicted", "predicted_pct"))
                },
                "leap": ends["since_first_pct"].to_list() if len(ends) == 2 else None,
            }
        )
    return found


def quoted(paper: Published) -> Quotes:
    """By how much the sparsity of the paper's PRIME run falls at its end."""
    table, column = DIGITISED
    return {"fall": f"{_last_fifth(paper.values(table, 'step'), paper.values(table, column)):.1f}"}


def claims(drawn: polars.DataFrame) -> Iterator[Claim]:
    """Whether sparsity saturates: by the last fifth of training, and when training starts again."""
    runs = _runs(drawn)
    rule = f"at most {SATURATED:g} points over the last fifth of training; above {FALLING:g}, no"
    for words, constant, paper in (
        ("at a constant learning rate", True, "PRIME's falls by {fall} points (Figure 5)"),
        ("as the learning rate decays", False, "not stated"),
    ):
        if chosen := [
            run
            for run in runs
            if (run["schedule"] == "constant") == constant and not run["restart"]
        ]:
            yield Claim(
                f"Sparsity saturates in long training {words} (a question of ours)",
                _verdict([run["fall"] for run in chosen]),
                listed(chosen, "label", _fallen) + f" ({rule})",
                paper,
                margin=min(SATURATED - run["fall"] for run in chosen),
            )
    if leaps := [run for run in runs if run["leap"]]:
        yield Claim(
            "A restart leaves sparsity where it was (a question of ours)",
            all_hold([run["leap"][0] - run["leap"][1] <= SATURATED for run in leaps]),
            listed(leaps, "label", lambda r: f"{r['leap'][0]:.1f} → {r['leap'][1]:.1f} %")
            + f" of the first start (at most {SATURATED:g} points)",
            "not stated",
            margin=min(SATURATED - (run["leap"][0] - run["leap"][1]) for run in leaps),
        )


def _fallen(run: dict[str, Any]) -> str:
    words = f"falls by {run['fall']:.2f} points to {run['end']:.1f} % (noise alone: by "
    return f"{words}{run['predicted']:.2f})".replace("-", "−")


def said(drawn: polars.DataFrame) -> list[str]:
    """How each run's sparsity falls at its end, and what a restart does to it."""
    lines = []
    for run in _runs(drawn):
        start = "its own start" if run["restart"] else "the init"
        lines.append(f"{run['label']}, against {start}: over the last fifth {_fallen(run)}.")
        if run["leap"]:
            first, last = run["leap"]
            lines.append(
                f"{run['label']}: of the weights of the first start {first:.1f} % were left "
                f"unchanged when it began, and {last:.1f} % at its end."
            )
    return lines


ARTEFACT = Figure(__name__, specification=rows_of("runs", Row), place=20)
