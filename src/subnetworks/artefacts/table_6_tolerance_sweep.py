"""Table 6: how much of an update's sparsity is a matter of the tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from subnetworks.artefacts import shared
from subnetworks.artefacts.base import Table, UpdateShown, rows_of
from subnetworks.artefacts.claims import Claim, all_hold, listed
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes, ends
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context, compared_share_of

TITLE = "Table 6. Sparsity of the update at different tolerances (%)"
CAPTION = (
    "**Sparsity at different tolerances.** Share of weights that differ by at most the "
    "tolerance, beside those that are exactly equal. The paper's twelve updates gain at most "
    "{fine_high} points from 1e-8 to 1e-6, and {coarse_low} to {coarse_high} points from "
    "there to 1e-5, its own rule: what remains at 1e-8 owes nothing to the tolerance. Its "
    "values for SimPO contradict its Table 1."
)
TOLERANCES = ("1e-8", "1e-7", "1e-6", "1e-5", "1e-4")
PUBLISHED = TOLERANCES[:4]
COLUMNS = (
    text("label", "update"),
    Column("equal_pct", "Δ = 0", digits=2),
    *(Column(f"sparsity_{t}_pct", t, "|Δ| ≤", 2) for t in TOLERANCES),
    *(Column(f"published_{t}_pct", t, "paper, |Δ| ≤", 2) for t in PUBLISHED),
    *(Column(f"difference_{t}_pct", t, "difference", 2, signed=True) for t in PUBLISHED),
    Column("n", "of"),
    shared.COMPARED_COLUMN,
)
NOTES = (
    "Share of all weights, embeddings included, that differ by no more than the tolerance, both "
    "ends and the tolerance itself rounded to bf16. The paper's own rule is 1e-5; 1e-4 is ours.",
    "One bf16 step of a weight w is between |w| / 256 and |w| / 128, so that a tolerance forgives "
    "whole steps of weights below 128 to 256 times itself only: at 1e-6 hardly any, at 1e-5 "
    "those below 0.002, at 1e-4 those below 0.016, which can be most.",
    shared.COMPARED_NOTE,
)
SCHEMA = {
    **shared.UPDATE_SCHEMA,
    "n": int,
    **{column.key: float for column in COLUMNS if column.key.endswith("_pct")},
    "remark": str,
}


class Row(UpdateShown):
    """An update."""

    published: str | None = None
    """The paper's tuned checkpoint that the update reproduces."""


def build(context: Context) -> polars.DataFrame:
    """One row per update of `spec["updates"]`, then the paper's rows that none of them reproduces.

    Source: Table 6.
    """
    paper = context.paper("table6_tolerance_sweep")
    pairs, others = shared.beside_paper(context.rows("updates"), paper, "tuned")
    rows = []
    for entry, theirs in pairs:
        measured = context.update(entry["update"])
        row: dict[str, Any] = {
            **shared.opening(entry),
            "n": measured["n"],
            "compared_share_pct": compared_share_of(measured),
            "equal_pct": shared.percent(measured["equal"], measured["n"]),
        }
        for tolerance in TOLERANCES:
            row[f"sparsity_{tolerance}_pct"] = shared.percent(
                measured["isclose_bf16"].get(tolerance), measured["n"]
            )
        if theirs:
            row |= _published(context, theirs)
            for tolerance in PUBLISHED:
                row[f"difference_{tolerance}_pct"] = shared.difference(
                    row[f"sparsity_{tolerance}_pct"], row[f"published_{tolerance}_pct"]
                )
        rows.append(row)
    for theirs in others:
        label = theirs["tuned"].split("/")[-1]
        rows.append({"source": "paper", "label": label, **_published(context, theirs)})
    return shared.frame(rows, SCHEMA)


def _published(context: Context, theirs: dict[str, Any]) -> dict[str, Any]:
    values = {f"published_{t}_pct": theirs[f"tol_{t}"] for t in PUBLISHED}
    # The paper's contradiction on SimPO is filed under Table 1, and is with this table.
    remark = shared.remark_on(context, "table_1_update_sparsity", theirs["tuned"])
    return {**values, "remark": remark}


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    finest, finer, rule = (
        paper.values("table6_tolerance_sweep", f"tol_{tolerance}")
        for tolerance in ("1e-8", "1e-6", "1e-5")
    )

    def gained(later: list[float], earlier: list[float]) -> list[float]:
        return [b - a for a, b in zip(earlier, later, strict=True)]

    return {
        **ends("fine", gained(finer, finest)),
        **ends("coarse", gained(rule, finer)),
        **ends("all", gained(rule, finest)),
    }


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    rows = ours.drop_nulls(["sparsity_1e-8_pct", "sparsity_1e-6_pct"]).to_dicts()
    if not rows:
        return

    def more(row: dict[str, Any], tolerance: str) -> float:
        return float(row[f"sparsity_{tolerance}_pct"] - row["sparsity_1e-8_pct"])

    yield Claim(
        "Up to 1e-6 the tolerance adds little to sparsity",
        all_hold([more(row, "1e-6") <= 1.5 for row in rows]),
        "points gained from 1e-8 to 1e-6, to 1e-5: "
        + listed(rows, "label", lambda r: f"{more(r, '1e-6'):.1f}, {more(r, '1e-5'):.1f}"),
        "{fine_low}–{fine_high} and {all_low}–{all_high} points",
    )


ARTEFACT = Table(__name__, label="Table 6", specification=rows_of("updates", Row), place=2)
