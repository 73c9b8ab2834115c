"""Control: the measures of "The Path Not Taken" (arXiv 2511.08567), for every algorithm.

Its rule of equality, |ŵ − w| ≤ η·max(|w|, |ŵ|); how far an update turns a matrix's leading singular
directions and changes its singular values; and whether it keeps off the principal weights and to
the smallest ones.
"""

from __future__ import annotations

from typing import Annotated, Any

from subnetworks.artefacts.base import Names, Overlap, Table, UpdateShown, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import (
    UPDATE_SCHEMA,
    frame,
    matched_chance,
    opening,
    percent,
    span,
)
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context

TITLE = "The Path Not Taken: unchanged weights, turned directions, principal and smallest weights"
CAPTION = (
    "**The Path Not Taken.** The measures of arXiv 2511.08567: unchanged weights by its "
    "relative rule, drift of the singular values and principal angles of the 16 leading "
    "directions, and the share of an update's changed weights among the principal and among "
    "the smallest weights, against chance per tensor and chance matched by magnitude."
)
ETA = "1e-3"
WEIGHTS = ("principal", "smallest")
COLUMNS = (
    text("label", "update"),
    Column("relative_equal_pct", "η = 1e-3", "unchanged (%)", 2),
    Column("bit_equal_pct", "bit-equal", "unchanged (%)", 2),
    Column("drift_pct", "median", "spectral drift (%)", 3),
    Column("drift_max_pct", "largest", "spectral drift (%)", 3),
    Column("angle_degrees", "median", "largest of 16 angles (°)", 2),
    Column("angle_max_degrees", "largest", "largest of 16 angles (°)", 2),
    *(
        Column(f"{which}_{key}", heading, f"overlap with the {which} (%)")
        for which in WEIGHTS
        for key, heading in (
            ("pct", "o1"),
            ("chance_pct", "chance per tensor"),
            ("by_magnitude_pct", "chance by magnitude"),
        )
    ),
)
NOTES = (
    "Unchanged: |ŵ − w| ≤ η·max(|w|, |ŵ|) with η = 1e-3, the rule of arXiv 2511.08567; since one "
    "bf16 step is at least |w| / 256, that is bit equality but for zeros.",
    "Spectral drift ‖σ(W₊) − σ(W₀)‖ / ‖σ(W₀)‖; angles between the subspaces of the 16 largest "
    "singular values before and after, of both sides the larger. Over the weight matrices but "
    "embedding and head.",
    "Overlap: share of the update's changed weights among the principal weights (the largest of "
    "each matrix's best approximation of rank 16) and among the smallest ones, as many in each "
    "tensor as the update changed, by which chance per tensor is to be judged. By magnitude: what "
    "is left to expect once it is known that small weights change more easily.",
)
SCHEMA = {
    **UPDATE_SCHEMA,
    "n": int,
    **{column.key: float for column in COLUMNS if not column.is_text},
}


class Row(UpdateShown):
    """An update."""

    update: Annotated[str, Names("updates", ("updates/{}.json", "updates/{}.rotation.parquet"))]
    principal: Overlap
    """Of its mask and a principal one."""
    smallest: Overlap
    """Of its mask and that of the smallest weights."""


def build(context: Context) -> polars.DataFrame:
    """One row per update of `spec["updates"]`."""
    rows = []
    for entry in context.rows("updates"):
        measured = context.update(entry["update"])
        n = measured["n"]
        turned = context.rotation_matrices(entry["update"]).filter(
            ~polars.col("matrix").is_in(["embedding", "head"])
        )
        drift = turned["spectral_drift"]
        angles = turned.select(
            polars.max_horizontal("left_angle_max", "right_angle_max")
        ).to_series()
        row: dict[str, Any] = {
            **opening(entry),
            "n": n,
            "relative_equal_pct": percent(measured.get("relative", {}).get(ETA), n),
            "bit_equal_pct": percent(measured["bit_equal"], n),
            "drift_pct": percent(drift.median()),  # type: ignore[arg-type]
            "drift_max_pct": percent(drift.max()),  # type: ignore[arg-type]
            "angle_degrees": angles.median(),
            "angle_max_degrees": angles.max(),
        }
        for which in WEIGHTS:
            overlap = context.overlap(entry[which])
            row[f"{which}_pct"] = percent(overlap["o1"])
            row[f"{which}_chance_pct"] = percent(overlap["chance_per_tensor"]["o1"])
            row[f"{which}_by_magnitude_pct"] = percent(matched_chance(overlap)["o1"])
        rows.append(row)
    return frame(rows, SCHEMA)


def said(frame: polars.DataFrame) -> list[str]:
    """Whether updates keep off the principal weights, and whether magnitude explains that."""
    known = frame.drop_nulls(["principal_pct", "principal_by_magnitude_pct"]).to_dicts()
    if not known:
        return []
    lines = []
    for row in known:
        off = row["principal_pct"] - row["principal_chance_pct"]
        expected = row["principal_by_magnitude_pct"] - row["principal_chance_pct"]
        lines.append(
            f"{row['label']} changes principal weights {_compared(off)} chance has it "
            f"({off:+z.1f} points; {expected:+z.1f} are to be expected by their magnitude alone)."
        )
    drifts = span([row["drift_pct"] for row in known], 3)
    lines.append(f"Singular values drift by {drifts} % (median over matrices).")
    return lines


def _compared(points: float) -> str:
    return (
        "as often as" if abs(points) < 1 else "less often than" if points < 0 else "more often than"
    )


ARTEFACT = Table(__name__, specification=rows_of("updates", Row))
