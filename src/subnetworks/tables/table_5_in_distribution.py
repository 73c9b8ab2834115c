"""Table 5: how sparse updates are by data from the model's own distribution, and from another."""

from typing import Any

import polars

from subnetworks.results import Context, label_of
from subnetworks.tables.shared import (
    COMPARED_COLUMN,
    COMPARED_NOTE,
    SPARSITY_COLUMNS,
    SPARSITY_SCHEMA,
    difference,
    frame,
    published_row,
    remark_on,
    sparsity_of,
)
from subnetworks.tables.style import Column, text

NAME = "table_5_in_distribution"
TITLE = "Table 5. Sparsity by in- and out-of-distribution data: share of weights unchanged (%)"
COLUMNS = (
    text("label", "update"),
    text("in_distribution", "in distribution"),
    Column("learning_rate", "learning rate", general=True),
    Column("steps", "steps"),
    *SPARSITY_COLUMNS,
    Column("published_low_pct", "paper", upper="published_high_pct"),
    Column("difference_pct", "difference", signed=True),
    Column("changed", "changed"),
    Column("n", "of"),
    COMPARED_COLUMN,
)
NOTES = (
    "In distribution: trained on what the init itself says, such as its own verified answers (RFT) "
    "or pairs of its own answers (DPO). Out of distribution: on what others wrote.",
    "|Δ| ≤ 1e-5 is the paper's rule for bf16 weights; changed: weights with |Δ| > 1e-5.",
    "Steps are the optimiser's. Learning rate and number of steps change sparsity by themselves: "
    "only rows that share them tell what the data do. The paper's rows do not share them.",
    COMPARED_NOTE,
    "Paper: the published value of the same update; for an update that the paper does not have, "
    "the range of its updates by data of that kind, of far larger models, without a difference.",
)
SCHEMA = {
    "source": polars.String,
    "label": polars.String,
    "algorithm": polars.String,
    "update": polars.String,
    "in_distribution": polars.Boolean,
    "learning_rate": polars.Float64,
    "steps": polars.Int64,
    **SPARSITY_SCHEMA,
    "published_low_pct": polars.Float64,
    "published_high_pct": polars.Float64,
    "difference_pct": polars.Float64,
    "remark": polars.String,
}


def build(context: Context) -> polars.DataFrame:
    """One row an update of `spec["updates"]`, then the paper's rows that none of them reproduces.

    Each entry: `update`, `algorithm`, `in_distribution`, optionally `label`, `learning_rate`,
    `steps`, `updates_per_step` and `published` (the paper's model and method, such as
    `Zephyr-7b-Beta, DPO`). Source: Table 5.
    """
    paper = context.paper("table5_in_distribution").with_columns(
        (polars.col("model") + ", " + polars.col("method")).alias("row"),
        (polars.col("in_distribution") == "yes").alias("own"),
    )
    rows, reproduced = [], []
    for entry in context.rows("updates", "update", "in_distribution"):
        measured = sparsity_of(context, entry["update"])
        theirs = published_row(paper, "row", entry)
        alike = paper.filter(own=entry["in_distribution"])["sparsity_pct"].to_list()
        if theirs:
            reproduced.append(theirs["row"])
            alike = [theirs["sparsity_pct"]]
        rows.append(
            {
                "source": "here",
                "label": label_of(entry),
                "algorithm": entry.get("algorithm"),
                "update": entry["update"],
                "in_distribution": entry["in_distribution"],
                "learning_rate": entry.get("learning_rate"),
                "steps": _updates(entry),
                **measured,
                "published_low_pct": min(alike, default=None),
                "published_high_pct": max(alike, default=None),
                "difference_pct": difference(measured["sparsity_pct"], alike[0])
                if theirs
                else None,
                "remark": remark_on(context, NAME, theirs["model"]) if theirs else None,
            }
        )
    for theirs in paper.filter(~polars.col("row").is_in(reproduced)).to_dicts():
        rows.append(
            {
                "source": "paper",
                "label": theirs["row"],
                "algorithm": theirs["method"],
                "in_distribution": theirs["own"],
                "published_low_pct": theirs["sparsity_pct"],
                "published_high_pct": theirs["sparsity_pct"],
                "remark": remark_on(context, NAME, theirs["model"]),
            }
        )
    return frame(rows, SCHEMA)


def _updates(entry: dict[str, Any]) -> int | None:
    """How many steps the optimiser made."""
    steps = entry.get("steps")
    return None if steps is None else steps * int(entry.get("updates_per_step", 1))
