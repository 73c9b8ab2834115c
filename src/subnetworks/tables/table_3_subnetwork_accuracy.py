"""Table 3: training within the subnetwork scores as well as full training."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import polars

from subnetworks.evaluation.statistics import Z_95
from subnetworks.results import Context
from subnetworks.tables.pairing import LEVEL, difference_of, holm
from subnetworks.tables.shared import difference, frame, percent, remark_on
from subnetworks.tables.style import Column, text

NAME = "table_3_subnetwork_accuracy"
TITLE = "Table 3. Accuracy after full training and after training within the subnetwork (%)"
COLUMNS = (
    text("algorithm", "algorithm"),
    text("benchmark", "benchmark"),
    Column("n", "n"),
    Column("init", "start", error="init_stderr"),
    Column("full", "full", error="full_stderr"),
    Column("subnetwork", "subnetwork", error="subnetwork_stderr"),
    Column("gain", "full − start", error="gain_stderr", signed=True),
    Column("difference", "subnetwork − full", error="difference_stderr", signed=True),
    Column("difference_low", "95 % interval", upper="difference_high", signed=True),
    Column("p", "p", digits=3, bounded=True),
    Column("beyond_noise", "beyond noise", digits=-1),
    Column("published_full", "full", "paper"),
    Column("published_subnetwork", "subnetwork", "paper"),
    Column("published_difference", "difference", "paper", signed=True),
)
NOTES = (
    "± one standard error over the questions; it knows nothing of the scatter between training "
    "seeds. Differences are in percentage points and paired by question where the answers were "
    "kept, which makes their standard errors smaller than those of the scores suggest.",
    "95 % interval of subnetwork − full: paired bootstrap over the questions (10,000 draws); of "
    "the average, normal. p: two-sided exact test on the questions that only one of the two gets "
    "right (McNemar); for answers that count by share, its randomisation form.",
    "Beyond noise: p below 0.05 after Holm's correction for the number of benchmarks in the table, "
    "or of levels and categories. Average: unweighted, over the benchmarks.",
)
_MEASURES = ("init", "full", "subnetwork", "gain", "difference")
SCHEMA = {
    "source": polars.String,
    "algorithm": polars.String,
    "benchmark": polars.String,
    "task": polars.String,
    "group": polars.String,
    "n": polars.Int64,
    **{f"{m}{suffix}": polars.Float64 for m in _MEASURES for suffix in ("", "_stderr")},
    "difference_low": polars.Float64,
    "difference_high": polars.Float64,
    "p": polars.Float64,
    "p_corrected": polars.Float64,
    "beyond_noise": polars.Boolean,
    "paired": polars.Boolean,
    "published_full": polars.Float64,
    "published_subnetwork": polars.Float64,
    "published_difference": polars.Float64,
    "remark": polars.String,
}


def build(context: Context) -> polars.DataFrame:
    """One row a benchmark and group of each of `spec["pairs"]`, an average, the paper's other rows.

    Each pair: `algorithm`; the checkpoints `full` and `subnetwork`, optionally `init`;
    optionally `published` (the paper's algorithm). `spec["benchmarks"]` names the benchmarks,
    `spec["labels"]` optionally their names in the paper. Source: Table 3.
    """
    paper = context.paper("table3_subnetwork_accuracy")
    benchmarks: Sequence[str] = context.spec.get("benchmarks", [])
    rows: list[dict[str, Any]] = []
    for pair in context.rows("pairs", "algorithm", "full", "subnetwork"):
        wholes = []
        for benchmark in benchmarks:
            for row in _benchmark(context, pair, benchmark):
                rows.append(row)
                if row["group"] == "all":
                    wholes.append(row)
        if len(wholes) > 1:
            rows.append(_average(pair, wholes))
    for whole in (True, False):
        _correct([row for row in rows if (row["group"] == "all") is whole])
    reproduced = set()
    for row in rows:
        pair = next(p for p in context.rows("pairs") if p["algorithm"] == row["algorithm"])
        theirs = paper.filter(
            (polars.col("algorithm") == pair.get("published", ""))
            & polars.col("benchmark").is_in([row["benchmark"], f"{row['benchmark']} overall"])
        ).to_dicts()
        if theirs:
            reproduced.add((theirs[0]["algorithm"], theirs[0]["benchmark"]))
            row |= {**_published(context, theirs[0]), **({} if "n" in row else row)}
    for theirs in paper.to_dicts():
        if (theirs["algorithm"], theirs["benchmark"]) not in reproduced:
            first = {key: theirs[key] for key in ("algorithm", "benchmark")}
            rows.append({"source": "paper", **first, **_published(context, theirs)})
    return frame(rows, SCHEMA)


def _correct(rows: list[dict[str, Any]]) -> None:
    """Say of each row whether its difference is beyond noise, given how many are tested."""
    for row, p in zip(rows, holm([row.get("p") for row in rows]), strict=True):
        row |= {"p_corrected": p, "beyond_noise": None if p is None else p < LEVEL}


def _published(context: Context, theirs: dict[str, Any]) -> dict[str, Any]:
    return {
        "published_full": theirs["full"],
        "published_subnetwork": theirs["subnetwork"],
        "published_difference": difference(theirs["subnetwork"], theirs["full"]),
        "remark": remark_on(context, NAME, theirs["benchmark"]),
    }


def _benchmark(context: Context, pair: dict[str, Any], benchmark: str) -> Iterator[dict[str, Any]]:
    """The rows of one benchmark: all questions, then each group (level, category) if several."""
    roles: list[str] = [role for role in ("init", "full", "subnetwork") if role in pair]
    label = (context.spec.get("labels") or {}).get(benchmark, benchmark)
    common = {"source": "here", "algorithm": pair["algorithm"], "task": benchmark}
    if reasons := [why for role in roles if (why := context.skipped(pair[role], benchmark))]:
        yield {**common, "benchmark": label, "group": "skipped", "remark": f"Skipped: {reasons[0]}"}
        return
    scores = {role: context.score(pair[role], benchmark) for role in roles}

    groups = scores["full"].get("groups") or {}
    for group in (None, *(sorted(groups, key=_natural) if len(groups) > 1 else ())):
        members = {
            role: score if group is None else score["groups"][group]
            for role, score in scores.items()
        }
        row = {
            **common,
            "benchmark": label if group is None else f"{label} {_group_label(group)}",
            "group": "all" if group is None else group,
            "n": members["full"]["n"],
            **_scores(members),
        }
        for key, later, earlier in (("gain", "full", "init"), ("difference", "subnetwork", "full")):
            if earlier in members:
                answers = [_answers(context, pair[r], benchmark, group) for r in (later, earlier)]
                found = difference_of(members[later], members[earlier], *answers)
                row |= {key: percent(found.value), f"{key}_stderr": percent(found.stderr)}
                if key == "difference":
                    low, high = found.interval_95 or (None, None)
                    row |= {"difference_low": percent(low), "difference_high": percent(high)}
                    row |= {"p": found.p, "paired": found.paired}
        yield row


def _answers(
    context: Context, checkpoint: str, benchmark: str, group: str | None
) -> polars.DataFrame | None:
    """A checkpoint's answers to a benchmark's questions (of one group, if named), if kept."""
    samples = context.samples(checkpoint, benchmark)
    if samples is None or group is None:
        return samples
    return samples.filter(polars.col("group") == group)


def _scores(scores: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    row = {}
    for role, score in scores.items():
        row[role] = percent(score["score"])
        row[f"{role}_stderr"] = percent(score.get("stderr"))
    return row


def _average(pair: dict[str, Any], wholes: list[dict[str, Any]]) -> dict[str, Any]:
    """The unweighted mean over benchmarks; their errors are independent."""
    row: dict[str, Any] = {"source": "here", "algorithm": pair["algorithm"]}
    row |= {"benchmark": "average", "group": "average", "n": sum(w["n"] for w in wholes)}
    for measure in _MEASURES:
        values: list[Any] = [whole.get(measure) for whole in wholes]
        errors: list[Any] = [whole.get(f"{measure}_stderr") for whole in wholes]
        if None not in values:
            row[measure] = sum(values) / len(values)
        if None not in errors:
            row[f"{measure}_stderr"] = math.hypot(*errors) / len(errors)
    if "difference" in row and "difference_stderr" in row:
        half = Z_95 * row["difference_stderr"]
        row["difference_low"] = row["difference"] - half
        row["difference_high"] = row["difference"] + half
    return row


def _group_label(group: str) -> str:
    return f"level {group}" if group.isdigit() else group.lower().replace("_", " ")


def _natural(group: str) -> list[tuple[int, int, str]]:
    """Sorts `level 10` behind `level 9`."""
    parts = re.findall(r"\d+|\D+", group)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
