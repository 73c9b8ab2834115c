"""Control: training within the own mask, and within masks that are not the run's own.

Random ones as dense, the complement, masks of another task, algorithm or seed, those that the
initial weights or the first steps of the run would choose.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from subnetworks.artefacts.base import Benchmark, Overlap, Scored, Specification, Table, Update
from subnetworks.artefacts.claims import TWO_SIDED_95
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.pairing import difference_of
from subnetworks.artefacts.shared import frame, percent
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context

TITLE = "Training within the own mask, and within others"
CAPTION = (
    "**Whose mask?** Training again from the same weights, on the same data, within the run's "
    "own mask and within others: a random one as dense, the complement, those of another "
    "seed, algorithm and task, the entries of lowest magnitude, the principal ones (arXiv "
    "2511.08567), and those changed in the first steps. What another mask achieves as well is "
    "no merit of the own one."
)
COLUMNS = (
    text("algorithm", "algorithm"),
    text("label", "trained within"),
    Column("density_pct", "trained", "weights (%)"),
    Column("shared_pct", "of the own mask", "weights (%)"),
    Column("accuracy_pct", "accuracy (%)", error="accuracy_stderr_pct"),
    Column("cut", "cut off"),
    Column("difference_pct", "against full", signed=True, error="difference_stderr_pct"),
    Column("gain_kept_pct", "of the gain (%)", digits=0),
    Column("agreement_pct", "agree with full (%)"),
)
NOTES = (
    "The own mask: what full training changed. Trained: share of all weights that the mask lets "
    "train; of the own mask: how many of its weights are among them.",
    "Accuracy: greedy answers to held-out questions, ± standard error; those cut off at max_tokens "
    "are wrong. The difference is paired by question. Of the gain: what full training adds to the "
    "start model's accuracy is 100.",
    "Agree with full: share of all weights within 1e-5 of where full training ends, in bf16; the "
    "start model's row says how many do without any training. A mask that leaves out weights of "
    "the own one cannot agree on them.",
)
SCHEMA = {
    "source": str,
    "algorithm": str,
    "label": str,
    "kind": str,
    "run": str,
    "benchmark": str,
    "n": int,
    **{column.key: float for column in COLUMNS if not column.is_text},
    "cut": int,
    "accuracy_stderr_pct": float,
    "difference_stderr_pct": float,
}


class Row(Specification):
    """A checkpoint trained within a mask."""

    about: ClassVar[tuple[str, ...]] = ("full",)
    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    full: Scored
    label: str
    kind: Literal[
        "start", "full", "own", "seed", "algorithm", "task", "random", "complement", "magnitude",
        "principal", "early",
    ]  # fmt: skip
    """What chooses the mask."""
    algorithm: str | None = None
    update: Update | None = None
    """From the end of full training to it."""
    overlap: Overlap | None = None
    """The own mask, then this one."""


class Shown(Specification):
    """What is shown."""

    masks: list[Row] = Field(min_length=1)
    benchmark: Benchmark


def build(context: Context) -> polars.DataFrame:
    """One row per entry of `spec["masks"]`; of each algorithm the first is full training."""
    benchmark = context.spec["benchmark"]
    entries = context.rows("masks")
    rows = []
    for algorithm in dict.fromkeys(entry["algorithm"] for entry in entries):
        mine = [entry for entry in entries if entry["algorithm"] == algorithm]
        ends = {entry["kind"]: context.score(entry["full"], benchmark)["score"] for entry in mine}
        full = next(entry["full"] for entry in mine if entry["kind"] == "full")
        for entry in mine:
            score = context.score(entry["full"], benchmark)
            row: dict[str, Any] = {
                "source": "here",
                **{key: entry[key] for key in ("algorithm", "label", "kind")},
                "run": entry["full"],
                "benchmark": benchmark,
                "n": score["n"],
                "cut": score.get("cut"),
                **accuracy(context, entry["full"], full),
            }
            if "start" in ends and ends["full"] != ends["start"]:
                gain = score["score"] - ends["start"]
                row["gain_kept_pct"] = percent(gain, ends["full"] - ends["start"])
            if "update" in entry:
                row["agreement_pct"] = percent(context.update(entry["update"])["sparsity"])
            if "overlap" in entry:
                shared = context.overlap(entry["overlap"])
                row["density_pct"] = percent(shared["changed"][1], shared["n"])
                row["shared_pct"] = percent(shared["o1"])
            rows.append(row)
    return frame(rows, SCHEMA)


def accuracy(context: Context, run: str, full: str) -> dict[str, float | None]:
    """A run's accuracy on `spec["benchmark"]` in per cent and, unless it is `full` itself, that
    less full training's in points, paired by question; each with its standard error."""
    benchmark = context.spec["benchmark"]
    score = context.score(run, benchmark)
    row = {
        "accuracy_pct": percent(score["score"]),
        "accuracy_stderr_pct": percent(score["stderr"]),
    }
    if run == full:
        return row
    found = difference_of(
        score,
        context.score(full, benchmark),
        context.samples(run, benchmark),
        context.samples(full, benchmark),
    )
    return row | {
        "difference_pct": percent(found.value),
        "difference_stderr_pct": percent(found.stderr),
    }


def said(frame: polars.DataFrame) -> list[str]:
    """Which masks do as well as full training, and which do not."""
    lines = []
    for (algorithm,), group in frame.group_by("algorithm", maintain_order=True):
        rows = [row for row in group.to_dicts() if row["difference_pct"] is not None]
        within = [row for row in rows if row["kind"] != "start"]
        if not within:
            continue
        as_well = [row for row in within if not worse(row)]
        below = [row for row in within if worse(row)]
        words = f"{algorithm}, accuracy against full training: "
        if as_well:
            words += f"not below it beyond the noise within {_listed(as_well)}"
        if below:
            words += ("; " if as_well else "") + f"below it within {_listed(below)}"
        lines.append(words + ".")
        own = next((row for row in within if row["kind"] == "own"), None)
        others = [row for row in within if row["kind"] == "random"]
        if own and others:
            lead = own["accuracy_pct"] - others[0]["accuracy_pct"]
            lines.append(
                f"{algorithm}: the own mask leads a random one of the same density by {lead:+z.1f} "
                f"points, and agrees with full training in {own['agreement_pct']:.1f} % of all "
                f"weights, the random one in {others[0]['agreement_pct']:.1f} %."
            )
        untrained = next((row for row in within if row["kind"] == "magnitude"), None)
        foreign = [row for row in within if row["kind"] in ("seed", "algorithm", "task")]
        if untrained and foreign and untrained["gain_kept_pct"] is not None:
            lines.append(
                f"{algorithm}: of the gain in accuracy, the entries of lowest magnitude, chosen "
                f"without any training, keep {untrained['gain_kept_pct']:.0f} %; of the masks of "
                "other runs, "
                + ", ".join(f"{row['label']} {row['gain_kept_pct']:.0f} %" for row in foreign)
                + "."
            )
    return lines


def worse(row: dict[str, Any]) -> bool:
    """Whether an accuracy lies below that of full training by more than the noise."""
    return bool(row["difference_pct"] < -TWO_SIDED_95 * (row["difference_stderr_pct"] or 0))


def _listed(rows: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{row['label']} ({row['difference_pct']:+z.1f} ± "
        f"{row['difference_stderr_pct'] or 0:.1f})".replace("(-", "(−")
        for row in rows
    )


ARTEFACT = Table(__name__, specification=Shown)
