"""`trajectory FOLDER`: what became of every weight along a run."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.measure import Json, emit


def trajectory(
    folder: Annotated[Path, typer.Argument(help="A run's trajectory: its deltas and manifest.")],
    json_: Json = None,
    table: Annotated[
        Path | None, typer.Option(help="Write one row per step here (.parquet, .csv).")
    ] = None,
) -> None:
    """Follow a run: weights never updated, updated then cancelled, and changed at the end.

    Beside it, for each saved step: sparsity against the init and against the step before, and what
    is changed there but not at the end. Memory does not grow with the number of steps.

    Examples:

    python -m subnetworks trajectory results/mini/runs/grpo/trajectory --json trajectory.json
    """
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import trajectories
    from subnetworks.measuring.updates import write_table

    init, steps = trajectories.saved(folder)
    outputs = claim(
        "trajectory",
        reads=[folder, *checkpoints.places(init)],
        files={"--json": json_, "--table": table},
    )
    with recorded(*outputs, settings={"folder": str(folder)}):
        found = trajectories.analyse(init, steps)
        summary = trajectories.summarise(found)
        if table is not None:
            write_table(summary["steps"], table)
        emit(summary, json_)
    if str(json_) != "-":
        typer.echo(f"compared share {summary['compared_share']:.2%} of the entries there are")
        for key in ("never", "cancelled", "final"):
            typer.echo(f"{key:10}{summary[f'{key}_share']:>9.2%}")
        typer.echo(f"{'step':>8}{'sparsity':>10}{'changed':>10}{'moved':>10}{'not final':>10}")
        for row in summary["steps"]:
            shares = ("sparsity", "changed_share", "moved_share", "outside_final_share")
            typer.echo(f"{row['step']:>8}" + "".join(f"{row[key]:>10.2%}" for key in shares))
