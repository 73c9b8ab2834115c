"""Table 2: updates are sparse but of nearly full rank."""

import polars

from subnetworks.results import Context, compared_share_of, label_of
from subnetworks.tables.shared import (
    COMPARED_COLUMN,
    difference,
    frame,
    percent,
    published_range,
    published_row,
)
from subnetworks.tables.style import Column, text

NAME = "table_2_update_rank"
TITLE = "Table 2. Rank of the update's matrices as a share of full rank (%)"
COLUMNS = (
    text("label", "update"),
    Column("mean_rank_pct", "all", "mean rank", 2),
    Column("mean_rank_without_embeddings_pct", "without embeddings", "mean rank", 2),
    Column("min_rank_pct", "lowest", digits=2),
    Column("matrices", "matrices"),
    COMPARED_COLUMN,
    Column("borderline", "borderline"),
    Column("stable_rank_pct", "stable", "other ranks, median"),
    Column("effective_rank_pct", "effective", "other ranks, median"),
    Column("energy_rank_99_pct", "99 % energy", "other ranks, median"),
    Column("published_low_pct", "paper", upper="published_high_pct"),
    Column("difference_pct", "difference", signed=True),
)
NOTES = (
    "Rank: singular values of Δ above max(rows, columns) × eps × the largest, in float32, as a "
    "share of min(rows, columns); mean over all matrices, embedding and output head included, "
    "norms not.",
    "Borderline: matrices with a singular value so near the threshold that rounding decides.",
    "Stable rank ‖Δ‖ squared over the largest singular value squared; effective rank the "
    "exponential of the entropy of the singular values; 99 % energy the number of singular values "
    "that hold 99 % of ‖Δ‖ squared. All as a share of full rank: a matrix can be of full rank "
    "and yet be dominated by few directions.",
    "Compared: matrices whose rank was taken, of those that both checkpoints have together (%).",
    "Paper: the published value of the same update, or the range of the algorithm's updates.",
)
SCHEMA = {
    "source": polars.String,
    "label": polars.String,
    "algorithm": polars.String,
    "update": polars.String,
    "mean_rank_pct": polars.Float64,
    "mean_rank_without_embeddings_pct": polars.Float64,
    "min_rank_pct": polars.Float64,
    "matrices": polars.Int64,
    "compared_share_pct": polars.Float64,
    "borderline": polars.Int64,
    "stable_rank_pct": polars.Float64,
    "effective_rank_pct": polars.Float64,
    "energy_rank_99_pct": polars.Float64,
    "published_low_pct": polars.Float64,
    "published_high_pct": polars.Float64,
    "difference_pct": polars.Float64,
}


def build(context: Context) -> polars.DataFrame:
    """One row an update of `spec["updates"]`, then the paper's rows that none of them reproduces.

    Each entry: `update`, `label`, `algorithm`, optionally `published` (the paper's model name).
    Source: Table 2.
    """
    paper = context.paper("table2_update_rank")
    rows, reproduced = [], []
    for entry in context.rows("updates", "update"):
        name = entry["update"]
        measured = context.rank(name)
        mean = percent(measured["mean_rank"])
        theirs = published_row(paper, "model", entry)
        if theirs:
            reproduced.append(theirs["model"])
            low = high = theirs["mean_rank_pct"]
        else:
            low, high = published_range(paper, entry.get("algorithm"), "mean_rank_pct")
        rows.append(
            {
                "source": "here",
                "label": label_of(entry),
                "algorithm": entry.get("algorithm"),
                "update": name,
                "mean_rank_pct": mean,
                "mean_rank_without_embeddings_pct": percent(
                    measured.get("mean_rank_without_embeddings")
                ),
                "min_rank_pct": percent(measured.get("min_rank")),
                "matrices": measured.get("matrices"),
                "compared_share_pct": compared_share_of(measured),
                "borderline": measured.get("borderline"),
                **_other_ranks(context.rank_matrices(name)),
                "published_low_pct": low,
                "published_high_pct": high,
                "difference_pct": difference(mean, low) if theirs else None,
            }
        )
    for theirs in paper.filter(~polars.col("model").is_in(reproduced)).to_dicts():
        rows.append(
            {
                "source": "paper",
                "label": f"{theirs['algorithm']}, {theirs['model']}",
                "algorithm": theirs["algorithm"],
                "published_low_pct": theirs["mean_rank_pct"],
                "published_high_pct": theirs["mean_rank_pct"],
            }
        )
    return frame(rows, SCHEMA)


def _other_ranks(matrices: polars.DataFrame | None) -> dict[str, float | None]:
    """Median over the matrices of the gentler ranks, each as a share of full rank, in per cent."""
    found: dict[str, float | None] = {}
    for key in ("stable_rank", "effective_rank", "energy_rank_99"):
        if matrices is not None and {key, "full_rank"} <= set(matrices.columns):
            median = (matrices[key] / matrices["full_rank"]).median()
            found[f"{key}_pct"] = percent(median)  # type: ignore[arg-type]
    return found
