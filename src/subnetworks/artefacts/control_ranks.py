"""Control: exact rank of each algorithm's update beside gentler ranks and other thresholds.

An update of full rank can still be dominated by few directions: stable rank, effective rank (the
exponential of the entropy of the singular values), the directions that hold 99 % of the energy, and
the rank at thresholds from 1e-6 to 1e-3 of the largest singular value.
"""

from __future__ import annotations

from typing import Annotated

from subnetworks.artefacts.base import Names, Table, UpdateShown, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import UPDATE_SCHEMA, frame, opening, percent, span
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context

TITLE = "Exact rank of the update's matrices beside gentler ranks, as a share of full rank (%)"
CAPTION = (
    "**Full rank, by which rank?** The exact rank (the paper's) counts every direction above "
    "rounding. Beside it the rank at coarser thresholds, the number of directions that hold "
    "99 % of an update's energy, the effective rank by entropy and the stable rank. Where the "
    "exact rank is full and the stable one small, few directions carry most of the update."
)
THRESHOLDS = ("1e-6", "1e-5", "1e-4", "1e-3")
COLUMNS = (
    text("label", "update"),
    Column("rank_pct", "exact", "mean over matrices"),
    *(Column(f"rank_at_{t}_pct", t, "above this share of the largest σ") for t in THRESHOLDS),
    Column("energy_rank_99_pct", "99 % energy", "few directions"),
    Column("effective_rank_pct", "effective", "few directions"),
    Column("stable_rank_pct", "stable", "few directions"),
    Column("changed_pct", "entries changed (%)"),
    Column("matrices", "matrices"),
)
NOTES = (
    "All are means over the weight matrices but embedding and output head, whose unused rows do "
    "not move, as a share of min(rows, columns). Exact: torch's rule, singular values above "
    "max(rows, columns) × eps × the largest. Stable rank ‖Δ‖ squared over the largest singular "
    "value squared; effective rank exp of the entropy of the singular values; 99 % energy the "
    "fewest that hold 99 % of ‖Δ‖ squared.",
)
KEYS = (
    "rank",
    *(f"rank_at_{t}" for t in THRESHOLDS),
    "energy_rank_99",
    "effective_rank",
    "stable_rank",
)
SCHEMA = {
    **UPDATE_SCHEMA,
    "matrices": int,
    "changed_pct": float,
    **{f"{key}_pct": float for key in KEYS},
}


class Row(UpdateShown):
    """An update."""

    update: Annotated[
        str,
        Names("updates", ("updates/{}.json", "updates/{}.rank.json", "updates/{}.rank.parquet")),
    ]


def build(context: Context) -> polars.DataFrame:
    """One row per update of `spec["updates"]`."""
    rows = []
    for entry in context.rows("updates"):
        measured = context.update(entry["update"])
        matrices = inner_matrices(context, entry["update"])
        rows.append(
            {
                **opening(entry),
                "matrices": len(matrices),
                "changed_pct": percent(measured["n"] - measured["equal"], measured["n"]),
                **{f"{key}_pct": share_of_full(matrices, key) for key in KEYS},
            }
        )
    return frame(rows, SCHEMA)


def inner_matrices(context: Context, update: str) -> polars.DataFrame:
    """The ranks of an update's weight matrices but embedding and output head, one row each.

    Raises:
        UserError: they were not written.
    """
    matrices = context.rank_matrices(update)
    if matrices is None:
        raise UserError(f"{update}: its ranks were not written; rule 'rank' does that")
    return matrices.filter(~polars.col("matrix").is_in(["embedding", "head"]))


def share_of_full(matrices: polars.DataFrame, key: str) -> float | None:
    """A kind of rank as a share of full rank, mean over the matrices, in per cent.

    An unchanged matrix has no effective rank; it counts as 0 like its exact one.
    """
    if matrices[key].null_count() == len(matrices):
        return None
    shares = matrices.select(polars.col(key).fill_null(0) / polars.col("full_rank"))
    return percent(shares.to_series().mean())  # type: ignore[arg-type]


def said(frame: polars.DataFrame) -> list[str]:
    """The range of each kind of rank, and in which updates fewest and most directions matter."""
    if frame.is_empty():
        return []
    words = []
    for key, name in (
        ("rank", "exact rank"),
        ("rank_at_1e-3", "rank at 1e-3"),
        ("effective_rank", "effective rank"),
        ("stable_rank", "stable rank"),
    ):
        values = frame[f"{key}_pct"].drop_nulls()
        if not values.is_empty():
            words.append(f"{name} {span(values)} %")
    sentences = [f"Over these updates, as a share of full rank: {', '.join(words)}."]
    energies = frame.drop_nulls("energy_rank_99_pct").sort(
        "energy_rank_99_pct", maintain_order=True
    )
    if len(energies) > 1:
        least, most = energies.row(0, named=True), energies.row(-1, named=True)
        sentences.append(
            f"99 % of the energy takes {least['energy_rank_99_pct']:.1f} % of the directions in "
            f"{least['label']}, {most['energy_rank_99_pct']:.1f} % in {most['label']}."
        )
    return sentences


ARTEFACT = Table(__name__, specification=rows_of("updates", Row))
