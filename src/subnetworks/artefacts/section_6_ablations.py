"""§6: does sparsity come from a regulariser, from the length of training, or from the batch?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean, stdev, variance
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from subnetworks.artefacts.base import FOLLOWED, Names, Specification, Table, rows_of
from subnetworks.artefacts.claims import Claim, graded
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.artefacts.shared import beside_paper, frame, percent
from subnetworks.artefacts.sheet import Column, text
from subnetworks.artefacts.statistics import student
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context
from subnetworks.core.validation import wrong

TITLE = "Ablations of Section 6: share of weights unchanged (%)"
CAPTION = (
    "**Ablations of Section 6.** Sparsity with and without a KL penalty and a bound on the "
    "gradient's norm, after more steps, and with a larger batch. The paper finds that "
    "regularisers do not make updates sparse and that longer training makes them denser; that "
    "DPO is sparser with a batch of 128 than of 32 may be a matter of steps, of which it then "
    "has a quarter."
)
COLUMNS = (
    text("ablation", "varied"),
    text("algorithm", "algorithm"),
    text("setting", "setting"),
    Column("runs", "runs"),
    Column("batch_size", "batch"),
    Column("steps", "steps"),
    Column("sparsity_pct", "|Δ| ≤ 1e-5", digits=2, error="sparsity_sd_pct"),
    Column("change_pct", "against the first", digits=2, signed=True, error="change_stderr_pct"),
    Column("bounded_pct", "steps with a gradient above 1 (%)", digits=0),
    Column("published_pct", "|Δ| ≤ 1e-5", "paper"),
    Column("published_change_pct", "against the first", "paper", signed=True),
)
NOTES = (
    "Each block varies one thing; its first row is what the others are compared with. ± behind a "
    "share: standard deviation over seeds. ± behind a difference: standard error, with the "
    "seeds' spread of the block for all its rows, those of a single run too.",
    "Gradients above 1: share of steps whose gradient norm exceeded 1, the bound where there is "
    "one.",
    "A batch of 128 goes through as many pairs in a quarter of the steps: compare it with the "
    "small batch after as many steps.",
    "Paper: of far larger models; compare differences, not shares. Of gradient clipping it prints "
    "no number, only that sparsity stays.",
)
ADDED = 5.0
"""Points of sparsity that a regulariser may add without being what makes RL sparse."""
SCHEMA = {
    "source": str,
    "ablation": str,
    "algorithm": str,
    "setting": str,
    "regularised": bool,
    "runs": int,
    "batch_size": int,
    "steps": int,
    "sparsity_pct": float,
    "sparsity_sd_pct": float,
    "change_pct": float,
    "change_stderr_pct": float,
    "degrees_of_freedom": int,
    "bounded_pct": float,
    "published_pct": float,
    "published_change_pct": float,
}


class Run(Specification):
    """A run at its end (`update`), or at a saved step."""

    update: Annotated[str, Names("updates", ("updates/{}.json", "runs/{}/log.csv"))] | None = None
    run: Annotated[str, Names(FOLLOWED, ("trajectories/{}.json", "runs/{}/log.csv"))] | None = None
    step: int | None = None
    algorithm: str | None = None
    batch_size: int | None = None
    steps: int | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.update is None) == (self.run is None) or (self.run is None) != (self.step is None):
            raise wrong("needs an update, or a run and a step of it")
        return self


class Row(Specification):
    """A setting; the first of each ablation is what the others are compared with."""

    about: ClassVar[tuple[str, ...]] = ()
    ablation: str
    setting: str
    of: list[Run] = Field(min_length=1)
    """Runs that differ in nothing but their seed."""
    algorithm: str | None = None
    regularised: bool | None = None
    """Whether the regulariser in question is on."""
    published: str | None = None
    """The paper's setting that it is compared with."""


def build(context: Context) -> polars.DataFrame:
    """One row per entry of `spec["ablations"]`, then the paper's rows that none is compared with.

    Source: Section 6.
    """
    paper = context.paper("section6_ablations")
    rows: list[dict[str, Any]] = []
    blocks: dict[str, list[dict[str, Any]]] = {}
    shares: dict[str, list[list[float]]] = {}
    pairs, others = beside_paper(context.rows("ablations"), paper, "setting")
    for entry, theirs in pairs:
        runs = entry["of"]
        values = [_sparsity(context, run) for run in runs]
        row = {
            "source": "here",
            "algorithm": entry.get("algorithm", runs[0].get("algorithm")),
            **{key: entry.get(key) for key in ("ablation", "setting", "regularised")},
            "runs": len(runs),
            "batch_size": runs[0].get("batch_size"),
            "steps": runs[0].get("step", runs[0].get("steps")),
            "sparsity_pct": mean(values),
            "sparsity_sd_pct": stdev(values) if len(values) > 1 else None,
            "bounded_pct": _bounded(context, runs),
            "published_pct": theirs["sparsity_pct"] if theirs else None,
        }
        rows.append(row)
        blocks.setdefault(entry["ablation"], []).append(row)
        shares.setdefault(entry["ablation"], []).append(values)
    for ablation, block in blocks.items():
        _compare(block, shares[ablation])
    for theirs in others:
        rows.append(
            {
                "source": "paper",
                "ablation": theirs["model"],
                "setting": theirs["setting"],
                "published_pct": theirs["sparsity_pct"],
            }
        )
    return frame(rows, SCHEMA)


def _sparsity(context: Context, run: dict[str, Any]) -> float:
    """A run's sparsity in per cent: at its end, or at a saved step."""
    if "update" in run:
        return 100 * float(context.update(run["update"])["sparsity"])
    steps = {step["step"]: step for step in context.trajectory(run["run"])["steps"]}
    if run["step"] not in steps:
        raise UserError(
            f"specification: the run {run['run']!r} keeps no step {run['step']}; there are: "
            f"{', '.join(map(str, steps))}"
        )
    return 100 * float(steps[run["step"]]["sparsity"])


def _bounded(context: Context, runs: list[dict[str, Any]]) -> float | None:
    """Share of all steps with a gradient norm above 1, in per cent."""
    norms = []
    for run in runs:
        log = context.log(run.get("update") or run["run"])
        norms += log.head(run.get("step", log.height))["grad_norm"].drop_nulls().to_list()
    return percent(sum(norm > 1 for norm in norms), len(norms))


def _compare(block: list[dict[str, Any]], shares: list[list[float]]) -> None:
    """Add to each row but the first how it differs from that one, and the standard error.

    The spread over seeds is pooled over the block: a single run has none of its own.
    """
    spread = [(len(values) - 1, variance(values)) for values in shares if len(values) > 1]
    freedom = sum(degrees for degrees, _ in spread)
    sd = math.sqrt(sum(d * v for d, v in spread) / freedom) if freedom else None
    first = block[0]
    for row in block[1:]:
        row["change_pct"] = row["sparsity_pct"] - first["sparsity_pct"]
        if sd is not None:
            row["change_stderr_pct"] = sd * math.sqrt(1 / row["runs"] + 1 / first["runs"])
            row["degrees_of_freedom"] = freedom
        if None not in (row["published_pct"], first["published_pct"]):
            row["published_change_pct"] = row["published_pct"] - first["published_pct"]


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    settings = {
        "kl": "with KL",
        "no_kl": "without KL",
        "small": "batch 32, one epoch",
        "large": "batch 128 (released)",
    }
    return {
        name: f"{paper.value('section6_ablations', 'sparsity_pct', setting=setting):.1f}"
        for name, setting in settings.items()
    }


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    blocks = {
        name: ours.filter(ablation=name).to_dicts()
        for name in ours["ablation"].unique(maintain_order=True)
    }
    pairs = []
    for name, rows in blocks.items():
        on = [row for row in rows if row["regularised"]]
        off = [row for row in rows if row["regularised"] is False]
        if on and off:
            changes = [row["change_stderr_pct"] for row in rows[1:]]
            noise = (
                None if None in changes else student(rows[1]["degrees_of_freedom"]) * max(changes)
            )
            pairs.append((name, on[0]["sparsity_pct"], off[0]["sparsity_pct"], noise))
    if pairs:
        spare = [ADDED - (with_it - without) for _, with_it, without, _ in pairs]
        noises = [noise or 0.0 for *_, noise in pairs]
        far = any(left < -noise for left, noise in zip(spare, noises, strict=True))
        near = all(left > noise for left, noise in zip(spare, noises, strict=True))
        yield Claim(
            "Neither KL nor gradient clipping is what makes RL sparse",
            "no" if far else "yes" if near else "unclear",
            "; ".join(
                f"{name}: {with_it:.1f} % with, {without:.1f} % without"
                + ("" if noise is None else f" (noise of a difference, 95 %: {noise:.1f} points)")
                for name, with_it, without, noise in pairs
            )
            + f"; allowed are {ADDED:g} points",
            "KL {kl} with, {no_kl} % without; clipping: no number",
            margin=min(spare),
        )
    for rows in blocks.values():
        if len({row["batch_size"] for row in rows}) == 2:
            yield from _batches(rows)


def _batches(rows: list[dict[str, Any]]) -> Iterator[Claim]:
    """A small batch, a larger one in fewer steps, and the small one after so few steps."""
    small = max(rows, key=lambda row: (-row["batch_size"], row["steps"] or 0))
    large = max(rows, key=lambda row: row["batch_size"])
    gain = large["sparsity_pct"] - small["sparsity_pct"]

    def shown(row: dict[str, Any]) -> str:
        steps = "" if row["steps"] is None else f", {row['steps']} steps"
        return f"batch {row['batch_size']}{steps} {row['sparsity_pct']:.1f} %"

    yield Claim(
        "A larger batch leaves DPO sparser",
        graded([gain], clear=1),
        f"{shown(small)}; {shown(large)}",
        "batch 32 {small}, batch 128 {large} %",
    )
    if large["steps"] is None:
        return
    alike = [row for row in rows if row["steps"] == large["steps"] and row is not large]
    if alike and gain > 0:
        by_steps = alike[0]["sparsity_pct"] - small["sparsity_pct"]
        yield Claim(
            "… since it makes fewer steps, not by its size (a control of ours)",
            "yes" if by_steps > 0.8 * gain else "unclear" if by_steps > 0.2 * gain else "no",
            shown(alike[0]),
            "not tested",
        )


ARTEFACT = Table(__name__, label="Section 6", specification=rows_of("ablations", Row), place=8)
