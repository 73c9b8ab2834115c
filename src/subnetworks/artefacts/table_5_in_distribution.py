"""Table 5: how sparse updates are by data from the model's own distribution, and from another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from subnetworks.artefacts import shared
from subnetworks.artefacts.base import Table, UpdateShown, rows_of
from subnetworks.artefacts.claims import (
    Claim,
    Controlled,
    average,
    graded,
    is_supervised,
    left,
    listed,
    span,
    unchanged,
)
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes, ends
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context, by_hand

TITLE = "Table 5. Sparsity by in- and out-of-distribution data: share of weights unchanged (%)"
CAPTION = (
    "**In- and out-of-distribution data.** Sparsity of updates by data that are likely under "
    "the model they train (its own verified answers, or pairs of its own answers), and by "
    "data that others wrote. The paper finds {in_low} to {in_high} % in distribution and "
    "{out_low} to {out_high} % out of it, and reads this as the reason for sparsity. Its rows "
    "differ in learning rate and length of training, too: compare rows of one learning rate."
)
COLUMNS = (
    text("label", "update"),
    text("in_distribution", "in distribution"),
    Column("learning_rate", "learning rate", general=True),
    Column("steps", "steps"),
    *shared.SPARSITY_COLUMNS,
    *shared.PUBLISHED_COLUMNS,
    Column("changed", "changed"),
    Column("n", "of"),
    shared.COMPARED_COLUMN,
)
NOTES = (
    "In distribution: trained on what the init itself says, such as its own verified answers (RFT) "
    "or pairs of its own answers (DPO). Out of distribution: on what others wrote.",
    "|Δ| ≤ 1e-5 is the paper's rule for bf16 weights; changed: weights with |Δ| > 1e-5.",
    "Steps are the optimiser's. Learning rate and number of steps change sparsity by themselves: "
    "only rows that share them tell what the data do. The paper's rows do not share them.",
    shared.COMPARED_NOTE,
    "Paper: the published value of the same update; for an update that the paper does not have, "
    "the range of its updates by data of that kind, of far larger models, without a difference.",
)
SCHEMA = {
    **shared.UPDATE_SCHEMA,
    "in_distribution": bool,
    "learning_rate": float,
    "steps": int,
    **shared.SPARSITY_SCHEMA,
    **shared.PUBLISHED_SCHEMA,
    "remark": str,
}


class Row(UpdateShown):
    """An update."""

    in_distribution: bool
    """Whether the data are likely under the init (its own samples, say)."""
    learning_rate: float | None = None
    steps: int | None = None
    updates_per_step: int | None = None
    published: str | None = None
    """The row of the paper's table: model, method."""


def build(context: Context) -> polars.DataFrame:
    """One row per update of `spec["updates"]`, then the paper's rows that none of them reproduces.

    Source: Table 5.
    """
    paper = context.paper("table5_in_distribution").with_columns(
        (polars.col("model") + ", " + polars.col("method")).alias("row"),
        (polars.col("in_distribution") == "yes").alias("own"),
    )
    pairs, others = shared.beside_paper(context.rows("updates"), paper, "row")
    rows = []
    for entry, theirs in pairs:
        measured = shared.sparsity_of(context, entry["update"])
        alike = paper.filter(own=entry["in_distribution"])
        rows.append(
            {
                **shared.opening(entry),
                "in_distribution": entry["in_distribution"],
                "learning_rate": entry.get("learning_rate"),
                "steps": _updates(entry),
                **measured,
                **shared.published(measured["sparsity_pct"], theirs, alike, "sparsity_pct"),
                "remark": shared.remark_on(context, ARTEFACT.name, theirs["model"])
                if theirs
                else None,
            }
        )
    for theirs in others:
        rows.append(
            {
                "source": "paper",
                "label": theirs["row"],
                "algorithm": theirs["method"],
                "in_distribution": theirs["own"],
                **shared.published(None, theirs, paper, "sparsity_pct"),
                "remark": shared.remark_on(context, ARTEFACT.name, theirs["model"]),
            }
        )
    return shared.frame(rows, SCHEMA)


def _updates(entry: dict[str, Any]) -> int | None:
    """How many steps the optimiser made."""
    steps = entry.get("steps")
    return None if steps is None else steps * int(entry.get("updates_per_step", 1))


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    return {
        **ends("in", _printed(paper, "yes"), 0),
        **ends("out", _printed(paper, "no"), 0),
    }


def _printed(paper: Published, own: str) -> list[float]:
    return paper.values("table5_in_distribution", "sparsity_pct", in_distribution=own)


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""

    def judged(
        claim: str, rows: list[dict[str, Any]], paper: str, brief: bool = False
    ) -> Iterator[Claim]:
        own = [row["sparsity_pct"] for row in rows if row["in_distribution"]]
        others = [row["sparsity_pct"] for row in rows if not row["in_distribution"]]
        if own and others:
            yield Claim(
                claim,
                graded([mine - other for mine in own for other in others], clear=10),
                "in: "
                + listed([r for r in rows if r["in_distribution"]], "label", unchanged)
                + "; out: "
                + listed([r for r in rows if not r["in_distribution"]], "label", unchanged),
                paper,
                f"own data leave {span(own)} % unchanged, others' {span(others)} % "
                "({in_low}–{in_high}, {out_low}–{out_high})"
                if brief
                else "",
            )

    rows = ours.to_dicts()
    yield from judged(
        "In-distribution data leave updates sparse, out-of-distribution data dense",
        rows,
        "in {in_low}–{in_high} %, out {out_low}–{out_high} %",
        brief=True,
    )
    rates = Counter(row["learning_rate"] for row in rows if row["learning_rate"] is not None)
    if rates:
        rate, _ = rates.most_common(1)[0]
        alike = [row for row in rows if row["learning_rate"] == rate]
        yield from judged(f"… also at one learning rate ({by_hand(rate)})", alike, "not tested")


def controlled(ours: polars.DataFrame) -> Iterator[Controlled]:
    """What is left of the effects under something plainer."""
    rows = ours.drop_nulls(["learning_rate", "sparsity_pct"]).to_dicts()
    reinforced = [r for r in rows if not is_supervised(r) and r["in_distribution"]]
    if not reinforced:
        return
    rate = reinforced[0]["learning_rate"]
    supervised = [r for r in rows if is_supervised(r)]
    own = [r for r in supervised if r["learning_rate"] != rate]
    same = [r for r in supervised if r["learning_rate"] == rate]
    sparse = average(r["sparsity_pct"] for r in reinforced)

    def shown(members: list[dict[str, Any]]) -> str:
        return ", ".join(f"{r['label']} {r['sparsity_pct']:.1f} %" for r in members)

    if own and same:
        gaps = [[sparse - r["sparsity_pct"] for r in members] for members in (own, same)]
        yield Controlled(
            "SFT is dense, RL sparse",
            f"one learning rate ({by_hand(rate)})",
            f"{shown(reinforced)}; at their own rates {shown(own)}",
            f"at one rate {shown(same)}",
            left(*map(average, gaps)),
            "the learning rate by itself makes an update dense or sparse",
        )
    others = [r for r in rows if not r["in_distribution"]]
    alike = [r for r in others if r["learning_rate"] == rate]
    mine = [r for r in rows if r["in_distribution"] and r["learning_rate"] == rate]
    if alike and len(others) > len(alike):
        inside = average(r["sparsity_pct"] for r in mine)
        yield Controlled(
            "Data out of the model's distribution make updates dense",
            f"one learning rate ({by_hand(rate)})",
            f"in {shown(mine)}; out {shown(others)}",
            f"out {shown(alike)}",
            left(*(inside - average(r["sparsity_pct"] for r in m) for m in (others, alike))),
            "what remains goes one way for one algorithm and may go the other for another",
        )


ARTEFACT = Table(__name__, label="Table 5", specification=rows_of("updates", Row), place=7)
