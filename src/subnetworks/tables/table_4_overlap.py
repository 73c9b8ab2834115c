"""Table 4: how far two runs change the same weights, against what chance would give."""

from typing import Any

import polars

from subnetworks.results import Context, compared_share_of
from subnetworks.tables.shared import COMPARED_COLUMN, difference, frame, percent, published_row
from subnetworks.tables.style import Column, text

NAME = "table_4_overlap"
TITLE = "Table 4. Overlap of two runs' subnetworks, against chance (%)"
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
    "source": polars.String,
    "label": polars.String,
    "overlap": polars.String,
    "n": polars.Int64,
    "changed1": polars.Int64,
    "changed2": polars.Int64,
    "intersection": polars.Int64,
    **{column.key: polars.Float64 for column in COLUMNS if not column.is_text},
    "jaccard_pct": polars.Float64,
    "jaccard_uniform_pct": polars.Float64,
    "z": polars.Float64,
    "z_by_magnitude": polars.Float64,
}


def build(context: Context) -> polars.DataFrame:
    """One row an overlap of `spec["overlaps"]`, then the paper's rows that none reproduces.

    Each entry: `overlap`, `label`, optionally `published` (what the paper varied: `seed`, `data`,
    `seed, data and algorithm`). Source: Table 4.
    """
    paper = context.paper("table4_overlap")
    rows, reproduced = [], []
    for entry in context.rows("overlaps", "overlap"):
        row = _measured(context.overlap(entry["overlap"]))
        theirs = published_row(paper, "varied", entry)
        if theirs:
            reproduced.append(theirs["varied"])
            row |= _published(theirs)
            for side in ("o1", "o2"):
                row[f"difference_{side}_pct"] = difference(
                    row[f"{side}_pct"], theirs[f"{side}_pct"]
                )
        label = entry.get("label", entry["overlap"])
        rows.append({"source": "here", "label": label, "overlap": entry["overlap"], **row})
    for theirs in paper.filter(~polars.col("varied").is_in(reproduced)).to_dicts():
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
