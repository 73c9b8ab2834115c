"""`transfer BEFORE AFTER MASK…`: how much of an update lies within the subnetworks of others."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.measure import (
    ALLOW_PARTIAL,
    COMMON_ROWS,
    After,
    Checkpoint,
    Json,
    emit,
    tell_coverage,
)
from subnetworks.cli.overlap import DIFFERENT_BASES


def transfer(
    before: Checkpoint,
    after: After,
    masks: Annotated[list[Path], typer.Argument(help="One mask or more, of the same model.")],
    common_rows: Annotated[bool, COMMON_ROWS] = False,
    allow_partial: Annotated[bool, ALLOW_PARTIAL] = False,
    different_bases: Annotated[bool, DIFFERENT_BASES] = False,
    json_: Json = None,
) -> None:
    """Say which share of an update's changed entries, of Σ |Δ| and of Σ Δ² masks hold.

    Beside each what chance gives: entries placed anywhere, in their tensor, and in their tensor and
    power of two of |w|.

    Example:

    python -m subnetworks transfer base/ grpo/ dpo.safetensors sft.safetensors
    """
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import transfers

    outputs = claim(
        "transfer", reads=[*checkpoints.places(before, after), *masks], files={"--json": json_}
    )
    settings = {"before": before, "after": after, "masks": [str(path) for path in masks]}
    with recorded(*outputs, settings=settings):
        found = transfers.within(
            before,
            after,
            masks,
            common_rows=common_rows,
            allow_partial=allow_partial,
            different_bases=different_bases,
        )
        summary = transfers.summarise(before, after, [str(path) for path in masks], found)
        emit(summary, json_)
    if str(json_) == "-":
        return
    tell_coverage(summary["compared_share"], summary["names"], summary["notes"])
    for row in summary["masks"]:
        typer.echo(row["mask"])
        for kind, words in (("changed", "changed entries"), ("mass", "Σ |Δ|"), ("energy", "Σ Δ²")):
            share, chance = row[kind]["share"], row[kind]["chance_by_magnitude"]
            if share is not None:
                typer.echo(f"  {words:16}{share:>9.2%}   chance by magnitude {chance:.2%}")
