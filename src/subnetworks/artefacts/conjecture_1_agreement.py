"""Conjecture 1: training within the subnetwork ends where full training ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from subnetworks.artefacts.base import Agreement, Overlap, Specification, Table, Update, rows_of
from subnetworks.artefacts.claims import Claim, Controlled, all_hold, average, left, listed, span
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes, ends
from subnetworks.artefacts.shared import difference, frame, percent
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context

TITLE = "Conjecture 1. Weights on which full training and training within the subnetwork agree (%)"
CAPTION = (
    "**Conjecture 1: the same end.** Share of weights on which full training and training "
    "within its subnetwork agree, at tolerances of 1e-5 and 1e-4, beside what agrees without "
    "any mask: the full run with its own start and with another seed. The paper finds {dpo} % "
    "(DPO) and {prime} % (PRIME) at 1e-5, and {coarse} % at 1e-4. The last column but the "
    "paper's counts weights outside the mask that moved all the same; it must be 0."
)
COLUMNS = (
    text("algorithm", "algorithm"),
    text("compared", "compared"),
    Column("equal_1e-5_pct", "|Δ| ≤ 1e-5", digits=2),
    Column("equal_1e-4_pct", "|Δ| ≤ 1e-4", digits=2),
    Column("bit_equal_pct", "bit-equal", digits=2),
    Column("outside_moved", "moved outside the mask"),
    Column("published_1e-5_pct", "|Δ| ≤ 1e-5", "paper"),
    Column("published_1e-4_pct", "|Δ| ≤ 1e-4", "paper"),
    Column("difference_1e-5_pct", "|Δ| ≤ 1e-5", "difference", signed=True),
    Column("difference_1e-4_pct", "|Δ| ≤ 1e-4", "difference", signed=True),
)
NOTES = (
    "Share of all weights, embeddings included; both ends in bf16.",
    "Full and init, full and another seed: what agreement is there without the mask. Only "
    "agreement beyond both speaks for the conjecture, since weights that neither run moved agree "
    "trivially.",
    "Moved outside the mask: weights that the masked run changed although its mask forbids it; "
    "must be 0.",
)
_COMPARED = {"init": "full and init", "seed": "full and another seed"}
SCHEMA = {
    "source": str,
    "algorithm": str,
    "compared": str,
    "update": str,
    "n": int,
    "equal_1e-5_pct": float,
    "equal_1e-4_pct": float,
    "bit_equal_pct": float,
    "outside_moved": int,
    "published_1e-5_pct": float,
    "published_1e-4_pct": float,
    "difference_1e-5_pct": float,
    "difference_1e-4_pct": float,
}


class Row(Specification):
    """An agreement; what it is read from is the experiment's to say."""

    needs: ClassVar[tuple[str, ...]] = ("algorithm", "update")
    agreement: Agreement | None = None
    algorithm: str | None = None
    update: Update | None = None
    """From the full run's end to the masked run's."""
    within: Overlap | None = None
    """Of the full and the masked run's masks, in this order."""
    baselines: dict[str, Update] | None = None
    """From the full run's end to something else."""
    published: str | None = None
    """The paper's algorithm, if it goes by another name there."""


def build(context: Context) -> polars.DataFrame:
    """For each of `spec["agreements"]`: full and subnetwork, then its trivial baselines.

    Source: Section 5, Conjecture 1.
    """
    paper = context.paper("conjecture1_value_agreement")
    rows, shown = [], []
    for entry in context.rows("agreements"):
        published = entry.get("published", entry["algorithm"])
        theirs = _published(paper, published)
        if theirs:
            shown.append(published)
        row = {**_measured(context, entry["update"]), **theirs}
        for tolerance in ("1e-5", "1e-4"):
            row[f"difference_{tolerance}_pct"] = difference(
                row[f"equal_{tolerance}_pct"], theirs.get(f"published_{tolerance}_pct")
            )
        if "within" in entry:
            row["outside_moved"] = outside(context.overlap(entry["within"]))
        first = {"algorithm": entry["algorithm"], "compared": "full and subnetwork"}
        rows.append({"source": "here", **first, **row})
        for label, update in entry.get("baselines", {}).items():
            compared = _COMPARED.get(label, f"full and {label}")
            second = {"algorithm": entry["algorithm"], "compared": compared}
            rows.append({"source": "here", **second, **_measured(context, update)})
    for algorithm in paper["algorithm"].unique(maintain_order=True):
        if algorithm not in shown:
            first = {"algorithm": algorithm, "compared": "full and subnetwork"}
            rows.append({"source": "paper", **first, **_published(paper, algorithm)})
    return frame(rows, SCHEMA)


def outside(overlap: dict[str, Any]) -> int:
    """Weights changed by the second run but not in the first mask."""
    return int(overlap["changed"][1] - overlap["intersection"])


def _measured(context: Context, update: str) -> dict[str, Any]:
    measured = context.update(update)
    n = measured["n"]
    return {
        "update": update,
        "n": n,
        "equal_1e-5_pct": percent(measured["isclose_bf16"]["1e-5"], n),
        "equal_1e-4_pct": percent(measured["isclose_bf16"]["1e-4"], n),
        "bit_equal_pct": percent(measured["bit_equal"], n),
    }


def _published(paper: polars.DataFrame, algorithm: str) -> dict[str, float]:
    rows = paper.filter(polars.col("algorithm") == algorithm)
    return {f"published_{row['tolerance']}_pct": row["equal_pct"] for row in rows.to_dicts()}


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""

    def at(tolerance: str, **where: str) -> list[float]:
        return paper.values(
            "conjecture1_value_agreement", "equal_pct", tolerance=tolerance, **where
        )

    return {
        "dpo": f"{at('1e-5', algorithm='DPO')[0]:.1f}",
        "prime": f"{at('1e-5', algorithm='PRIME')[0]:.1f}",
        "coarse": f"{min(at('1e-4')):.0f}",
        **ends("fine", at("1e-5")),
    }


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    pairs = ours.filter(polars.col("compared") == "full and subnetwork").to_dicts()
    beaten, parts, trivial = [], [], []
    for row in pairs:
        others = ours.filter(
            (polars.col("algorithm") == row["algorithm"])
            & (polars.col("compared") != "full and subnetwork")
        ).to_dicts()
        trivial += [other["equal_1e-5_pct"] for other in others]
        beaten += [row["equal_1e-5_pct"] - other["equal_1e-5_pct"] for other in others]
        against = ", ".join(
            f"{other['compared'].removeprefix('full and ')} {other['equal_1e-5_pct']:.1f}"
            for other in others
        )
        parts.append(
            f"{row['algorithm']} {row['equal_1e-5_pct']:.1f} % at 1e-5"
            + (f" ({against})" if against else "")
            + f", {row['equal_1e-4_pct']:.1f} % at 1e-4"
        )
    yield Claim(
        "Masked training ends where full training ends (more than trivially)",
        all_hold([excess > 0 for excess in beaten]) if beaten else "unclear",
        "; ".join(parts),
        "DPO {dpo}, PRIME {prime} % at 1e-5; {coarse} % at 1e-4",
        f"masked and full training agree on {span(r['equal_1e-5_pct'] for r in pairs)} % "
        "({fine_low}–{fine_high})" + (f"; init, other seeds {span(trivial)}" if trivial else ""),
        margin=min(beaten, default=None),
    )
    if moved := [r for r in pairs if r["outside_moved"] is not None]:
        yield Claim(
            "Masked-out weights stay bit-identical (a check of ours)",
            all_hold([row["outside_moved"] == 0 for row in moved]),
            listed(moved, "algorithm", lambda r: f"{r['outside_moved']:,} moved"),
            "by construction",
        )


def controlled(ours: polars.DataFrame) -> Iterator[Controlled]:
    """What is left of the effects under something plainer."""
    by: dict[str, dict[str, dict[str, Any]]] = {}
    for row in ours.to_dicts():
        by.setdefault(row["algorithm"], {})[row["compared"].removeprefix("full and ")] = row
    known = {a: rows for a, rows in by.items() if {"subnetwork", "init"} <= rows.keys()}
    seeded = {a: rows for a, rows in known.items() if "another seed" in rows}

    def shown(groups: dict[str, dict[str, dict[str, Any]]], what: str, tolerance: str) -> str:
        return ", ".join(
            f"{algorithm} {rows[what][f'equal_{tolerance}_pct']:.1f}"
            for algorithm, rows in groups.items()
        )

    def excess(groups: dict[str, dict[str, dict[str, Any]]], over: str, tolerance: str) -> float:
        key = f"equal_{tolerance}_pct"
        return average(rows["subnetwork"][key] - rows[over][key] for rows in groups.values())

    if seeded:
        beyond_init, beyond_seed = (excess(seeded, o, "1e-5") for o in ("init", "another seed"))
        yield Controlled(
            "Masked training ends where full training ends",
            "another seed of full training instead of the init",
            f"agreement {beyond_init:+z.1f} points beyond the init's ("
            + shown(seeded, "subnetwork", "1e-5")
            + f" against {shown(seeded, 'init', '1e-5')} %)",
            f"{beyond_seed:+z.1f} points ({shown(seeded, 'another seed', '1e-5')} %)",
            left(beyond_init, beyond_seed),
            "two full runs of different seeds agree by themselves on many weights; the mask's "
            "doing is only what is beyond them",
        )
        fine, coarse = (excess(seeded, "another seed", t) for t in ("1e-5", "1e-4"))
        yield Controlled(
            "… and wholly at a tolerance of 1e-4",
            "another seed of full training",
            f"{shown(seeded, 'subnetwork', '1e-4')} % agree at 1e-4",
            f"another seed: {shown(seeded, 'another seed', '1e-4')} %; beyond it {coarse:+z.1f} "
            f"points, at 1e-5 {fine:+z.1f}",
            left(fine, coarse),
            "so coarse a tolerance finds runs equal that have nothing to do with each other's mask",
        )


ARTEFACT = Table(__name__, label="Conjecture 1", specification=rows_of("agreements", Row), place=4)
