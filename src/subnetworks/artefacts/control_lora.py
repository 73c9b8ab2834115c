"""Control: updates of LoRA of several ranks beside the full run's own sparse update.

RL's own update is sparse and nearly of full rank; LoRA's is of low rank by construction. Is it
sparse as well, once it is merged and rounded, and does it lie where the full run's does?
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from subnetworks.artefacts import table_1_update_sparsity, table_2_update_rank
from subnetworks.artefacts.base import (
    Benchmark,
    Names,
    Overlap,
    Scored,
    Specification,
    Table,
    Update,
)
from subnetworks.artefacts.claims import TWO_SIDED_95, Claim, all_hold, is_supervised
from subnetworks.artefacts.control_masks import accuracy, worse
from subnetworks.artefacts.control_ranks import inner_matrices, share_of_full
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.artefacts.shared import (
    SPARSITY_COLUMNS,
    SPARSITY_SCHEMA,
    frame,
    matched_chance,
    percent,
    sparsity_of,
)
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context, by_hand, label_of
from subnetworks.core.validation import wrong

CLEAR = 10.0
"""Points that full training must exceed every adapter by; if it does some, it is unclear."""
TITLE = "LoRA beside full training"
CAPTION = (
    "**LoRA beside full training.** The same algorithm, init, data and steps, all weights trained "
    "or adapters of several ranks on every linear layer. Adapters are merged into the init and "
    "rounded to bf16 before anything is compared: sparsity by both rules, ranks before and after "
    "that rounding, and how far LoRA's changed weights are those that full training changes."
)
COLUMNS = (
    text("algorithm", "algorithm"),
    text("label", "run"),
    Column("lora_rank", "rank"),
    Column("learning_rate", "learning rate", general=True),
    *SPARSITY_COLUMNS,
    Column("adapters_rank_pct", "of the adapters, at most", "rank (%)"),
    Column("rank_pct", "exact, merged", "rank (%)"),
    Column("energy_rank_99_pct", "99 % energy", "rank (%)"),
    Column("stable_rank_pct", "stable", "rank (%)"),
    Column("in_full_pct", "lies in full's mask", "of its update (%)"),
    Column("in_full_chance_pct", "by magnitude's chance", "of its update (%)"),
    Column("of_full_pct", "it changes, too", "of full's mask (%)"),
    Column("of_full_chance_pct", "by magnitude's chance", "of full's mask (%)"),
    Column("agreement_pct", "agree with full (%)"),
    Column("accuracy_pct", "accuracy (%)", error="accuracy_stderr_pct"),
    Column("difference_pct", "against full", signed=True, error="difference_stderr_pct"),
)
NOTES = (
    "Adapters train no embedding, head or norm: compare sparsity without embeddings.",
    "Ranks: means over the weight matrices but embedding and output head, as a share of full rank. "
    "LoRA's update is of no higher rank than its adapters until it is rounded to bf16; rounding "
    "adds small changes in all directions, which exact rank counts like any others.",
    "Masks are of Δ ≠ 0. Chance: what masks would share that are drawn with the same densities in "
    "each tensor's powers of two of |w|.",
    "Agree with full: share of all weights within 1e-5 of where full training ends, in bf16. "
    "Accuracy: greedy answers to held-out questions, ± standard error; the difference is paired by "
    "question.",
)
_RANKS = ("rank", "energy_rank_99", "stable_rank")
SCHEMA = {
    "source": str,
    "algorithm": str,
    "label": str,
    "update": str,
    "lora_rank": int,
    "learning_rate": float,
    **SPARSITY_SCHEMA,
    **{column.key: float for column in COLUMNS[8:]},
    "accuracy_stderr_pct": float,
    "difference_stderr_pct": float,
}


class Row(Specification):
    """A run, of adapters unless it has no `lora_rank`."""

    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    update: Annotated[
        str,
        Names("updates", ("updates/{}.json", "updates/{}.rank.json", "updates/{}.rank.parquet")),
    ]
    of: Annotated[str, Names("checkpoints")]
    """The run that trains all weights; itself, if this is the one."""
    label: str | None = None
    algorithm: str | None = None
    lora_rank: int | None = None
    learning_rate: float | None = None
    overlap: Overlap | None = None
    """The full run's mask, then this one's."""
    apart: Update | None = None
    """From the full run's end to this one's."""
    scored: Scored | None = None
    """Its end, if that is evaluated on the benchmark."""


class Shown(Specification):
    """What is shown."""

    runs: list[Row] = Field(min_length=1)
    benchmark: Benchmark | None = None

    @model_validator(mode="after")
    def _asked(self) -> Shown:
        if self.benchmark is None and any(row.scored for row in self.runs):
            raise wrong("runs are scored, but on which benchmark is not said", "benchmark")
        return self


def build(context: Context) -> polars.DataFrame:
    """One row per entry of `spec["runs"]`."""
    return frame([_row(context, entry) for entry in context.rows("runs")], SCHEMA)


def _row(context: Context, entry: dict[str, Any]) -> dict[str, Any]:
    matrices = inner_matrices(context, entry["update"])
    rank = entry.get("lora_rank")
    row: dict[str, Any] = {
        "source": "here",
        "label": label_of(entry),
        **{key: entry.get(key) for key in ("algorithm", "update", "lora_rank", "learning_rate")},
        **sparsity_of(context, entry["update"]),
        **{f"{key}_pct": share_of_full(matrices, key) for key in _RANKS},
    }
    if rank:
        most = matrices.select(polars.min_horizontal("full_rank", polars.lit(rank)).alias("most"))
        row["adapters_rank_pct"] = share_of_full(matrices.with_columns(most), "most")
    if "overlap" in entry:
        found = context.overlap(entry["overlap"])
        chance = matched_chance(found)
        for key, ratio in (("of_full", "o1"), ("in_full", "o2")):
            row[f"{key}_pct"] = percent(found[ratio])
            row[f"{key}_chance_pct"] = percent(chance[ratio])
    if "apart" in entry:
        row["agreement_pct"] = percent(context.update(entry["apart"])["sparsity"])
    if "scored" in entry:
        row |= accuracy(context, entry["scored"], entry["of"])
    return row


def quoted(paper: Published) -> Quotes:
    """What the paper prints of sparsity and rank."""
    return {**table_1_update_sparsity.quoted(paper), **table_2_update_rank.quoted(paper)}


_MEASURES = (
    (
        "RL leaves more weights unchanged than LoRA by the same algorithm",
        "sparsity_without_embeddings_pct",
        "unchanged without embeddings",
        "RL {rl_low}–{rl_high} % of all weights; LoRA not measured",
    ),
    (
        "By exact rank, RL's update is of higher rank than LoRA's",
        "rank_pct",
        "of full rank once merged and rounded",
        "RL {rank_low}–{rank_high} %; LoRA not measured",
    ),
    (
        "… and by the directions that hold 99 % of its energy",
        "energy_rank_99_pct",
        "of full rank",
        "not stated",
    ),
)


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """Whether RL's own update differs from that of the adapters that are scored beside it, and if
    these learn as much."""
    groups = list(_reinforced(ours.to_dicts()))
    if not groups:
        return
    for words, key, kind, paper in _MEASURES:
        excesses = [full[key] - row[key] for full, adapters in groups for row in adapters]
        here = "; ".join(
            f"{full['algorithm']} {full[key]:.1f} %, LoRA of {_of_ranks(adapters, key)}"
            for full, adapters in groups
        )
        yield Claim(
            f"{words} (a control of ours)",
            all_hold([excess > CLEAR for excess in excesses]),
            f"{here} {kind} (by more than {CLEAR:g} points)",
            paper,
            margin=min(excesses) - CLEAR,
        )
    rows = [row for _, adapters in groups for row in adapters]
    yield Claim(
        "LoRA scores as well as RL of all weights (a control of ours)",
        all_hold([not worse(row) for row in rows]),
        "; ".join(
            f"{full['algorithm']} of {_of_ranks(adapters, 'difference_pct', '+.1f', ' points')}"
            for full, adapters in groups
        )
        + f" (not below by more than {TWO_SIDED_95:g} standard errors)",
        "not stated",
        margin=min(
            row["difference_pct"] + TWO_SIDED_95 * (row["difference_stderr_pct"] or 0)
            for row in rows
        ),
    )


def _reinforced(
    rows: list[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The full run of each algorithm of RL, and its adapters that are scored, if any are."""
    for full in rows:
        adapters = [
            row
            for row in rows
            if row["lora_rank"]
            and row["algorithm"] == full["algorithm"]
            and row["difference_pct"] is not None
        ]
        if adapters and not full["lora_rank"] and not is_supervised(full):
            yield full, adapters


def _of_ranks(rows: list[dict[str, Any]], key: str, how: str = ".1f", unit: str = " %") -> str:
    words = ", ".join(f"rank {row['lora_rank']} {row[key]:{how}}{unit}" for row in rows)
    return words.replace("-", "−")


def said(frame: polars.DataFrame) -> list[str]:
    """How each algorithm's adapters differ from its full run, at every learning rate."""
    lines = []
    for (algorithm,), group in frame.group_by("algorithm", maintain_order=True):
        full = next((row for row in group.to_dicts() if not row["lora_rank"]), None)
        adapters = group.drop_nulls("lora_rank")
        if full is None or adapters.is_empty():
            continue
        lines.append(
            f"{algorithm}: without embeddings full training leaves "
            f"{full['sparsity_without_embeddings_pct']:.1f} % unchanged, LoRA of "
            + _listed(adapters, "sparsity_without_embeddings_pct")
            + "."
        )
        if not adapters["in_full_pct"].is_null().all():
            lines.append(
                f"{algorithm}: of the weights that LoRA changes, these lie in the full run's mask "
                "(in brackets chance matched by magnitude): "
                + _listed(adapters, "in_full_pct", "in_full_chance_pct")
                + "."
            )
        lines.append(
            f"{algorithm}: exact rank of the merged update, where full training's is "
            f"{full['rank_pct']:.1f} % of full rank: "
            + _listed(adapters, "rank_pct")
            + "; of the adapters at most: "
            + _listed(adapters, "adapters_rank_pct")
            + "."
        )
    return lines


def _listed(rows: polars.DataFrame, key: str, chance: str = "") -> str:
    """A share of every row, by rank and learning rate."""
    several = rows["learning_rate"].n_unique() > 1
    words = []
    for row in rows.drop_nulls(key).to_dicts():
        at = f" at {by_hand(row['learning_rate'])}" if several else ""
        beside = "" if row.get(chance) is None else f" ({row[chance]:.1f})"
        words.append(f"rank {row['lora_rank']}{at}: {row[key]:.1f} %{beside}")
    return "; ".join(words)


ARTEFACT = Table(__name__, specification=Shown, place=21)
