"""Control: sparsity by every notion of "unchanged": absolute, relative, and steps of bf16.

The paper's rule, at most 1e-5 apart in bf16, is an absolute one; what that forgives depends on |w|.
"""

from __future__ import annotations

from typing import Any

from subnetworks.artefacts.base import Table, UpdateShown, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import UPDATE_SCHEMA, frame, opening, percent
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context

TITLE = "Share of weights that count as unchanged, by rule and tolerance (%)"
CAPTION = (
    "**Which tolerance?** The share of weights that count as unchanged by exact equality, by "
    "the paper's rule, by absolute tolerances in fp32, by tolerances relative to the weight, "
    "and by steps of bf16. A claim about sparsity that needs one of them in particular is a "
    "claim about the tolerance."
)
ABSOLUTE = ("1e-8", "1e-7", "1e-6", "1e-5", "1e-4", "1e-3")
RELATIVE = ("1e-3", "1e-2", "1e-1")
STEPS = (1, 2, 4, 8)
COLUMNS = (
    text("label", "update"),
    Column("equal_pct", "Δ = 0"),
    Column("isclose_1e-5_pct", "paper's rule"),
    *(Column(f"absolute_{t}_pct", t, "|Δ| ≤, in fp32") for t in ABSOLUTE),
    *(Column(f"relative_{t}_pct", t, "|Δ| ≤ η max(|w|, |ŵ|), η =") for t in RELATIVE),
    *(Column(f"steps_{k}_pct", f"{k}", "bf16 steps ≤") for k in STEPS),
    Column("n", "of"),
)
NOTES = (
    "All from the ends as stored, in bf16. The paper's rule rounds difference and tolerance (1e-5) "
    "to bf16; the absolute and relative ones are taken in fp32. One bf16 step of a weight w is "
    "between |w| / 256 and |w| / 128.",
)
SCHEMA = {
    **UPDATE_SCHEMA,
    "n": int,
    **{column.key: float for column in COLUMNS if column.key.endswith("_pct")},
}


def build(context: Context) -> polars.DataFrame:
    """One row per update of `spec["updates"]`.

    Raises:
        UserError: an update was not measured at all of these tolerances.
    """
    rows = []
    for entry in context.rows("updates"):
        name, measured = entry["update"], context.update(entry["update"])
        n = measured["n"]
        row: dict[str, Any] = {
            **opening(entry),
            "n": n,
            "equal_pct": percent(measured["equal"], n),
            "isclose_1e-5_pct": percent(measured["isclose_bf16"]["1e-5"], n),
        }
        for rule, wanted in (("absolute", ABSOLUTE), ("relative", RELATIVE)):
            if missing := [t for t in wanted if t not in measured[rule]]:
                raise UserError(
                    f"specification: updates: {name} was not measured at {', '.join(missing)}; "
                    f"give the update {rule}: {list(wanted)}"
                )
            for tolerance in wanted:
                row[f"{rule}_{tolerance}_pct"] = percent(measured[rule][tolerance], n)
        for most in STEPS:
            near = sum(
                counted["n"]
                for counted in measured["histograms"]["ulp_steps"]
                if int(counted["steps"].split("-")[-1]) <= most
            )
            row[f"steps_{most}_pct"] = percent(near, n)
        rows.append(row)
    return frame(rows, SCHEMA)


def said(frame: polars.DataFrame) -> list[str]:
    """What a step of bf16 and the largest tolerances add to exact equality."""
    return [
        f"{row['label']}: {row['equal_pct']:.1f} % exactly unchanged, "
        f"{row['isclose_1e-5_pct'] - row['equal_pct']:+z.1f} points by the paper's tolerance, "
        f"{row['steps_1_pct'] - row['equal_pct']:+z.1f} by one bf16 step, "
        f"{row['relative_1e-2_pct'] - row['equal_pct']:+z.1f} by a hundredth of the weight."
        for row in frame.to_dicts()
    ]


ARTEFACT = Table(__name__, specification=rows_of("updates", UpdateShown))
