"""Table 4: how far two runs change the same weights, against what chance would give."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from subnetworks.artefacts.base import Overlap, Specification, Table, rows_of
from subnetworks.artefacts.claims import Claim, Controlled, average, graded, left, listed, span
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.artefacts.shared import COMPARED_COLUMN, beside_paper, difference, frame, percent
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context, compared_share_of

TITLE = "Table 4. Overlap of two runs' subnetworks, against chance (%)"
CAPTION = (
    "**Overlap of subnetworks.** Share of the weights changed by one run that the other run "
    "changed, too, against three notions of chance: changed weights placed anywhere (the "
    "paper's), within their tensor, and within their tensor and power-of-two bin of the "
    "initial magnitude. The paper finds {seed} % over seeds where uniform chance gives "
    "{chance} %. Because bf16 rounding makes small weights change more easily than large "
    "ones, only overlap beyond the magnitude-matched chance shows a shared subnetwork."
)
_CHANCES = {
    "chance": ("uniform", "uniform chance"),
    "chance_per_tensor": ("per_tensor", "chance per tensor"),
    "chance_by_magnitude": ("by_magnitude", "chance by magnitude"),
}
COLUMNS = (
    text("label", "varied"),
    Column("o1_pct", "o1", "overlap"),
    Column("o2_pct", "o2", "overlap"),
    *(
        Column(f"{key}_{side}_pct", side, under)
        for key, under in _CHANCES.values()
        for side in ("o1", "o2")
    ),
    Column("sparsity1_pct", "run 1", "sparsity"),
    Column("sparsity2_pct", "run 2", "sparsity"),
    COMPARED_COLUMN,
    Column("published_o1_pct", "o1", "paper"),
    Column("published_o2_pct", "o2", "paper"),
    Column("published_uniform_o1_pct", "o1", "paper, chance"),
    Column("published_uniform_o2_pct", "o2", "paper, chance"),
    Column("difference_o1_pct", "o1", "difference", signed=True),
    Column("difference_o2_pct", "o2", "difference", signed=True),
)
NOTES = (
    "o1 = |I1 ∩ I2| / |I1|, o2 = |I1 ∩ I2| / |I2|, where I1 and I2 are the weights that each run "
    "changed (Δ ≠ 0 in bf16, unless the masks were made otherwise). Both start from the same "
    "weights.",
    "Uniform chance: the changed weights of either run placed anywhere (the paper's). Per tensor: "
    "placed anywhere within their tensor. By magnitude: within their tensor and power-of-two bin "
    "of the initial |w|, since bf16 rounding alone decides that small weights change and large "
    "ones do not. Only what exceeds the last is a shared subnetwork.",
    "Compared: entries that both masks have, of those of both together (%).",
)
SCHEMA = {
    "source": str,
    "label": str,
    "overlap": str,
    "n": int,
    "changed1": int,
    "changed2": int,
    "intersection": int,
    **{column.key: float for column in COLUMNS if not column.is_text},
    "jaccard_pct": float,
    "jaccard_uniform_pct": float,
    "z": float,
    "z_by_magnitude": float,
}


class Row(Specification):
    """Two masks compared."""

    overlap: Overlap
    label: str | None = None
    published: str | None = None
    """What the paper varied."""


def build(context: Context) -> polars.DataFrame:
    """One row per overlap of `spec["overlaps"]`, then the paper's rows that none reproduces.

    Source: Table 4.
    """
    paper = context.paper("table4_overlap")
    pairs, others = beside_paper(context.rows("overlaps"), paper, "varied")
    rows = []
    for entry, theirs in pairs:
        row = _measured(context.overlap(entry["overlap"]))
        if theirs:
            row |= _published(theirs)
            for side in ("o1", "o2"):
                row[f"difference_{side}_pct"] = difference(
                    row[f"{side}_pct"], theirs[f"{side}_pct"]
                )
        label = entry.get("label", entry["overlap"])
        rows.append({"source": "here", "label": label, "overlap": entry["overlap"], **row})
    for theirs in others:
        sparsities = {key: theirs[key] for key in ("sparsity1_pct", "sparsity2_pct")}
        row = {**_published(theirs), **sparsities}
        rows.append({"source": "paper", "label": theirs["varied"], **row})
    return frame(rows, SCHEMA)


def _measured(overlap: dict[str, Any]) -> dict[str, Any]:
    n, (first, second) = overlap["n"], overlap["changed"]
    row: dict[str, Any] = {
        "n": n,
        "changed1": first,
        "changed2": second,
        "intersection": overlap["intersection"],
        "compared_share_pct": compared_share_of(overlap),
        "o1_pct": percent(overlap["o1"]),
        "o2_pct": percent(overlap["o2"]),
        "sparsity1_pct": percent(n - first, n),
        "sparsity2_pct": percent(n - second, n),
        "jaccard_pct": percent(overlap.get("jaccard")),
        "jaccard_uniform_pct": percent(overlap["chance"].get("jaccard")),
        "z": overlap.get("z"),
        "z_by_magnitude": overlap.get("z_by_magnitude"),
    }
    for source, (key, _) in _CHANCES.items():
        for side in ("o1", "o2"):
            row[f"{key}_{side}_pct"] = percent((overlap.get(source) or {}).get(side))
    return row


def _published(theirs: dict[str, Any]) -> dict[str, Any]:
    return {
        "published_o1_pct": theirs["o1_pct"],
        "published_o2_pct": theirs["o2_pct"],
        "published_uniform_o1_pct": theirs["random_o1_pct"],
        "published_uniform_o2_pct": theirs["random_o2_pct"],
    }


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    return {
        "seed": f"{paper.value('table4_overlap', 'o1_pct', varied='seed'):.1f}",
        "chance": f"{paper.value('table4_overlap', 'random_o1_pct', varied='seed'):.1f}",
    }


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    rows = ours.to_dicts()
    magnitude = all(r["by_magnitude_o1_pct"] is not None for r in rows)
    chances = [
        ("Subnetworks of two runs overlap more than by chance", "uniform", "uniform chance"),
        ("… also than by chance matched by magnitude", "by_magnitude", "chance by magnitude"),
    ]
    for claim, chance, words in chances:
        needed = ["o1_pct", "o2_pct", f"{chance}_o1_pct", f"{chance}_o2_pct"]
        known = [r for r in rows if None not in (r[key] for key in needed)]
        if not known:
            continue
        beyond = [r[f"{s}_pct"] - r[f"{chance}_{s}_pct"] for r in known for s in ("o1", "o2")]
        yield Claim(
            claim,
            graded(beyond, clear=1),
            "o1: "
            + listed(
                known,
                "label",
                partial(_against, f"{chance}_o1_pct"),
            )
            + f" ({words})",
            "seed {seed} against {chance} %" if chance == "uniform" else "not tested",
            "" if chance == "uniform" and magnitude else _brief_overlap(known, magnitude),
            margin=min(beyond),
        )


def _brief_overlap(rows: list[dict[str, Any]], magnitude: bool) -> str:
    words = f"masks overlap by {span(r['o1_pct'] for r in rows)} %, "
    words += f"chance {span(r['uniform_o1_pct'] for r in rows)} "
    words += "({seed}, {chance})"
    if magnitude:
        words += f", matched by magnitude {span(r['by_magnitude_o1_pct'] for r in rows)}"
    return words


def _against(chance: str, row: dict[str, Any]) -> str:
    return f"{row['o1_pct']:.1f} against {row[chance]:.1f} %"


def controlled(ours: polars.DataFrame) -> Iterator[Controlled]:
    """What is left of the effects under something plainer."""
    rows = ours.drop_nulls(["o1_pct", "uniform_o1_pct"]).to_dicts()
    if not rows:
        return
    for chance, words, reading in (
        (
            "per_tensor",
            "chance within each tensor",
            "tensors that change much in one run change much in the other",
        ),
        (
            "by_magnitude",
            "chance matched by magnitude, too",
            "bf16 rounding lets small weights change more easily than large ones, in any run; only "
            "what is beyond this chance is a subnetwork that runs share",
        ),
    ):
        known = [row for row in rows if row[f"{chance}_o1_pct"] is not None]
        if known:
            raw = [row["o1_pct"] - row["uniform_o1_pct"] for row in known]
            rest = [row["o1_pct"] - row[f"{chance}_o1_pct"] for row in known]
            yield Controlled(
                "Subnetworks overlap beyond chance",
                words,
                f"o1 {span(raw, sign=True)} points beyond uniform chance",
                f"{span(rest, sign=True)} points",
                left(average(raw), average(rest)),
                reading,
            )


ARTEFACT = Table(__name__, label="Table 4", specification=rows_of("overlaps", Row), place=6)
