"""Control: masks that are known before the first update, and training within them.

The paper leaves open how subnetworks can be found at the start of training. Candidates are compared
with the mask that the run ends with, and with full training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from subnetworks.artefacts import pairing, statistics
from subnetworks.artefacts.base import (
    Benchmark,
    Logged,
    Names,
    Overlap,
    Specification,
    Table,
    Update,
)
from subnetworks.artefacts.control_masks import accuracy, worse
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import frame, matched_chance, percent
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context

TITLE = "Masks that are known before training"
CAPTION = (
    "**Can the mask be known before training?** Candidates from a run's init, its optimiser's "
    "settings and the gradients of its first batches there, before any update: compared with the "
    "mask that full training ends with, and trained within. Beside them what is known only "
    "afterwards (the own mask, another seed's) and what knows nothing of the run (random, "
    "magnitude)."
)
COLUMNS = (
    text("algorithm", "algorithm"),
    text("label", "mask"),
    Column("density_pct", "trained", "weights (%)"),
    Column("recall_pct", "of the final mask", "weights (%)"),
    Column("precision_pct", "in the final mask", "weights (%)"),
    Column("chance_pct", "by magnitude's chance", "weights (%)"),
    Column("average_precision_pct", "area under curve (%)"),
    Column("accuracy_pct", "accuracy (%)", error="accuracy_stderr_pct"),
    Column("difference_pct", "against full", signed=True, error="difference_stderr_pct"),
    text("standing", "standing in accuracy"),
    Column("loss_difference", "loss against full", digits=4, signed=True),
    Column("loss_kept_pct", "of the loss gained (%)", digits=0),
    text("loss_standing", "standing in loss"),
    text("better", "better than ignorant masks"),
    Column("agreement_pct", "agree with full (%)"),
)
NOTES = (
    "Of the final mask: how many of the weights that full training changes are in this one; in the "
    "final mask: how many of this one are changed. Chance: the same for masks that are drawn with "
    "this one's densities in each tensor's powers of two of |w|.",
    "Area under curve: average precision of the scores that the mask is made of, over all weights; "
    "scores that know nothing have the final mask's density.",
    "Accuracy: greedy answers to held-out questions, ± standard error; the difference is paired by "
    "question. Agree with full: share of all weights within 1e-5 of where full training ends, in "
    "bf16.",
    "Loss: mean over the second half of the steps, of preference and supervised training. Of the "
    "loss gained: what full training lowers it by from its first step to there is 100.",
    "Standing over several seeds: equivalent, if the difference lies within the margin by two "
    "one-sided tests at 0.05; else better or worse by a t test at 0.05; else undecided. The margin "
    "is 2 points of accuracy unless the experiment says otherwise, and of the loss the seeds' "
    "noise: how far two full trainings with different seeds are apart, in the root mean square.",
    "Better than ignorant masks, over several seeds: in loss (of online algorithms, in accuracy) "
    "than each mask of the same density that knows nothing of the run, by one-sided tests that all "
    "must hold at 0.05, with Holm's correction for the number of masks in the table.",
)
MARGIN = 2.0
_SCORES = "evaluation/{}/scores.json"
_AS_DENSE = 0.02  # densities that differ by less, as a share, are alike
SCHEMA = {
    "source": str,
    "algorithm": str,
    "label": str,
    "kind": str,
    "run": str,
    **{column.key: float for column in COLUMNS if not column.is_text},
    "accuracy_stderr_pct": float,
    "difference_stderr_pct": float,
    "loss": float,
    "loss_margin": float,
    "standing": str,
    "loss_standing": str,
    "p_better": float,
    "better": str,
}
Ranked = Annotated[str, Names("overlaps", ("rankings/{}.json",))]


class Row(Specification):
    """A mask, compared with the final one, and trained within."""

    about: ClassVar[tuple[str, ...]] = ("of",)
    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    of: Logged
    """The run that is to be foreseen, trained in full."""
    label: str
    kind: Literal["full", "predicted", "afterwards", "ignorant"]
    """Whether the mask is known before training, only after it, or has nothing to do with it."""
    algorithm: str | None = None
    online: bool | None = None
    overlap: Overlap | None = None
    """The final mask, then this one."""
    ranking: Ranked | None = None
    """Such an overlap; the scores that its second mask is made of are judged."""
    trained: Annotated[str, Names("checkpoints", (_SCORES, "runs/{}/log.csv"))] | None = None
    """The run within it."""
    update: Update | None = None
    """From the end of full training to its end."""


class Shown(Specification):
    """What is shown."""

    masks: list[Row] = Field(min_length=1)
    benchmark: Benchmark | None = None
    """What runs are scored on; if none is named, their losses alone are compared."""
    margin: float = Field(default=MARGIN, gt=0)
    """Points of accuracy that do not matter: within them, training is as good."""

    def named(self) -> Iterator[tuple[str, Names, str]]:
        """See `Specification.named`: without a benchmark no scores are read."""
        for key, mark, name in super().named():
            reads = tuple(file for file in mark.reads if self.benchmark or file != _SCORES)
            yield key, replace(mark, reads=reads), name


def build(context: Context) -> polars.DataFrame:
    """One row per entry of `spec["masks"]`."""
    return frame([_row(context, entry) for entry in context.rows("masks")], SCHEMA)


def _row(context: Context, entry: dict[str, Any]) -> dict[str, Any]:
    trained = entry.get("trained")
    row: dict[str, Any] = {
        "source": "here",
        **{key: entry[key] for key in ("algorithm", "label", "kind")},
        "run": trained,
    }
    if "overlap" in entry:
        found = context.overlap(entry["overlap"])
        chance = matched_chance(found)
        row["density_pct"] = percent(found["changed"][1], found["n"])
        row["recall_pct"] = percent(found["o1"])
        row["precision_pct"] = percent(found["o2"])
        row["chance_pct"] = percent(chance["o2"])
    if "ranking" in entry:
        value = context.ranking(entry["ranking"])["average_precision"]
        row["average_precision_pct"] = percent(value)
    if trained:
        if context.spec.get("benchmark"):
            row |= accuracy(context, trained, entry["of"])
        if not entry.get("online"):
            row |= _losses(context, trained, entry["of"])
    if "update" in entry:
        row["agreement_pct"] = percent(context.update(entry["update"])["sparsity"])
    return row


def _losses(context: Context, run: str, full: str) -> dict[str, float]:
    """A run's mean loss over the second half of its steps and, unless it is `full` itself, that
    less full training's on the same steps. (Of online algorithms the loss says nothing.)
    """
    log = context.log(full).select("step", full="loss")
    log = log.join(context.log(run).select("step", run="loss"), on="step", validate="1:1")
    late = log.tail(max(1, log.height // 2))
    row = {"loss": float(late["run"].mean())}  # type: ignore[arg-type]
    if run == full:
        return row
    apart = float((late["run"] - late["full"]).mean())  # type: ignore[arg-type]
    gained = float(log["full"][0]) - float(late["full"].mean())  # type: ignore[arg-type]
    row["loss_difference"] = apart
    return row | ({"loss_kept_pct": 100 * (1 - apart / gained)} if gained > 0 else {})


def over_seeds(contexts: Sequence[Context], means: polars.DataFrame) -> polars.DataFrame:
    """The means, each with whether training within the mask is as good as in full, and if that is
    known before training, better than within those as dense that know nothing of the run."""
    singles = [build(context).to_dicts() for context in contexts]
    rows = means.to_dicts()
    margin = contexts[0].spec.get("margin", MARGIN)
    noise = {
        row["algorithm"]: _noise([single[i]["loss"] for single in singles])
        for i, row in enumerate(rows)
        if row["kind"] == "full"
    }
    for i, row in enumerate(rows):
        if row["kind"] != "full" and (found := _accuracy(contexts, i)):
            row["standing"] = found.standing(margin)
        lower = [single[i]["loss_difference"] for single in singles]
        row["loss_margin"] = noise.get(row["algorithm"])
        if row["loss_margin"] and None not in lower:
            found = statistics.over_seeds([-value for value in lower])
            row["loss_standing"] = found.standing(row["loss_margin"])
    p = [_p_better(contexts, singles, rows, i) for i in range(len(rows))]
    for row, corrected in zip(rows, statistics.holm(p), strict=True):
        if corrected is not None:
            shown = "yes" if corrected < statistics.LEVEL else "not shown"
            row |= {"p_better": corrected, "better": shown}
    return frame(rows, SCHEMA)


def _p_better(
    contexts: Sequence[Context],
    singles: Sequence[Sequence[dict[str, Any]]],
    rows: Sequence[dict[str, Any]],
    i: int,
) -> float | None:
    """Of the hypothesis that a predicted mask trains no better than some ignorant one as dense.

    As it must be better than each of them, it is the largest of their one-sided p values (Berger,
    1982). None where a run is missing, or there is no such mask.
    """
    row, entries = rows[i], contexts[0].rows("masks")
    if row["kind"] != "predicted" or row["run"] is None or row["density_pct"] is None:
        return None
    tests = []
    for j, other in enumerate(rows):
        if (
            other["kind"] != "ignorant"
            or entries[j]["of"] != entries[i]["of"]
            or not math.isclose(other["density_pct"] or 0, row["density_pct"], rel_tol=_AS_DENSE)
        ):
            continue
        lower = [
            one[j]["loss"] - one[i]["loss"]
            for one in singles
            if None not in (one[i]["loss"], one[j]["loss"])
        ]
        in_loss = len(lower) == len(singles)
        found = statistics.over_seeds(lower) if in_loss else _accuracy(contexts, i, j)
        if found is None:
            return None
        tests.append(found.p_above)
    return max(tests, default=None)


def _noise(values: Sequence[float | None]) -> float | None:
    """How far values of two seeds are apart, in the root mean square."""
    known = [value for value in values if value is not None]
    return math.sqrt(2) * float(np.std(known, ddof=1)) if len(known) > 1 else None


def _accuracy(
    contexts: Sequence[Context], number: int, other: int | None = None
) -> statistics.Mean | None:
    """How many points more a row's run has than another row's, or full training, over seeds and
    questions; None where one is not trained, or its answers were not kept."""
    table = []
    for context in contexts:
        entries = context.rows("masks")
        run = entries[number].get("trained")
        against = entries[number]["of"] if other is None else entries[other].get("trained")
        if run is None or against is None or not context.spec.get("benchmark"):
            return None
        later, earlier = (
            context.samples(name, context.spec["benchmark"]) for name in (run, against)
        )
        if later is None or earlier is None:
            return None
        found = pairing.by_question(later, earlier)
        if found is None:
            return None
        table.append(100 * found)
    if len({len(row) for row in table}) > 1:
        return None
    return statistics.over_seeds_and_questions(np.vstack(table))


def said(frame: polars.DataFrame) -> list[str]:
    """How far the best predicted mask gets, by algorithm."""
    lines = []
    for (algorithm,), group in frame.group_by("algorithm", maintain_order=True):
        rows = [row for row in group.to_dicts() if row["kind"] == "predicted"]
        if scored := [row for row in rows if row["average_precision_pct"] is not None]:
            best = max(scored, key=lambda row: row["average_precision_pct"])
            area = f"area under the curve {best['average_precision_pct']:.1f} %"
            lines.append(
                f"{algorithm}: of what is known before the first update, {best['label']} ranks the "
                f"changed weights best ({area})."
            )
        if judged := [row for row in rows if row["loss_standing"] and row["standing"]]:
            good = ("equivalent", "better")
            as_good = [
                row["label"]
                for row in judged
                if row["standing"] in good and row["loss_standing"] in good
            ]
            lines.append(
                f"{algorithm}: in loss within the seeds' noise of full training, and in accuracy "
                f"within the margin: {', '.join(as_good) or 'none of them'}."
            )
            better = [row["label"] for row in rows if row["better"] == "yes"]
            if any(row["better"] for row in rows):
                lines.append(
                    f"{algorithm}: better than masks as dense that know nothing of the run: "
                    f"{', '.join(better) or 'none of them is shown to be'}."
                )
        elif tried := [row for row in rows if row["difference_pct"] is not None]:
            equal = ", ".join(row["label"] for row in tried if not worse(row))
            lines.append(
                f"{algorithm}: not below full training beyond the noise within {equal}."
                if equal
                else f"{algorithm}: no mask that is known before the first update trains as well "
                "as all weights."
            )
        elif kept := [row for row in rows if row["loss_kept_pct"] is not None]:
            words = ", ".join(f"{row['label']} {row['loss_kept_pct']:.0f} %" for row in kept)
            lines.append(f"{algorithm}: of the loss that full training gains, within {words}.")
    return lines


ARTEFACT = Table(__name__, specification=Shown)
