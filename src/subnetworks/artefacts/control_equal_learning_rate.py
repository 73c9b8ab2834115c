"""Control: sparsity of SFT, RL and training that teaches nothing, at one learning rate."""

from __future__ import annotations

from typing import Any, Literal

from subnetworks.artefacts.base import Table, UpdateShown, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import SPARSITY_COLUMNS, SPARSITY_SCHEMA, frame, span, sparsity_of
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context, label_of

TITLE = "Sparsity at one learning rate: share of weights unchanged (%)"
CAPTION = (
    "**One learning rate.** SFT is usually trained at ten to a thousand times the learning "
    "rate of RL, and a small enough step leaves a bf16 weight where it is. Here all have the "
    "same, and as many steps, beside two runs that have nothing to learn."
)
COLUMNS = (
    text("label", "update"),
    text("kind", "kind"),
    text("in_distribution", "in distribution"),
    Column("learning_rate", "learning rate", general=True),
    Column("steps", "steps"),
    *SPARSITY_COLUMNS,
    Column("changed", "changed"),
    Column("n", "of"),
)
NOTES = (
    "Kind: SFT imitates text; RL is paid for answers or prefers one to another; a null's data say "
    "nothing to learn: coins for rewards, or what the start model says anyway.",
    "In distribution: trained on what the start model itself says. Steps are the optimiser's.",
)
SCHEMA = {
    "source": str,
    "label": str,
    "algorithm": str,
    "kind": str,
    "update": str,
    "in_distribution": bool,
    "learning_rate": float,
    "steps": int,
    **SPARSITY_SCHEMA,
}


class Row(UpdateShown):
    """An update."""

    kind: Literal["SFT", "RL", "null"]
    """null: nothing to learn."""
    in_distribution: bool
    learning_rate: float | None = None
    steps: int | None = None
    updates_per_step: int | None = None


def build(context: Context) -> polars.DataFrame:
    """One row per entry of `spec["updates"]`, densest first."""
    rows: list[dict[str, Any]] = []
    for entry in context.rows("updates"):
        keys = ("algorithm", "kind", "update", "in_distribution", "learning_rate")
        steps = entry.get("steps")
        rows.append(
            {
                "source": "here",
                "label": label_of(entry),
                **{key: entry.get(key) for key in keys},
                "steps": steps and steps * int(entry.get("updates_per_step", 1)),
                **sparsity_of(context, entry["update"]),
            }
        )
    return frame(sorted(rows, key=lambda row: row["sparsity_pct"]), SCHEMA)


def said(frame: polars.DataFrame) -> list[str]:
    """Whether RL stays sparser than SFT, whether the data decide, and what a null does."""

    def of(**wanted: Any) -> polars.Series:
        return frame.filter(**wanted)["sparsity_pct"]

    lines = []
    rates = frame["learning_rate"].drop_nulls().unique()
    if len(rates) != 1:
        lines.append(f"Not one learning rate, but {len(rates)}: compare nothing here.")
    sft, rl, null = of(kind="SFT"), of(kind="RL"), of(kind="null")
    if len(sft) and len(rl):
        sparsest = frame.filter(kind="SFT").sort("sparsity_pct")["label"][-1]
        lines.append(
            f"SFT leaves {span(sft)} % unchanged (most: {sparsest}), RL {span(rl)} %: at one "
            "learning rate "
            + _order(sft, rl, "RL is the sparser in every case", "sparser than every SFT")
        )
    learnt = frame.filter(polars.col("kind") != "null")
    own = learnt.filter("in_distribution")["sparsity_pct"]
    others = learnt.filter(~polars.col("in_distribution"))["sparsity_pct"]
    if len(own) and len(others):
        lines.append(
            f"In distribution {span(own)} % stay unchanged, out of it {span(others)} %: "
            + _order(others, own, "the data tell them apart", "sparser than all out of it")
        )
    if len(null) and len(rl):
        lines.append(
            f"Where there is nothing to learn, {span(null)} % stay unchanged: "
            + _order(rl, null, "sparser than any RL, with nothing learnt", "sparser than all RL")
        )
    return lines


def _order(lower: polars.Series, upper: polars.Series, all_above: str, some_above: str) -> str:
    """How two groups lie; `upper` is the one that is claimed to be the sparser."""
    above = int((upper > lower.max()).sum())
    if above == len(upper):
        return f"{all_above}."
    return f"{above} of {len(upper)} are {some_above}."


ARTEFACT = Table(__name__, specification=rows_of("updates", Row))
