"""Control: overlaps of two runs' subnetworks against three notions of chance, the placebo's too.

Chance is what two independent masks of the same densities share, the densities being taken in all
(the paper's), in each tensor, or in each tensor's power-of-two bins of |w|.
"""

from __future__ import annotations

from typing import Any, Literal

from subnetworks.artefacts.base import Overlap, Specification, Table, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import frame, percent, span
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context

TITLE = "Overlaps of subnetworks against chance: uniform, matched per tensor, matched by magnitude"
CAPTION = (
    "**Overlap against chance.** How far two runs change the same weights, against three "
    "notions of chance: changed weights placed anywhere (the paper's), within their tensor, "
    "and within their tensor and power-of-two bin of the initial |w|. The placebo, trained on "
    "random rewards, tells how much of an overlap needs nothing to be learnt."
)
CHANCES = {
    "uniform": ("chance", "uniform"),
    "per_tensor": ("chance_per_tensor", "per tensor"),
    "by_magnitude": ("chance_by_magnitude", "by magnitude"),
}
"""Column → (key of the overlap's summary, heading)."""
LITTLE = 10.0
"""An excess below so many per cent of the possible one is called hardly any."""
COLUMNS = (
    text("label", "runs"),
    text("varied", "they differ in"),
    Column("density1_pct", "first", "changed (%)"),
    Column("density2_pct", "second", "changed (%)"),
    Column("o1_pct", "observed", "o1 (%)"),
    *(Column(f"{key}_o1_pct", heading, "o1 (%)") for key, (_, heading) in CHANCES.items()),
    *(Column(f"times_{key}", heading, "times chance", 2) for key, (_, heading) in CHANCES.items()),
    Column("of_rest_pct", "of the rest (%)", signed=True),
)
NOTES = (
    "o1 = |I1 ∩ I2| / |I1|, the share of the first run's changed weights that the second changed, "
    "too. Times chance: |I1 ∩ I2| over what independent masks of the same densities would share. "
    "Both runs start from the same weights.",
    "Of the rest: how far the overlap exceeds chance matched by magnitude, of the most that it "
    "could (the smaller mask within the larger); 0 is chance, 100 containment.",
)
SCHEMA = {
    "source": str,
    "label": str,
    "varied": str,
    "overlap": str,
    "n": int,
    "changed1": int,
    "changed2": int,
    "intersection": int,
    **{column.key: float for column in COLUMNS if not column.is_text},
    "z_by_magnitude": float,
}


class Row(Specification):
    """Two masks compared."""

    overlap: Overlap
    label: str | None = None
    varied: Literal["seed", "data", "algorithm", "reward"] | None = None
    """What the two runs differ in."""


def said(frame: polars.DataFrame) -> list[str]:
    """How much of each kind of overlap is left beyond chance matched by magnitude."""
    lines = []
    for (varied,), rows in frame.drop_nulls(["varied", "of_rest_pct"]).group_by(
        "varied", maintain_order=True
    ):
        rests = sorted(rows["of_rest_pct"])
        uniform, matched = rows["times_uniform"], rows["times_by_magnitude"]
        lines.append(
            f"Runs that differ in {varied} share {span(uniform, 2)} times what uniform chance "
            f"gives, {span(matched, 2)} times what chance matched by magnitude gives: "
            f"{_verdict(rests)}."
        )
    return lines


def _verdict(rests: list[float]) -> str:
    """In words, from how much of the possible excess there is (%), ascending."""
    if rests[-1] <= LITTLE:
        return "hardly more than magnitude alone explains"
    if rests[0] > LITTLE:
        return "more than magnitude explains"
    above = sum(rest > LITTLE for rest in rests)
    return f"more than magnitude explains in {above} of {len(rests)}, hardly more in the others"


def build(context: Context) -> polars.DataFrame:
    """One row per overlap of `spec["overlaps"]`."""
    rows = []
    for entry in context.rows("overlaps"):
        measured = context.overlap(entry["overlap"])
        row = {
            "source": "here",
            "label": entry.get("label", entry["overlap"]),
            "varied": entry.get("varied"),
            "overlap": entry["overlap"],
            **_against_chance(measured),
        }
        rows.append(row)
    return frame(rows, SCHEMA)


def _against_chance(overlap: dict[str, Any]) -> dict[str, Any]:
    n, (first, second), both = overlap["n"], overlap["changed"], overlap["intersection"]
    row: dict[str, Any] = {
        "n": n,
        "changed1": first,
        "changed2": second,
        "intersection": both,
        "density1_pct": percent(first, n),
        "density2_pct": percent(second, n),
        "o1_pct": percent(overlap["o1"]),
        "z_by_magnitude": overlap.get("z_by_magnitude"),
    }
    for key, (source, _) in CHANCES.items():
        expected = (overlap.get(source) or {}).get("o1")
        row[f"{key}_o1_pct"] = percent(expected)
        if expected and first:
            row[f"times_{key}"] = both / (expected * first)
    matched = row["by_magnitude_o1_pct"]
    if matched is not None:
        expected = matched / 100 * first
        row["of_rest_pct"] = percent(both - expected, min(first, second) - expected)
    return row


ARTEFACT = Table(__name__, specification=rows_of("overlaps", Row))
