"""Table 1: how much of each update is zero, by the paper's rule and bit for bit."""

import polars

from subnetworks.results import Context, label_of
from subnetworks.tables.shared import (
    COMPARED_COLUMN,
    COMPARED_NOTE,
    SPARSITY_COLUMNS,
    SPARSITY_SCHEMA,
    difference,
    frame,
    published_range,
    published_row,
    remark_on,
    sparsity_of,
)
from subnetworks.tables.style import Column, text

NAME = "table_1_update_sparsity"
TITLE = "Table 1. Sparsity of the update: share of weights left unchanged (%)"
COLUMNS = (
    text("label", "update"),
    *SPARSITY_COLUMNS,
    Column("published_low_pct", "paper", upper="published_high_pct"),
    Column("difference_pct", "difference", signed=True),
    Column("changed", "changed"),
    Column("n", "of"),
    COMPARED_COLUMN,
    text("on_policy", "on-policy"),
    text("kl", "KL"),
    text("online", "online"),
)
NOTES = (
    "|Δ| ≤ 1e-5 is the paper's rule: two bf16 weights count as equal if they differ by no more "
    "than 1e-5 (the tolerance itself rounded to bf16). It forgives one bf16 step for weights "
    "below 0.002 only, so bit-equality stands beside it.",
    "Changed: weights with |Δ| > 1e-5. Embeddings: token embedding and output head, where rows of "
    "unused tokens stay as they were.",
    COMPARED_NOTE,
    "Paper: the published value of the same update; for an update that the paper does not have, "
    "the range of the algorithm's updates, of far larger models, without a difference.",
)
SCHEMA = {
    "source": polars.String,
    "label": polars.String,
    "algorithm": polars.String,
    "update": polars.String,
    **SPARSITY_SCHEMA,
    "published_low_pct": polars.Float64,
    "published_high_pct": polars.Float64,
    "difference_pct": polars.Float64,
    "on_policy": polars.Boolean,
    "kl": polars.Boolean,
    "online": polars.Boolean,
    "remark": polars.String,
}


def build(context: Context) -> polars.DataFrame:
    """One row an update of `spec["updates"]`, then the paper's rows that none of them reproduces.

    Each entry: `update`, `label`, `algorithm`, optionally `on_policy`, `kl`, `online` and
    `published` (the paper's tuned checkpoint that the update reproduces). Source: Table 1.
    """
    paper = context.paper("table1_update_sparsity")
    rows, reproduced = [], []
    for entry in context.rows("updates", "update"):
        measured = sparsity_of(context, entry["update"])
        theirs = published_row(paper, "tuned", entry)
        if theirs:
            reproduced.append(theirs["tuned"])
            low = high = theirs["sparsity_pct"]
        else:
            low, high = published_range(paper, entry.get("algorithm"), "sparsity_pct")
        rows.append(
            {
                "source": "here",
                "label": label_of(entry),
                "algorithm": entry.get("algorithm"),
                "update": entry["update"],
                **measured,
                "published_low_pct": low,
                "published_high_pct": high,
                "difference_pct": difference(measured["sparsity_pct"], low) if theirs else None,
                "on_policy": entry.get("on_policy"),
                "kl": entry.get("kl"),
                "online": entry.get("online"),
                "remark": remark_on(context, NAME, theirs["tuned"]) if theirs else None,
            }
        )
    for theirs in paper.filter(~polars.col("tuned").is_in(reproduced)).to_dicts():
        rows.append(
            {
                "source": "paper",
                "label": f"{theirs['algorithm']}, {theirs['tuned'].split('/')[-1]}",
                "algorithm": theirs["algorithm"],
                "published_low_pct": theirs["sparsity_pct"],
                "published_high_pct": theirs["sparsity_pct"],
                **{flag: theirs[flag] == "yes" for flag in ("on_policy", "kl", "online")},
                "remark": remark_on(context, NAME, theirs["tuned"]),
            }
        )
    return frame(rows, SCHEMA)
