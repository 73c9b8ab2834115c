"""`sync FOLDER`: what sending only changed weights to a sampler would take, step by step."""

from pathlib import Path
from typing import Annotated, Any

import typer

from subnetworks.cli.measure import Json, emit
from subnetworks.cli.predict import of_run


def sync(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A run's trajectory, or a folder with a checkpoint for each step, whose names end "
            "in the step's number."
        ),
    ],
    init: Annotated[
        str | None,
        typer.Option(
            help="What the run started from (default: the base of the trajectory, or the first "
            "checkpoint)."
        ),
    ] = None,
    anchor_every: Annotated[
        int | None,
        typer.Option(min=1, help="Send a whole copy after so many saved steps (default: never)."),
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(
            help="The run's settings as JSON, as train takes them: ask the null model which "
            "entries each step changes."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of its data set, where settings count in epochs.")
    ] = None,
    json_: Json = None,
    table: Annotated[
        Path | None, typer.Option(help="Write one row per step here (.parquet, .csv).")
    ] = None,
) -> None:
    """Measure delta weight synchronisation: how many bf16 weights change per step, and its bytes.

    For each saved step, against the one before and against the last anchor: the share of entries
    whose bf16 bits change, and the size of a patch in each encoding, which is really made: int32
    indices, gaps, gaps with zstd, a bit map, XOR with zstd. Memory does not grow with steps or
    tensors. With --settings also how many of the changed entries are among those that the null
    model (see predict) thinks likeliest, and among those that the step before had changed.

    Examples:

    python -m subnetworks sync results/mini/runs/grpo/trajectory --anchor-every 10 --json sync.json

    python -m subnetworks sync results/mini/runs/grpo/trajectory
    --settings '{"algorithm":"grpo","steps":60,"batch_size":16,"learning_rate":4e-6}'
    """
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import synchronisation
    from subnetworks.measuring.updates import write_table

    first, start, steps = synchronisation.saved(folder, init)
    outputs = claim(
        "sync",
        reads=[folder, data, *checkpoints.places(first)],
        files={"--json": json_, "--table": table},
    )
    optimiser = of_run(settings, data)[0] if settings is not None else None
    with recorded(*outputs, settings={"folder": str(folder), "anchor_every": anchor_every}):
        found = synchronisation.follow(first, start, steps, anchor_every, optimiser)
        summary = synchronisation.summarise(found)
        if table is not None:
            write_table(synchronisation.table(found), table)
        emit(summary, json_)
    if str(json_) != "-":
        _tell(summary)


def _tell(summary: dict[str, Any]) -> None:
    names = list(summary["bytes"])
    typer.echo(
        f"{summary['n']:,} entries, {summary['whole_bytes']:,} bytes in bf16, compared share "
        f"{summary['compared_share']:.2%}"
    )
    typer.echo(
        f"{'step':>8}{'changed':>10}"
        + "".join(f"{name:>11}" for name in names)
        + f"{'anchor':>9}{'changed since':>15}"
    )
    for row in summary["steps"]:
        sizes = "".join(f"{row['bytes'][name]:>11,}" for name in names)
        anchor = row["since_anchor"]
        typer.echo(
            f"{row['step']:>8}{row['changed_share']:>10.3%}{sizes}"
            f"{anchor['since']:>9}{anchor['changed_share']:>15.3%}"
            + ("  then anchor" if row["is_anchor"] else "")
        )
    means = "".join(f"{summary['bytes'][name]:>11,.0f}" for name in names)
    typer.echo(f"{'mean':>8}{summary['changed_share']['mean']:>10.3%}{means}")
    shares = (f"{summary['bytes'][name] / summary['whole_bytes']:>11.2%}" for name in names)
    typer.echo(f"{'of whole':>18}" + "".join(shares))
    if foreseen := summary["foreseen"]:
        told = {key: "-" if value is None else f"{value:.2%}" for key, value in foreseen.items()}
        typer.echo(
            f"foreseen by the null model: {told['recall']} of as many entries as change, "
            f"{told['recall_of_twice']} of them in twice as many; 90 % of them are in "
            f"{told['share_for_90']} of all, 99 % in {told['share_for_99']}"
        )
        typer.echo(
            f"changed by the step before, too: {told['again_recall']} of them, which are "
            f"{told['again_precision']} of what that one changed"
        )
