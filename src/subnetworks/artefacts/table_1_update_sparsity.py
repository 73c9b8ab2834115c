"""Table 1: how much of each update is zero, by the paper's rule and bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from subnetworks.artefacts import shared
from subnetworks.artefacts.base import Table, UpdateShown, rows_of
from subnetworks.artefacts.claims import (
    PLACEBO,
    Claim,
    Controlled,
    all_hold,
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
from subnetworks.core.results import Context

TITLE = "Table 1. Sparsity of the update: share of weights left unchanged (%)"
CAPTION = (
    "**Sparsity of the update.** Share of weights that training left unchanged: by the "
    "paper's rule (two bf16 weights count as equal if they differ by at most 1e-5) and bit "
    "for bit, with and without the token embedding and the output head. The paper finds "
    "{rl_low} to {rl_high} % for ten checkpoints trained with reinforcement learning or on "
    "preferences, and {sft_low} to {sft_high} % for supervised finetuning (Figure 1). Its "
    "value for Llama-3-Instruct-8B-SimPO contradicts its own Table 6. Learning rate, number "
    "of steps and bf16 rounding influence sparsity strongly: compare like with like."
)
COLUMNS = (
    text("label", "update"),
    *shared.SPARSITY_COLUMNS,
    *shared.PUBLISHED_COLUMNS,
    Column("changed", "changed"),
    Column("n", "of"),
    shared.COMPARED_COLUMN,
    text("on_policy", "on-policy"),
    text("kl", "KL"),
    text("online", "online"),
)
NOTES = (
    "|Δ| ≤ 1e-5 is the paper's rule: two bf16 weights count as equal if they differ by no more "
    "than 1e-5 (the tolerance itself rounded to bf16). It forgives one bf16 step for weights "
    "below 0.002 only, so bit-equality is reported beside it.",
    "Changed: weights with |Δ| > 1e-5. Embeddings: token embedding and output head, where rows of "
    "unused tokens stay as they were.",
    shared.COMPARED_NOTE,
    "Paper: the published value of the same update; for an update that the paper does not have, "
    "the range of the algorithm's updates, of far larger models, without a difference.",
)
SCHEMA = {
    **shared.UPDATE_SCHEMA,
    **shared.SPARSITY_SCHEMA,
    **shared.PUBLISHED_SCHEMA,
    "on_policy": bool,
    "kl": bool,
    "online": bool,
    "remark": str,
}


class Row(UpdateShown):
    """An update."""

    on_policy: bool | None = None
    kl: bool | None = None
    online: bool | None = None
    published: str | None = None
    """The paper's tuned checkpoint that the update reproduces."""


def build(context: Context) -> polars.DataFrame:
    """One row per update of `spec["updates"]`, then the paper's rows that none of them reproduces.

    Source: Table 1.
    """
    paper = context.paper("table1_update_sparsity")
    pairs, others = shared.beside_paper(context.rows("updates"), paper, "tuned")
    rows = []
    for entry, theirs in pairs:
        measured = shared.sparsity_of(context, entry["update"])
        alike = shared.of_algorithm(paper, entry)
        rows.append(
            {
                **shared.opening(entry),
                **measured,
                **shared.published(measured["sparsity_pct"], theirs, alike, "sparsity_pct"),
                **{flag: entry.get(flag) for flag in ("on_policy", "kl", "online")},
                "remark": shared.remark_on(context, ARTEFACT.name, theirs["tuned"])
                if theirs
                else None,
            }
        )
    for theirs in others:
        rows.append(
            {
                "source": "paper",
                "label": f"{theirs['algorithm']}, {theirs['tuned'].split('/')[-1]}",
                "algorithm": theirs["algorithm"],
                **shared.published(None, theirs, paper, "sparsity_pct"),
                **{flag: theirs[flag] == "yes" for flag in ("on_policy", "kl", "online")},
                "remark": shared.remark_on(context, ARTEFACT.name, theirs["tuned"]),
            }
        )
    return shared.frame(rows, SCHEMA)


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    sparsity = paper.values("table1_update_sparsity", "sparsity_pct")
    return {
        **ends("rl", sparsity),
        **ends("whole_rl", sparsity, 0),
        **ends("sft", paper.values("figure1_sft_vs_rl", "sft_sparsity_pct"), 0),
        **ends("fine", paper.values("table6_tolerance_sweep", "tol_1e-8")),
    }


def _kinds(ours: polars.DataFrame) -> tuple[list[dict[str, Any]], ...]:
    """The rows of supervised finetuning, of RL, and of random rewards."""
    rows = ours.to_dicts()
    supervised = [row for row in rows if is_supervised(row)]
    placebos = [row for row in rows if row["algorithm"] == PLACEBO]
    return supervised, [r for r in rows if r not in supervised + placebos], placebos


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    supervised, reinforced, controls = _kinds(ours)
    if not reinforced:
        return
    if supervised:
        densest = max(r["sparsity_pct"] for r in supervised)
        yield Claim(
            "SFT changes nearly all weights, RL far fewer",
            graded([r["sparsity_pct"] - densest for r in reinforced], clear=10),
            listed([*supervised, *reinforced], "label", unchanged) + " of the weights unchanged",
            "SFT {sft_low}–{sft_high} %, RL {whole_rl_low}–{whole_rl_high} %",
            f"SFT leaves {span(r['sparsity_pct'] for r in supervised)} % unchanged "
            "({sft_low}–{sft_high}), "
            f"RL {span(r['sparsity_pct'] for r in reinforced)} % "
            "({whole_rl_low}–{whole_rl_high})",
            margin=min(r["sparsity_pct"] for r in reinforced) - densest,
        )
    yield Claim(
        "RL leaves most weights unchanged",
        all_hold([r["sparsity_pct"] > 50 for r in reinforced]),
        "between {:.1f} and {:.1f} %".format(
            min(r["sparsity_pct"] for r in reinforced), max(r["sparsity_pct"] for r in reinforced)
        ),
        "{rl_low}–{rl_high} %",
        margin=min(r["sparsity_pct"] for r in reinforced) - 50,
    )
    yield Claim(
        "… and not by the tolerance of 1e-5 alone",
        all_hold([r["bit_equal_pct"] > 0.9 * r["sparsity_pct"] for r in reinforced]),
        listed(reinforced, "label", lambda r: f"{r['bit_equal_pct']:.1f} %") + " bit-equal",
        "{fine_low}–{fine_high} % at 1e-8",
        margin=min(r["bit_equal_pct"] - 0.9 * r["sparsity_pct"] for r in reinforced),
    )
    if controls:
        sampled = [r for r in reinforced if r["on_policy"]] or reinforced
        least = min(r["sparsity_pct"] for r in controls)
        yield Claim(
            "Random rewards change fewer weights than real ones (a control of ours)",
            all_hold([least > r["sparsity_pct"] for r in sampled]),
            listed([*controls, *sampled], "label", unchanged) + " of the weights unchanged",
            "–",
            f"random rewards leave {span(r['sparsity_pct'] for r in controls)} % unchanged, "
            f"real ones {span(r['sparsity_pct'] for r in sampled)} %",
            margin=least - max(r["sparsity_pct"] for r in sampled),
        )


def controlled(ours: polars.DataFrame) -> Iterator[Controlled]:
    """What is left of the effects under something plainer."""
    _, reinforced, placebos = _kinds(ours)
    if not reinforced:
        return
    raw = average(r["sparsity_pct"] for r in reinforced)
    yield Controlled(
        "RL leaves weights unchanged",
        "bit equality instead of the tolerance of 1e-5",
        f"{span(r['sparsity_pct'] for r in reinforced)} % unchanged",
        f"{span(r['bit_equal_pct'] for r in reinforced)} %",
        left(raw, average(r["bit_equal_pct"] for r in reinforced)),
        "what the paper's tolerance adds to weights that are the same bit for bit",
    )
    if all(r["sparsity_without_embeddings_pct"] is not None for r in reinforced):
        inner = [r["sparsity_without_embeddings_pct"] for r in reinforced]
        yield Controlled(
            "RL leaves weights unchanged",
            "without embedding and output head",
            f"{span(r['sparsity_pct'] for r in reinforced)} % unchanged",
            f"{span(inner)} %",
            left(raw, average(inner)),
            "rows of tokens that training never meets stay as they were, whatever the algorithm",
        )
    rewarded = [r for r in reinforced if (r["algorithm"] or "").upper() == "GRPO"]
    rewarded = rewarded or [r for r in reinforced if r["on_policy"]]
    if placebos and rewarded:
        real = average(100 - r["sparsity_pct"] for r in rewarded)
        random = average(100 - r["sparsity_pct"] for r in placebos)
        yield Controlled(
            "RL changes a subnetwork because of what it is rewarded for",
            "random rewards (placebo)",
            f"{rewarded[0]['algorithm']} changes "
            f"{span(100 - r['sparsity_pct'] for r in rewarded)} % of the weights",
            f"{real - random:.1f} points more than the placebo's {random:.1f} %",
            left(real, real - random),
            f"rewards that mean nothing change {100 * random / real:.0f} % as many weights: so "
            "many need no signal to change",
        )


ARTEFACT = Table(__name__, label="Table 1", specification=rows_of("updates", Row), place=1)
