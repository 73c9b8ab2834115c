"""§6: does sparsity come from a regulariser, from the length of training, or from the batch?"""

import math
from statistics import mean, stdev, variance
from typing import Any

import polars

from subnetworks.errors import UserError
from subnetworks.results import Context
from subnetworks.tables.shared import frame, percent, published_row
from subnetworks.tables.style import Column, text

NAME = "section_6_ablations"
TITLE = "Ablations of Section 6: share of weights unchanged (%)"
COLUMNS = (
    text("ablation", "varied"),
    text("algorithm", "algorithm"),
    text("setting", "setting"),
    Column("runs", "seeds"),
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
    "A batch of 128 goes through as many pairs in a quarter of the steps: beside it stands the "
    "small batch after as many steps.",
    "Paper: of far larger models; compare differences, not shares. Of gradient clipping it prints "
    "no number, only that sparsity stays.",
)
SCHEMA = {
    "source": polars.String,
    "ablation": polars.String,
    "algorithm": polars.String,
    "setting": polars.String,
    "regularised": polars.Boolean,
    "runs": polars.Int64,
    "batch_size": polars.Int64,
    "steps": polars.Int64,
    "sparsity_pct": polars.Float64,
    "sparsity_sd_pct": polars.Float64,
    "change_pct": polars.Float64,
    "change_stderr_pct": polars.Float64,
    "degrees_of_freedom": polars.Int64,
    "bounded_pct": polars.Float64,
    "published_pct": polars.Float64,
    "published_change_pct": polars.Float64,
}


def build(context: Context) -> polars.DataFrame:
    """One row an entry of `spec["ablations"]`, then the paper's rows that none stands beside.

    Each entry: `ablation` (what the block varies), `setting`, `of` (runs that differ in their seed
    alone: each an `update`, or a `run` at a saved `step`), optionally `algorithm`, `regularised`
    (whether the regulariser that the block is about is on), `published` (the paper's setting) and,
    with each of `of`, the run's `batch_size` and `steps`. Source: Section 6.
    """
    paper = context.paper("section6_ablations")
    rows: list[dict[str, Any]] = []
    blocks: dict[str, list[dict[str, Any]]] = {}
    shares: dict[str, list[list[float]]] = {}
    reproduced = []
    for entry in context.rows("ablations", "ablation", "setting", "of"):
        runs = entry["of"]
        values = [_sparsity(context, run) for run in runs]
        theirs = published_row(paper, "setting", entry)
        if theirs:
            reproduced.append(theirs["setting"])
        row = {
            "source": "here",
            **{key: entry.get(key) for key in ("ablation", "algorithm", "setting", "regularised")},
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
    for theirs in paper.filter(~polars.col("setting").is_in(reproduced)).to_dicts():
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
