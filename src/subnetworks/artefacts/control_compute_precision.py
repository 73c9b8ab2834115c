"""Control: masked and full training by what computes in bf16 and what is kept in float32.

Published recipes rarely say whether AdamW has float32 master weights. What Conjecture 1 finds, and
how sparse an update is, may depend on it; and an end may tell which trainer made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from subnetworks.artefacts.base import Benchmark, Names, Specification, Table, Update
from subnetworks.artefacts.claims import Controlled, left
from subnetworks.artefacts.control_masks import accuracy
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import frame, percent
from subnetworks.artefacts.sheet import Column, text
from subnetworks.artefacts.statistics import over_steps
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context

TITLE = "Full and masked training by the precision of trainer and weights"
CAPTION = (
    "**Precision of compute.** The same run by trainers that differ in what they compute in and in "
    "what they keep of weights and moments, in full and within the mask of its own end: as it is "
    "stored in bf16, or in fp32, where nearly every weight has changed. Beside it what tells the "
    "trainers' ends apart."
)
COLUMNS = (
    text("trainer", "trainer"),
    text("mask", "trained within"),
    Column("loss_gained", "gained", "loss", digits=4, error="loss_gained_stderr"),
    Column("loss_difference", "masked − full", "loss", 5, "loss_difference_stderr", signed=True),
    Column("kept_pct", "gain kept (%)", "loss"),
    Column("accuracy_pct", "accuracy (%)", error="accuracy_stderr_pct"),
    Column("difference_pct", "against full", signed=True, error="difference_stderr_pct"),
    Column("agreement_pct", "|Δ| ≤ 1e-5", "agree with full (%)", 2),
    Column("bit_equal_pct", "bits, bf16", "agree with full (%)", 2),
    Column("bit_equal_fp32_pct", "bits, fp32", "agree with full (%)", 2),
    Column("sparsity_pct", "|Δ| ≤ 1e-5", "unchanged (%)", 2),
    Column("equal_pct", "Δ = 0, bf16", "unchanged (%)", 2),
    Column("equal_fp32_pct", "Δ = 0, fp32", "unchanged (%)", 2),
    Column("below_half_pct", "up to half a step", "moved, in bf16's steps (%)", 2),
    Column("one_step_pct", "one", "moved, in bf16's steps (%)", 2),
    Column("more_steps_pct", "more", "moved, in bf16's steps (%)", 2),
    Column("out_of_reach_pct", "out of reach (%)", digits=2),
)
NOTES = (
    "Loss: gained from the first step to the mean over the second half of training, and the mean "
    "difference there, step by step on the same data, ± standard error.",
    "Accuracy: greedy answers to held-out questions, where the machine serves in bf16 by weights "
    "rounded to it, whatever they are saved in.",
    "Agree with full: share of all weights on which the ends of masked and full training agree, "
    "rounded to bf16 or as they are in fp32. Unchanged: full training's end and its init.",
    "Moved: share of all weights by the distance of the end, as it was trained, from the init, in "
    "gaps between neighbouring bf16 numbers; up to half of one, and not 0, only where the end is "
    "no bf16 number. One and more are counted after rounding to bf16.",
    "Out of reach: of the weights so large that half their gap in bf16 is more than four learning "
    "rates, which no single step of AdamW takes at the usual betas, the share that has changed in "
    "bf16. Only small movements that are remembered, or rounded at random, add up to that.",
)
SCHEMA = {
    "source": str,
    "algorithm": str,
    "trainer": str,
    "mask": str,
    "run": str,
    **{column.key: float for column in COLUMNS if not column.is_text},
    "loss_gained_stderr": float,
    "loss_difference_stderr": float,
    "accuracy_stderr_pct": float,
    "difference_stderr_pct": float,
}
_MASKS = {None: "everything", "bf16": "mask of the bf16 end", "fp32": "mask of the fp32 end"}
# Half a bf16 step in steps of float32; the bits behind the first of a bf16 number; and learning
# rates that no step of AdamW exceeds: (1 − β1) / √(1 − β2) is 3.2 of them at the usual betas.
_HALF_STEP = 1 << 15
_BITS = 7
_REACH = 4

Trained = Annotated[str, Names("checkpoints", ("runs/{}/log.csv", "evaluation/{}/scores.json"))]


class Row(Specification):
    """A run by one trainer: in full, or within the mask of its end."""

    about: ClassVar[tuple[str, ...]] = ("full",)
    needs: ClassVar[tuple[str, ...]] = ("algorithm", "learning_rate")
    trainer: str
    full: Trained
    algorithm: str | None = None
    learning_rate: float | None = None
    update: Update | None = None
    """Of full training: what it changed, compared in bf16."""
    in_fp32: Update | None = None
    """The same, compared in fp32; its end must be saved in it."""
    mask: Literal["bf16", "fp32"] | None = None
    """Of the end as it is stored in which the mask is."""
    subnetwork: Trained | None = None
    """The run within it."""
    agreement: Update | None = None
    """From the end of full training to its end, compared in bf16."""
    agreement_in_fp32: Update | None = None


class Shown(Specification):
    """What is shown."""

    trainers: list[Row] = Field(min_length=1)
    benchmark: Benchmark


def build(context: Context) -> polars.DataFrame:
    """One row per entry of `spec["trainers"]`.

    Raises:
        UserError: an entry has a mask and no run within it, or the other way round, or an update
            was not compared in what the entry says.
    """
    return frame([_row(context, entry) for entry in context.rows("trainers")], SCHEMA)


def _row(context: Context, entry: dict[str, Any]) -> dict[str, Any]:
    if ("mask" in entry) != ("subnetwork" in entry):
        raise UserError(
            f"specification: trainers: {entry['trainer']}: mask and subnetwork go together"
        )
    full, run = entry["full"], entry.get("subnetwork", entry["full"])
    row: dict[str, Any] = {
        "source": "here",
        "algorithm": entry["algorithm"],
        "trainer": entry["trainer"],
        "mask": _MASKS[entry.get("mask")],
        "run": run,
        **accuracy(context, run, full),
        **_losses(context, run, full),
    }
    if "update" in entry:
        row |= _changed(_compared(context, entry["update"], "BF16"), entry["learning_rate"])
    if "in_fp32" in entry:
        row |= _moved(_compared(context, entry["in_fp32"], "F32"))
    if "agreement" in entry:
        found = _compared(context, entry["agreement"], "BF16")
        row["agreement_pct"] = percent(found["isclose_bf16"]["1e-5"], found["n"])
        row["bit_equal_pct"] = percent(found["bit_equal"], found["n"])
    if "agreement_in_fp32" in entry:
        found = _compared(context, entry["agreement_in_fp32"], "F32")
        row["bit_equal_fp32_pct"] = percent(found["bit_equal"], found["n"])
    return row


def _compared(context: Context, update: str, dtype: str) -> dict[str, Any]:
    measured = context.update(update)
    found = {tensor["compared_as"] for tensor in measured["tensors"]}
    if found != {dtype}:
        raise UserError(
            f"specification: trainers: {update} was compared as {', '.join(sorted(found))}, not "
            f"{dtype}; give the update cast: {dtype}, and its runs save_dtype: float32"
        )
    return measured


def _losses(context: Context, run: str, full: str) -> dict[str, float | None]:
    """What a run gained in loss, and how far it is from full training over its second half."""
    logs = {name: context.log(name).select("step", "loss") for name in {run, full}}
    joined = logs[full].join(logs[run], on="step", suffix="_run").sort("step")
    if joined.height < 2:
        raise UserError(f"runs {full} and {run}: fewer than two steps in common")
    late = joined.tail(joined.height // 2)
    own, whole = (
        over_steps([joined[key][0] - loss for loss in late[key]])
        for key in ("loss_run" if run != full else "loss", "loss")
    )
    row: dict[str, float | None] = {
        "loss_gained": own.value,
        "loss_gained_stderr": _finite(own.stderr),
    }
    if run != full:
        apart = over_steps((late["loss_run"] - late["loss"]).to_list())
        row["loss_difference"] = apart.value
        row["loss_difference_stderr"] = _finite(apart.stderr)
        row["kept_pct"] = percent(own.value, whole.value)
    return row


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value


def _changed(measured: dict[str, Any], learning_rate: float) -> dict[str, float | None]:
    """What an update changed in bf16, and how much of it lies out of reach of a single step."""
    n = measured["n"]
    steps = {row["steps"]: row["n"] for row in measured["histograms"]["ulp_steps"]}
    far = [
        row
        for row in measured["histograms"]["magnitude"]
        if isinstance(row["exponent"], int)
        and 2.0 ** (row["exponent"] - _BITS - 1) > _REACH * learning_rate
    ]
    return {
        "sparsity_pct": percent(measured["isclose_bf16"]["1e-5"], n),
        "equal_pct": percent(measured["equal"], n),
        "one_step_pct": percent(steps.get("1", 0), n),
        "more_steps_pct": percent(n - steps.get("0", 0) - steps.get("1", 0), n),
        "out_of_reach_pct": percent(sum(r["changed"] for r in far), sum(r["n"] for r in far)),
    }


def _moved(measured: dict[str, Any]) -> dict[str, float | None]:
    """What moved by half a bf16 step or less, counted in fp32's own steps."""
    near = sum(
        row["n"]
        for row in measured["histograms"]["ulp_steps"]
        if 0 < int(row["steps"].split("-")[-1]) <= _HALF_STEP
    )
    return {
        "equal_fp32_pct": percent(measured["equal"], measured["n"]),
        "below_half_pct": percent(near, measured["n"]),
    }


def said(frame: polars.DataFrame) -> list[str]:
    """Whether masked training loses by trainer, and what an end tells of it."""
    lines = []
    for (algorithm,), group in frame.group_by("algorithm", maintain_order=True):
        rows = group.to_dicts()
        for row in rows:
            if row["loss_difference"] is not None and row["kept_pct"] is not None:
                lines.append(
                    f"{algorithm}, {row['trainer']}: within the {row['mask']} the loss ends "
                    f"{row['loss_difference']:+z.5f} from full training's, keeping "
                    f"{row['kept_pct']:.1f} % of its gain.".replace("-", "−")
                )
        ends = [row for row in rows if row["below_half_pct"] is not None]
        if on_grid := [row["trainer"] for row in ends if row["below_half_pct"] == 0]:
            lines.append(
                f"{algorithm}: no weight moved by half a bf16 step or less in the end of "
                f"{', '.join(on_grid)}, as if there had been no float32 weights."
            )
        reached = [row for row in rows if row["out_of_reach_pct"] is not None]
        if stuck := [row["trainer"] for row in reached if row["out_of_reach_pct"] < 0.01]:
            lines.append(
                f"{algorithm}: nothing out of a single step's reach has changed in the end of "
                f"{', '.join(stuck)}: a bf16 end alone tells that small movements were lost."
            )
    return lines


def controlled(ours: polars.DataFrame) -> Iterator[Controlled]:
    """How much of the loss gained is kept within the bf16 end's mask, by other trainers."""
    kept = ours.filter(mask=_MASKS["bf16"]).drop_nulls("kept_pct")
    for (algorithm,), group in kept.group_by("algorithm", maintain_order=True):
        first, *others = group.to_dicts()
        if not others:
            continue
        yield Controlled(
            f"Masked training reaches full training's loss ({algorithm})",
            "what the trainer computes in, and what it keeps in float32",
            f"of the loss gained, {_kept(first)} % is kept",
            f"{', '.join(map(_kept, others))} %",
            left(first["kept_pct"], min(row["kept_pct"] for row in others)),
            "a mask of the bf16 end leaves out movements below bf16's step: where the forward pass "
            "sees these, too, full training gains by them",
        )


def _kept(row: dict[str, Any]) -> str:
    return f"{row['trainer']} {row['kept_pct']:.1f}"


ARTEFACT = Table(__name__, specification=Shown)
