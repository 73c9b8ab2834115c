"""`overlap MASK1 MASK2`: two subnetworks compared, with chance beside them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from subnetworks.cli.measure import Json, TensorTable, Threads, emit

DIFFERENT_BASES = typer.Option(
    "--different-bases", help="Allow masks of updates that start from different weights."
)
DIFFERENT_RULES = typer.Option(
    "--different-rules", help="Allow masks extracted by different rules, tolerances or dtypes."
)


def overlap(
    masks: Annotated[list[Path], typer.Argument(help="Two masks, or more for a consensus.")],
    magnitude: Annotated[
        str | None,
        typer.Option(help="The checkpoint the updates start from: adds chance matched by |w|."),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Compare what the masks share, also where it is less than 99 % of all entries.",
        ),
    ] = False,
    different_bases: Annotated[bool, DIFFERENT_BASES] = False,
    different_rules: Annotated[bool, DIFFERENT_RULES] = False,
    json_: Json = None,
    table: TensorTable = None,
    threads: Threads = None,
) -> None:
    """Compare subnetworks: o1, o2, Jaccard, and what chance gives.

    Chance is given for masks of the same density in all, in each tensor and, with --magnitude, in
    each tensor's powers of two of |w|.

    Examples:

    python -m subnetworks overlap seed0.safetensors seed1.safetensors

    python -m subnetworks overlap a.safetensors b.safetensors --magnitude base/ --json overlap.json
    --table overlap.parquet
    """
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import overlaps
    from subnetworks.measuring.updates.summary import write_table

    outputs = claim(
        "overlap",
        reads=[*masks, *checkpoints.places(*filter(None, [magnitude]))],
        files={"--json": json_, "--table": table},
    )
    settings = {"masks": [str(path) for path in masks], "magnitude": magnitude}
    with recorded(*outputs, settings=settings):
        result = overlaps.compare(
            masks,
            magnitude,
            threads,
            allow_partial=allow_partial,
            different_bases=different_bases,
            different_rules=different_rules,
        )
        summary = overlaps.summarise(result)
        if table is not None:
            write_table(overlaps.table(result), table)
        emit(summary, json_)
    if str(json_) != "-":
        for row in summary.get("pairs", [summary]):
            _tell(row)
        typer.echo(f"compared share {summary['compared_share']:.2%} of the entries of all masks")
        for note in summary["notes"]:
            typer.echo(note)


def _tell(row: dict[str, Any]) -> None:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    typer.echo(" and ".join(row["masks"]))
    typer.echo(f"  {'':24}{'o1':>9}{'o2':>9}{'Jaccard':>9}")
    lines = {"overlap": row, "chance in all": row["chance"]}
    lines["chance per tensor"] = row["chance_per_tensor"]
    if "chance_by_magnitude" in row:
        lines["chance by magnitude"] = row["chance_by_magnitude"]
    for label, values in lines.items():
        shown = "".join(f"{percent(values[key]):>9}" for key in ("o1", "o2", "jaccard"))
        typer.echo(f"  {label:24}{shown}")
    if row["z"] is not None:
        typer.echo(f"  {row['z']:+z.1f} standard deviations from chance per tensor")
