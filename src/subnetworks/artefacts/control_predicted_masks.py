"""Control: masks that are known before the first update, and training within them.

The paper leaves open how subnetworks can be found at the start of training. Candidates are compared
with the mask that the run ends with, and with full training.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from subnetworks.artefacts.base import (
    Benchmark,
    Names,
    Overlap,
    Scored,
    Specification,
    Table,
    Update,
)
from subnetworks.artefacts.control_masks import accuracy, worse
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.shared import frame, percent
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
)
SCHEMA = {
    "source": str,
    "algorithm": str,
    "label": str,
    "kind": str,
    "run": str,
    **{column.key: float for column in COLUMNS if not column.is_text},
    "accuracy_stderr_pct": float,
    "difference_stderr_pct": float,
}
Ranked = Annotated[str, Names("overlaps", ("rankings/{}.json",))]


class Row(Specification):
    """A mask, compared with the final one, and trained within."""

    about: ClassVar[tuple[str, ...]] = ("of",)
    needs: ClassVar[tuple[str, ...]] = ("algorithm",)
    of: Annotated[str, Names("checkpoints")]
    """The run that is to be foreseen, trained in full."""
    label: str
    kind: Literal["full", "predicted", "afterwards", "ignorant"]
    """Whether the mask is known before training, only after it, or has nothing to do with it."""
    algorithm: str | None = None
    overlap: Overlap | None = None
    """The final mask, then this one."""
    ranking: Ranked | None = None
    """Such an overlap; the scores that its second mask is made of are judged."""
    trained: Scored | None = None
    """The run within it."""
    update: Update | None = None
    """From the end of full training to its end."""


class Shown(Specification):
    """What is shown."""

    masks: list[Row] = Field(min_length=1)
    benchmark: Benchmark


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
        chance = found.get("chance_by_magnitude", found["chance"])
        row["density_pct"] = percent(found["changed"][1], found["n"])
        row["recall_pct"] = percent(found["o1"])
        row["precision_pct"] = percent(found["o2"])
        row["chance_pct"] = percent(chance["o2"])
    if "ranking" in entry:
        value = context.ranking(entry["ranking"])["average_precision"]
        row["average_precision_pct"] = percent(value)
    if trained:
        row |= accuracy(context, trained, entry["of"])
    if "update" in entry:
        row["agreement_pct"] = percent(context.update(entry["update"])["sparsity"])
    return row


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
        if tried := [row for row in rows if row["difference_pct"] is not None]:
            equal = ", ".join(row["label"] for row in tried if not worse(row))
            lines.append(
                f"{algorithm}: not below full training beyond the noise within {equal}."
                if equal
                else f"{algorithm}: no mask that is known before the first update trains as well "
                "as all weights."
            )
    return lines


ARTEFACT = Table(__name__, specification=Shown)
