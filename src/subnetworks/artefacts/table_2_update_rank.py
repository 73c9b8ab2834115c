"""Table 2: updates are sparse but of nearly full rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from subnetworks.artefacts import shared
from subnetworks.artefacts.base import Names, Table, UpdateShown, rows_of
from subnetworks.artefacts.claims import Claim, Controlled, average, left, listed, span
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes, ends
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context, compared_share_of

TITLE = "Table 2. Rank of the update's matrices as a share of full rank (%)"
CAPTION = (
    "**Rank of the update.** Mean over all weight matrices (embedding and output head "
    "included, norms not) of the rank of the difference, as a share of full rank. The paper "
    "finds {rank_low} to {rank_high} %: updates are sparse, yet not low-rank. Full rank by "
    "the numerical threshold does not exclude that few directions dominate; stable, effective "
    "and 99 %-energy rank are reported beside it."
)
COLUMNS = (
    text("label", "update"),
    Column("mean_rank_pct", "all", "mean rank", 2),
    Column("mean_rank_without_embeddings_pct", "without embeddings", "mean rank", 2),
    Column("min_rank_pct", "lowest", digits=2),
    Column("matrices", "matrices"),
    shared.COMPARED_COLUMN,
    Column("borderline", "borderline"),
    Column("stable_rank_pct", "stable", "other ranks, median"),
    Column("effective_rank_pct", "effective", "other ranks, median"),
    Column("energy_rank_99_pct", "99 % energy", "other ranks, median"),
    *shared.PUBLISHED_COLUMNS,
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
    **shared.UPDATE_SCHEMA,
    "mean_rank_pct": float,
    "mean_rank_without_embeddings_pct": float,
    "min_rank_pct": float,
    "matrices": int,
    "compared_share_pct": float,
    "borderline": int,
    "stable_rank_pct": float,
    "effective_rank_pct": float,
    "energy_rank_99_pct": float,
    **shared.PUBLISHED_SCHEMA,
}


class Row(UpdateShown):
    """An update."""

    update: Annotated[str, Names("updates", ("updates/{}.rank.json",))]
    published: str | None = None
    """The paper's model that the update reproduces."""


def build(context: Context) -> polars.DataFrame:
    """One row per update of `spec["updates"]`, then the paper's rows that none of them reproduces.

    Source: Table 2.
    """
    paper = context.paper("table2_update_rank")
    pairs, others = shared.beside_paper(context.rows("updates"), paper, "model")
    rows = []
    for entry, theirs in pairs:
        name = entry["update"]
        measured = context.rank(name)
        mean = shared.percent(measured["mean_rank"])
        rows.append(
            {
                **shared.opening(entry),
                "mean_rank_pct": mean,
                "mean_rank_without_embeddings_pct": shared.percent(
                    measured.get("mean_rank_without_embeddings")
                ),
                "min_rank_pct": shared.percent(measured.get("min_rank")),
                "matrices": measured.get("matrices"),
                "compared_share_pct": compared_share_of(measured),
                "borderline": measured.get("borderline"),
                **_other_ranks(context.rank_matrices(name)),
                **shared.published(
                    mean, theirs, shared.of_algorithm(paper, entry), "mean_rank_pct"
                ),
            }
        )
    for theirs in others:
        rows.append(
            {
                "source": "paper",
                "label": f"{theirs['algorithm']}, {theirs['model']}",
                "algorithm": theirs["algorithm"],
                **shared.published(None, theirs, paper, "mean_rank_pct"),
            }
        )
    return shared.frame(rows, SCHEMA)


def _other_ranks(matrices: polars.DataFrame | None) -> dict[str, float | None]:
    """Median over the matrices of the gentler ranks, each as a share of full rank, in per cent."""
    found: dict[str, float | None] = {}
    for key in ("stable_rank", "effective_rank", "energy_rank_99"):
        if matrices is not None and {key, "full_rank"} <= set(matrices.columns):
            median = (matrices[key] / matrices["full_rank"]).median()
            found[f"{key}_pct"] = shared.percent(median)  # type: ignore[arg-type]
    return found


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    return ends("rank", paper.values("table2_update_rank", "mean_rank_pct"))


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    rows = ours.drop_nulls("mean_rank_pct").to_dicts()
    if not rows:
        return
    lowest = min(r["mean_rank_pct"] for r in rows)

    def shown(row: dict[str, Any]) -> str:
        without = row["mean_rank_without_embeddings_pct"]
        aside = "" if without is None else f" ({without:.1f} without embeddings)"
        return f"{row['mean_rank_pct']:.1f} %{aside}"

    yield Claim(
        "Updates are of nearly full rank",
        "yes" if lowest >= 99 else "unclear" if lowest >= 95 else "no",
        "mean rank " + listed(rows, "label", shown),
        "{rank_low}–{rank_high} %",
        f"updates have {span(r['mean_rank_pct'] for r in rows)} % of full rank "
        "({rank_low}–{rank_high})",
    )


def controlled(ours: polars.DataFrame) -> Iterator[Controlled]:
    """What is left of the effects under something plainer."""
    rows = ours.drop_nulls(["mean_rank_pct", "energy_rank_99_pct"]).to_dicts()
    if rows:
        yield Controlled(
            "Updates are of nearly full rank",
            "directions that hold 99 % of the update's energy instead of all",
            f"mean rank {span(r['mean_rank_pct'] for r in rows)} %",
            f"{span(r['energy_rank_99_pct'] for r in rows)} %",
            left(
                average(r["mean_rank_pct"] for r in rows),
                average(r["energy_rank_99_pct"] for r in rows),
            ),
            f"effective rank {span(r['effective_rank_pct'] for r in rows)} %, stable rank "
            f"{span(r['stable_rank_pct'] for r in rows)} % of full: of full rank, and yet a few "
            "directions weigh most",
        )


ARTEFACT = Table(__name__, label="Table 2", specification=rows_of("updates", Row), place=3)
