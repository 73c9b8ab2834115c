"""Control: how sparse one and the same update is if its ends are stored in bf16, fp16 or fp32.

Training keeps float32 weights; what the paper measures is its end rounded to bf16.
"""

from __future__ import annotations

from typing import Any, Literal

from subnetworks.artefacts.base import Table, UpdateShown, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import UPDATE_SCHEMA, frame, opening, percent
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context

TITLE = "Sparsity of the same update by the precision in which its ends are stored (%)"
CAPTION = (
    "**Precision of storage.** The same update, from the same training with float32 weights, "
    "measured after rounding both ends to bf16, to fp16, and not at all. Where Δ = 0 in bf16 "
    "but not in fp32, the weight moved by less than half a bf16 step: the optimiser updated "
    "it and the stored format forgot it."
)
TOLERANCES = ("1e-8", "1e-7", "1e-6", "1e-5", "1e-4")
COMPARED = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
COLUMNS = (
    text("label", "update"),
    text("stored_as", "stored as"),
    Column("equal_pct", "Δ = 0", digits=2),
    *(Column(f"sparsity_{t}_pct", t, "|Δ| ≤", 2) for t in TOLERANCES),
    Column("n", "of"),
)
NOTES = (
    "Both ends of an update are rounded to the format, and subtracted in it (bf16, the paper's "
    "rule, tolerances rounded to bf16, too) or in fp32. The start, stored in bf16, is exact in "
    "fp32; the end is as the optimiser left it.",
)
SCHEMA = {
    **UPDATE_SCHEMA,
    "stored_as": str,
    "n": int,
    **{column.key: float for column in COLUMNS if column.key.endswith("_pct")},
}


class Row(UpdateShown):
    """An update."""

    stored_as: Literal["bf16", "fp16", "fp32"]
    """What both ends are rounded to."""


def build(context: Context) -> polars.DataFrame:
    """One row per update of `spec["updates"]`.

    Raises:
        UserError: an update was not compared in what the entry says, or not at a tolerance.
    """
    rows = []
    for entry in context.rows("updates"):
        name, measured = entry["update"], context.update(entry["update"])
        compared = {tensor["compared_as"] for tensor in measured["tensors"]}
        if compared != {COMPARED[entry["stored_as"]]}:
            raise UserError(
                f"specification: updates: {name} was compared as {', '.join(sorted(compared))}, "
                f"not {entry['stored_as']}; give the update a cast"
            )
        rule = "isclose_bf16" if entry["stored_as"] == "bf16" else "absolute"
        if missing := [t for t in TOLERANCES if t not in measured[rule]]:
            raise UserError(
                f"specification: updates: {name} was not measured at {', '.join(missing)}; give "
                f"the update {rule}: {list(TOLERANCES)}"
            )
        row: dict[str, Any] = {
            **opening(entry),
            "stored_as": entry["stored_as"],
            "n": measured["n"],
            "equal_pct": percent(measured["equal"], measured["n"]),
        }
        for tolerance in TOLERANCES:
            row[f"sparsity_{tolerance}_pct"] = percent(measured[rule][tolerance], measured["n"])
        rows.append(row)
    return frame(rows, SCHEMA)


def said(frame: polars.DataFrame) -> list[str]:
    """What is left of each update's sparsity in fp32."""
    lines = []
    for (label,), rows in frame.group_by("label", maintain_order=True):
        by_format = {row["stored_as"]: row for row in rows.to_dicts()}
        if by_format.keys() >= {"bf16", "fp32"}:
            narrow, wide = by_format["bf16"], by_format["fp32"]
            lines.append(
                f"{label}: {narrow['equal_pct']:.1f} % of the weights are unchanged in bf16, "
                f"{wide['equal_pct']:.1f} % in fp32; {wide['sparsity_1e-5_pct']:.1f} % moved by "
                f"no more than 1e-5 there, the paper's tolerance (in bf16 "
                f"{narrow['sparsity_1e-5_pct']:.1f} %)."
            )
    return lines


ARTEFACT = Table(__name__, specification=rows_of("updates", Row))
