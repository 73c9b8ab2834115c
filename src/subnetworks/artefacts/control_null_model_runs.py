"""Control: each run's predicted and measured sparsity, and how far the prediction is off."""

from __future__ import annotations

from subnetworks.artefacts import control_null_model
from subnetworks.artefacts.base import Table, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context
from subnetworks.core.schedule import FIRST_BATCHES

TITLE = "Sparsity predicted by the null model, and measured (%)"
CAPTION = (
    "**Null model, run by run.** Sparsity that a run's settings and its init alone let expect if "
    "gradients are noise, beside the measured one; and the same with the signal that the gradients "
    f"of the run's first {FIRST_BATCHES} batches have at its init."
)
COLUMNS = (
    text("label", "run"),
    Column("step", "steps"),
    Column("predicted_pct", "predicted", "all weights", 1),
    Column("measured_pct", "measured", "all weights", 1),
    Column("error", "error", "all weights", 1, signed=True),
    Column("with_signal_pct", "predicted", "with the signal", 1),
    Column("error_with_signal", "error", "with the signal", 1, signed=True),
    Column("predicted_without_embeddings_pct", "predicted", "without embeddings", 1),
    Column("measured_without_embeddings_pct", "measured", "without embeddings", 1),
    Column("error_without_embeddings", "error", "without embeddings", 1, signed=True),
    Column("predicted_overlap_pct", "predicted", "overlap of two seeds", 1),
    Column("overlap_with_signal_pct", "with the signal", "overlap of two seeds", 1),
    Column("measured_overlap_pct", "measured", "overlap of two seeds", 1),
)
NOTES = (
    "Error: predicted minus measured, in points. Above 0, more weights changed than noise alone "
    "would have changed: their gradients had a direction. The overlap is the share of one seed's "
    "changed weights (Δ ≠ 0) that the other changed, too.",
)


def build(context: Context) -> polars.DataFrame:
    """One row per run of `spec["runs"]`, at its end."""
    return control_null_model.rows(context).filter(polars.col("is_end"))


ARTEFACT = Table(
    __name__,
    specification=rows_of("runs", control_null_model.Row),
    schema=control_null_model.SCHEMA,
    said=control_null_model.said,
)
