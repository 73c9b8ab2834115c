"""Table 3: training within the subnetwork scores as well as full training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from subnetworks.artefacts.base import Benchmark, Scored, Specification, Table
from subnetworks.artefacts.claims import TWO_SIDED_95, Claim, all_hold, listed, span
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.pairing import by_question, difference_of
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.artefacts.shared import difference, frame, percent, remark_on
from subnetworks.artefacts.sheet import Column, text
from subnetworks.artefacts.statistics import LEVEL, Mean, holm, over_seeds_and_questions
from subnetworks.core.results import Context
from subnetworks.evaluation.statistics import Z_95

TITLE = "Table 3. Accuracy after full training and after training within the subnetwork (%)"
CAPTION = (
    "**Training within the subnetwork.** Scores of the model trained in full and of the model "
    "trained again, from the same start with the same data, where the gradient reaches only "
    "the weights that the full run changed. Standard errors over the questions; differences "
    "paired by question, with bootstrap intervals and McNemar's exact test, corrected for the "
    "number of tests: only what is marked as beyond noise is a difference, and only what is shown "
    "to lie within a stated margin is as good. The paper finds "
    "the subnetwork as good or better on every benchmark (on average {dpo} for DPO, {prime} "
    "on MATH500 for PRIME, from single runs)."
)
COLUMNS = (
    text("algorithm", "algorithm"),
    text("benchmark", "benchmark"),
    Column("n", "n"),
    Column("init", "start", error="init_stderr"),
    Column("full", "full", error="full_stderr"),
    Column("subnetwork", "subnetwork", error="subnetwork_stderr"),
    Column("init_cut", "start", "cut off"),
    Column("full_cut", "full", "cut off"),
    Column("subnetwork_cut", "subnetwork", "cut off"),
    Column("gain", "full − start", error="gain_stderr", signed=True),
    Column("difference", "subnetwork − full", error="difference_stderr", signed=True),
    Column("difference_low", "95 % interval", upper="difference_high", signed=True),
    Column("p", "p", digits=3, bounded=True),
    Column("beyond_noise", "beyond noise", digits=-1),
    text("standing", "standing"),
    Column("published_full", "full", "paper"),
    Column("published_subnetwork", "subnetwork", "paper"),
    Column("published_difference", "difference", "paper", signed=True),
)
NOTES = (
    "± one standard error over the questions; it knows nothing of the scatter between training "
    "seeds. Differences are in percentage points and paired by question where the answers were "
    "kept, which makes their standard errors smaller than those of the scores suggest.",
    "95 % interval of subnetwork − full: paired bootstrap over the questions (10,000 draws); of "
    "the average, normal; over several seeds, of seeds and questions as crossed random effects, "
    "as p and standing then are. p: two-sided exact test on the questions that only one of the "
    "two gets right (McNemar); for answers that count by share, its randomisation form.",
    "Beyond noise: p below 0.05 after Holm's correction for the number of benchmarks in the table, "
    "or of levels and categories. Average: unweighted, over the benchmarks.",
    "Standing of the subnetwork: equivalent, if its difference lies within the margin of the "
    "experiment (2 points unless it says otherwise) by two one-sided tests at 0.05; else better or "
    "worse, if a t test at 0.05 says so; else undecided. Not to differ is not to be equivalent.",
    "Cut off: answers that had not ended at the benchmark's max_tokens, and are wrong for that.",
)
MARGIN = 2.0
_ROLES = ("init", "full", "subnetwork")
_MEASURES = (*_ROLES, "gain", "difference")
SCHEMA = {
    "source": str,
    "algorithm": str,
    "benchmark": str,
    "task": str,
    "group": str,
    "n": int,
    **{f"{m}{suffix}": float for m in _MEASURES for suffix in ("", "_stderr")},
    **{f"{role}_cut": int for role in _ROLES},
    "difference_low": float,
    "difference_high": float,
    "p": float,
    "p_corrected": float,
    "beyond_noise": bool,
    "paired": bool,
    "freedom": float,
    "margin": float,
    "p_equivalent": float,
    "standing": str,
    "published_full": float,
    "published_subnetwork": float,
    "published_difference": float,
    "remark": str,
}


class Row(Specification):
    """A full run and the run within its subnetwork."""

    about: ClassVar[tuple[str, ...]] = ("full",)
    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    full: Scored
    subnetwork: Scored
    init: Scored | None = None
    benchmarks: list[Benchmark] | None = None
    """Instead of the table's, for this pair."""
    algorithm: str | None = None
    label: str | None = None
    published: str | None = None
    """The paper's algorithm that it is compared with."""


class Shown(Specification):
    """What is shown."""

    pairs: list[Row] = Field(min_length=1)
    benchmarks: list[Benchmark] = Field(default=[])
    labels: dict[str, str] = Field(default={})
    """What the paper calls a benchmark, by its name here."""
    margin: float = Field(default=MARGIN, gt=0)
    """Points of accuracy that do not matter: within them, training is as good."""


def build(context: Context) -> polars.DataFrame:
    """One row per benchmark and group of each of `spec["pairs"]`, averages, the paper's other rows.

    Source: Table 3.
    """
    paper = context.paper("table3_subnetwork_accuracy")
    benchmarks: Sequence[str] = context.spec.get("benchmarks", [])
    rows: list[dict[str, Any]] = []
    for pair in context.rows("pairs"):
        wholes = []
        for benchmark in pair.get("benchmarks", benchmarks):
            for row in _benchmark(context, pair, benchmark):
                rows.append(row)
                if row["group"] == "all":
                    wholes.append(row)
        if len(wholes) > 1:
            rows.append(_average(pair, wholes))
    _judge(rows, context.spec.get("margin", MARGIN))
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


def over_seeds(contexts: Sequence[Context], means: polars.DataFrame) -> polars.DataFrame:
    """The means with their errors over seeds and questions, and the tests of these.

    The average takes the questions of all its benchmarks as one, each benchmark's for as much.
    """
    rows = means.to_dicts()
    wholes: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for row in rows:
        if row["source"] != "here" or row["group"] == "skipped":
            continue
        for key in _MEASURES:
            if row["group"] == "average":
                tables = wholes.get((row["algorithm"], key), [])
                questions = sum(table.shape[1] for table in tables)
                parts = [table * questions / len(tables) / table.shape[1] for table in tables]
                table = np.hstack(parts) if row[key] is not None and parts else None
            else:
                table = _at_seeds(contexts, row, key)
                if table is not None and row["group"] == "all":
                    wholes.setdefault((row["algorithm"], key), []).append(table)
            if table is None:
                continue
            found = over_seeds_and_questions(table)
            row |= {key: found.value, f"{key}_stderr": found.stderr}
            if key == "difference":
                low, high = found.interval()
                row |= {"difference_low": low, "difference_high": high, "freedom": found.freedom}
                row["p"] = None if row["group"] == "average" else found.p
    _judge(rows, contexts[0].spec.get("margin", MARGIN))
    return frame(rows, SCHEMA)


def _at_seeds(
    contexts: Sequence[Context], row: dict[str, Any], key: str
) -> NDArray[np.float64] | None:
    """(seeds, questions) scores, or differences of them, in per cent; None where none were kept."""
    roles = {"gain": ("full", "init"), "difference": ("subnetwork", "full")}.get(key, (key,))
    group = None if row["group"] == "all" else row["group"]
    table = []
    for context in contexts:
        pair = next(p for p in context.rows("pairs") if p["algorithm"] == row["algorithm"])
        kept = [_answers(context, pair[role], row["task"], group) for role in roles if role in pair]
        answers = [found for found in kept if found is not None]
        if len(answers) < len(roles):
            return None
        if len(answers) == 1:
            values = answers[0].sort("doc_id")["correct"].to_numpy()
        elif (values := by_question(*answers)) is None:
            return None
        table.append(100 * values)
    return np.vstack(table) if len({len(values) for values in table}) == 1 else None


def _judge(rows: list[dict[str, Any]], margin: float) -> None:
    """Say of each row whether training within the subnetwork is as good, and whether its difference
    is beyond noise, given how many are tested."""
    for row in rows:
        found = _difference(row)
        if found:
            row |= {"margin": margin, "p_equivalent": found.p_equivalent(margin)}
            row["standing"] = found.standing(margin)
    for whole in (True, False):
        tested = [row for row in rows if (row["group"] == "all") is whole]
        for row, p in zip(tested, holm([row.get("p") for row in tested]), strict=True):
            row |= {"p_corrected": p, "beyond_noise": None if p is None else p < LEVEL}


def _difference(row: dict[str, Any]) -> Mean | None:
    """The difference of a row with its error over the questions, or these and seeds."""
    if row.get("difference") is None or row.get("difference_stderr") is None:
        return None
    freedom = row.get("freedom") or (row["n"] or math.inf) - 1
    return Mean(row["difference"], row["difference_stderr"], freedom)


def _published(context: Context, theirs: dict[str, Any]) -> dict[str, Any]:
    return {
        "published_full": theirs["full"],
        "published_subnetwork": theirs["subnetwork"],
        "published_difference": difference(theirs["subnetwork"], theirs["full"]),
        "remark": remark_on(context, ARTEFACT.name, theirs["benchmark"]),
    }


def _benchmark(context: Context, pair: dict[str, Any], benchmark: str) -> Iterator[dict[str, Any]]:
    """The rows of one benchmark: all questions, then each group (level, category) if several."""
    roles = [role for role in _ROLES if role in pair]
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
        row[f"{role}_cut"] = score.get("cut")
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
    for role in _ROLES:
        cut: list[Any] = [whole.get(f"{role}_cut") for whole in wholes]
        row[f"{role}_cut"] = None if None in cut else sum(cut)
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


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""

    def gained(**where: str) -> str:
        full, within = (
            paper.value("table3_subnetwork_accuracy", column, **where)
            for column in ("full", "subnetwork")
        )
        return f"{within - full:+z.1f}"

    return {
        "dpo": gained(algorithm="DPO", benchmark="average"),
        "prime": gained(algorithm="PRIME", benchmark="MATH500 overall"),
    }


def claims(ours: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    wholes = []
    for algorithm in ours["algorithm"].unique(maintain_order=True):
        rows = ours.filter(
            (polars.col("algorithm") == algorithm) & polars.col("group").is_in(["all", "average"])
        )
        wholes += rows.to_dicts()[-1:]
    if not wholes:  # all skipped
        return

    def shown(row: dict[str, Any], key: str) -> str:
        error = row[f"{key}_stderr"]
        return f"{row[key]:+z.1f}" + ("" if error is None else f" ± {error:.1f}")

    def noise(row: dict[str, Any], key: str) -> float:
        return TWO_SIDED_95 * (row[f"{key}_stderr"] or 0)

    over = "points, averaged over benchmarks" if wholes[0]["group"] == "average" else "points"
    if gained := [row for row in wholes if row["gain"] is not None]:
        raised = ours.filter(
            (polars.col("group") == "all")
            & (polars.col("gain") > TWO_SIDED_95 * polars.col("gain_stderr"))
        ).to_dicts()
        where = listed(raised, "algorithm", lambda r: f"on {r['benchmark']} {r['gain']:+z.1f}")
        yield Claim(
            "RL scores above its start, beyond the noise",
            all_hold([row["gain"] > noise(row, "gain") for row in gained]),
            listed(gained, "algorithm", lambda r: shown(r, "gain"))
            + f" {over}; beyond noise: {where or 'on no benchmark'}",
            "(its premise)",
            f"RL scores {span((r['gain'] for r in gained), sign=True)} points over its start",
            margin=min(row["gain"] for row in gained),
        )
    margin = wholes[0]["margin"] or MARGIN
    standings = {}
    for row in wholes:
        found = _difference(row)
        standings[row["algorithm"]] = found.standing(margin) if found else "undecided"
    good = [standing in ("equivalent", "better") for standing in standings.values()]
    yield Claim(
        "Training within the subnetwork scores as well as in full",
        "yes" if all(good) else "no" if "worse" in standings.values() else "unclear",
        listed(
            wholes, "algorithm", lambda r: f"{shown(r, 'difference')}, {standings[r['algorithm']]}"
        )
        + f" (margin {margin:g}) {over}",
        "DPO {dpo}, PRIME {prime} (single runs)",
        f"the subnetwork scores {span((r['difference'] for r in wholes), sign=True)} points "
        "against full training ({dpo}, {prime})",
        margin=margin + min(row["difference"] for row in wholes),
    )


ARTEFACT = Table(__name__, label="Table 3", specification=Shown, place=5)
