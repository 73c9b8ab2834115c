"""Control: what sending only the weights that a step changed would take, in five encodings.

Trainers of asynchronous RL send their sampler what changed in bf16 since the last step. The bytes
of such patches say how sparse single steps are, not whole updates; beside them stands how well the
null model foresees which weights a step changes.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from subnetworks.artefacts.base import FOLLOWED, Names, Specification, Table, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import frame, opening_of_run, percent, span
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context

TITLE = "Weight synchronisation by patches"
CAPTION = (
    "**Delta weight synchronisation.** Weights that one step of training changes in bf16, bit for "
    "bit, and the bytes of a patch that holds them, as a share of a whole copy; beside it what "
    "others report. And whether the changed weights can be known: as many of the likeliest by the "
    "null model, which has the init and the optimiser's settings alone, and those that the step "
    "before changed."
)
ENCODINGS = ("indices", "gaps", "gaps_zstd", "bitmap", "xor_zstd")
COLUMNS = (
    text("label", "run"),
    Column("changed_low_pct", "changed", "per step (%)", 2, upper="changed_high_pct"),
    Column("changed_pct", "mean", "per step (%)", 2),
    Column("anchor_pct", "since the anchor", "per step (%)", 1),
    Column("patch_low_pct", "patch", "of a whole copy (%)", 2, upper="patch_high_pct"),
    *(Column(f"{name}_pct", name.replace("_", ", "), "of a whole copy (%)") for name in ENCODINGS),
    Column("recall_pct", "as many", "recalled by the null model (%)"),
    Column("recall_of_twice_pct", "twice as many", "recalled by the null model (%)"),
    Column("share_for_99_pct", "needed for 99 %", "recalled by the null model (%)"),
    Column("again_recall_pct", "step before (%)"),
)
NOTES = (
    "Means over steps, the least and the most first. Since the anchor: changed since a whole copy "
    "was last sent, ten steps after it. A patch has 6 bytes a changed weight in indices (int32 and "
    "bf16), as TRL sends them; our own range is that of xor, zstd. zstd: level 3.",
    "As many: of the changed weights, the share that is among as many of the likeliest, so that it "
    "is the precision, too; equal probabilities count by their share. Needed for 99 %: the "
    "likeliest of all weights that hold 99 % of the changed ones. Step before: of the changed "
    "weights, the share that the step before changed as well. TRL's authors report about 30 % "
    "recall of predicting from Adam's moments (huggingface.co/blog/delta-weight-sync).",
)
FORESEEN = ("expected_share", "recall", "recall_of_twice", "share_for_90", "share_for_99")
AGAIN = ("again_recall", "again_precision")
SCHEMA = {
    "source": str,
    "label": str,
    "algorithm": str,
    "run": str,
    "learning_rate": float,
    "n": int,
    "steps": int,
    **{f"{key}_pct": float for key in ("changed_low", "changed_high", "changed", "anchor")},
    **{f"{key}_pct": float for key in ("patch_low", "patch_high", *ENCODINGS, *FORESEEN, *AGAIN)},
    "printed": str,
}
"""Shares in per cent; `printed` is what others say in words."""
Synchronised = Annotated[str, Names(FOLLOWED, ("synchronisation/{}.json",))]


class Row(Specification):
    """A run that keeps every step."""

    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    run: Synchronised
    label: str | None = None
    algorithm: str | None = None
    learning_rate: float | None = None


def build(context: Context) -> polars.DataFrame:
    """One row per run of `spec["runs"]`, then what others report."""
    rows = [_row(context, entry) for entry in context.rows("runs")]
    theirs = context.paper("elsewhere/weight_synchronisation").to_dicts()
    for row in theirs:
        label = ", ".join(filter(None, (row["system"], row["model"])))
        low = row["changed_low_pct"]
        if low is None and row["changed_high_pct"] is not None:
            low = 0.0  # "less than"
        rows.append({**row, "source": "elsewhere", "label": label, "changed_low_pct": low})
    return frame(rows, SCHEMA)


def _row(context: Context, entry: dict[str, Any]) -> dict[str, Any]:
    found = context.synchronisation(entry["run"])
    steps, whole = found["steps"], found["whole_bytes"]
    patches = [step["bytes"]["xor_zstd"] for step in steps]
    # Steps whose whole copy is sent have the longest way since the one before.
    anchors = [step["since_anchor"]["changed_share"] for step in steps if step["is_anchor"]]
    foreseen = found["foreseen"] or {}
    return {
        **opening_of_run(entry),
        "n": found["n"],
        "steps": len(steps),
        "changed_pct": percent(found["changed_share"]["mean"]),
        "changed_low_pct": percent(found["changed_share"]["least"]),
        "changed_high_pct": percent(found["changed_share"]["most"]),
        "anchor_pct": percent(sum(anchors), len(anchors)),
        "patch_low_pct": percent(min(patches), whole),
        "patch_high_pct": percent(max(patches), whole),
        **{f"{name}_pct": percent(found["bytes"][name], whole) for name in ENCODINGS},
        **{f"{key}_pct": percent(foreseen.get(key)) for key in (*FORESEEN, *AGAIN)},
    }


def said(frame: polars.DataFrame) -> list[str]:
    """How much a step changes, what the smallest patch takes, and what is foreseen of it."""
    lines = []
    for row in frame.filter(source="here").to_dicts():
        best = min(ENCODINGS, key=lambda name: row[f"{name}_pct"])
        lines.append(
            f"{row['label']}: a step changes {row['changed_pct']:.2f} % of the weights; the "
            f"smallest patch ({best.replace('_', ', ')}) is {row[f'{best}_pct']:.1f} % of a whole "
            f"copy, int32 indices are {row['indices_pct']:.1f} %."
        )
    known = frame.filter(source="here").drop_nulls("recall_pct")
    if not known.is_empty():
        lines.append(
            f"As many of the likeliest weights as change hold {span(known['recall_pct'])} % of "
            f"those that do, twice as many {span(known['recall_of_twice_pct'])} %; 99 % of them "
            f"take {span(known['share_for_99_pct'])} % of all weights."
        )
    return lines


ARTEFACT = Table(__name__, specification=rows_of("runs", Row), rows=build, said=said)
