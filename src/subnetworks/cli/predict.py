"""`predict INIT`: what an optimiser's settings and the init alone let a run change."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subnetworks.cli.measure import ABSOLUTE, ISCLOSE, RELATIVE, Checkpoint, Json, emit, tolerances
from subnetworks.core.errors import UserError

if TYPE_CHECKING:
    from subnetworks.measuring.null_model import Optimiser


class Schedule(StrEnum):
    """What follows the warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class SaveDtype(StrEnum):
    """What the end is rounded to."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def _numbers(text: str, option: str, kind: type[int] | type[float]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{option} {text!r}: expected {wanted} with commas between them") from None


def predict(
    init: Checkpoint,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="The peak of the schedule.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the schedule.")] = None,
    schedule: Annotated[
        Schedule, typer.Option(help="What follows the warm-up.")
    ] = Schedule.constant,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps of linear warm-up.")] = 0,
    betas: Annotated[str, typer.Option(help="AdamW's, with a comma.")] = "0.9,0.999",
    weight_decay: Annotated[float, typer.Option(min=0, help="AdamW's.")] = 0.01,
    updates_per_step: Annotated[
        int, typer.Option(min=1, help="Updates of the weights in one step.")
    ] = 1,
    save_dtype: Annotated[
        SaveDtype, typer.Option(help="What the end is rounded to; training keeps float32.")
    ] = SaveDtype.bfloat16,
    settings: Annotated[
        str | None,
        typer.Option(help="Instead of all these: a run's settings as JSON, as train takes them."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of its data set, where settings count in epochs.")
    ] = None,
    at: Annotated[
        str, typer.Option(help="Steps after which to predict, too, with commas (default: the end).")
    ] = "",
    mask: Annotated[
        Path | None, typer.Option(help="The mask that the run trains within, if any.")
    ] = None,
    gradients: Annotated[
        Path | None,
        typer.Option(
            help="Gradients of the run's first batches at the init, as the verb gradients sums "
            "them up: their signal is taken into account."
        ),
    ] = None,
    isclose: Annotated[str, ISCLOSE] = "1e-8,1e-7,1e-6,1e-5,1e-4",
    absolute: Annotated[str, ABSOLUTE] = "1e-5,1e-4",
    relative: Annotated[str, RELATIVE] = "1e-3",
    json_: Json = None,
    table: Annotated[
        Path | None, typer.Option(help="Write one row per tensor and step here (.parquet, .csv).")
    ] = None,
) -> None:
    """Predict how sparse an update will be if gradients are noise, before the run is made.

    Nothing is read but the weights that training starts from and the optimiser's settings. The
    expected counts have the names that `measure` gives to the counted ones; besides, the overlap
    of two independent runs. What a run changes beyond this, its gradients' signal changes; with
    --gradients that is predicted, too, as far as it lasts.

    Examples:

    python -m subnetworks predict base/ --learning-rate 1e-6 --steps 500

    python -m subnetworks predict base/ --learning-rate 2e-5 --steps 1000 --schedule cosine
    --warmup-steps 30 --betas 0.9,0.95 --at 100,500 --json prediction.json
    --table prediction.parquet

    python -m subnetworks predict results/mini/checkpoints/sft
    --settings '{"algorithm":"grpo","steps":60,"batch_size":16,"learning_rate":4e-6}'
    --gradients gradients.safetensors
    """
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import null_model
    from subnetworks.measuring.gradients import Gradients
    from subnetworks.measuring.updates import Rules, write_table

    if settings is not None:
        if learning_rate is not None or steps is not None:
            raise UserError("--settings already says the learning rate and the steps: give one")
        optimiser, stored, kept = of_run(settings, data)
    elif learning_rate is None or steps is None:
        raise UserError("needs --learning-rate and --steps, or --settings")
    else:
        beta = _numbers(betas, "--betas", float)
        if len(beta) != 2:
            raise UserError(f"--betas {betas!r}: expected two numbers, such as 0.9,0.999")
        optimiser = null_model.Optimiser(
            learning_rate=learning_rate,
            steps=steps,
            schedule=schedule.value,
            warmup_steps=warmup_steps,
            betas=(beta[0], beta[1]),
            weight_decay=weight_decay,
            updates_per_step=updates_per_step,
        )
        stored, kept = save_dtype.value, []
    asked = _numbers(at, "--at", int)
    if wrong := [step for step in asked if not 1 <= step <= optimiser.steps]:
        raise UserError(f"--at {at!r}: {wrong[0]} is none of the {optimiser.steps} steps")
    question = null_model.Question(
        optimiser,
        tuple(sorted({*asked, *kept, optimiser.steps})),
        null_model.FORMATS[stored],
        Rules(tolerances(isclose), tolerances(absolute), tolerances(relative)),
    )
    outputs = claim(
        "predict",
        reads=[*checkpoints.places(init), mask, data, gradients],
        files={"--json": json_, "--table": table},
    )
    with recorded(*outputs, settings={"init": init, "at": question.steps}) as facts:
        signals = None
        if gradients is not None:
            measured = Gradients(gradients)
            signals = {
                name: null_model.signal_of(
                    measured.mean(name), measured.square(name), measured.batches
                )
                for name in measured.names
            }
        found = null_model.predict(init, question, mask=mask, signals=signals)
        if gradients is not None and measured.before != found.digest:
            raise UserError(
                f"{gradients}: gradients at a checkpoint with digest {measured.before}, but {init} "
                f"has {found.digest}; measure them at this one"
            )
        facts["checkpoint_digests"] = {"init": found.digest}
        summary = null_model.summarise(found)
        if table is not None:
            write_table(null_model.table(found), table)
        emit(summary, json_)
    if str(json_) != "-":
        _tell(summary)


def of_run(text: str, data: Path | None) -> "tuple[Optimiser, str, list[int]]":
    """The optimiser of a run's settings, what its end is saved in, and the steps that it keeps."""
    from subnetworks.core.files import kept_steps
    from subnetworks.core.options import json_object
    from subnetworks.measuring.null_model import Optimiser
    from subnetworks.training.data.checks import examples
    from subnetworks.training.settings import IN_STEPS, in_steps, parse_settings

    given = json_object(text, "--settings")
    if IN_STEPS.keys() & given.keys():
        if "epochs" in given and data is None:
            raise UserError("--settings counts in epochs: say of which data set with --data FOLDER")
        rows = examples(data, given.get("algorithm")) if data is not None else 0
        given = in_steps(given, rows)
    run = parse_settings(given)
    if run.lora_rank:
        raise UserError(
            "--settings trains adapters (lora_rank), but the null model is one of the weights; "
            "leave lora_rank out"
        )
    if run.master_weights != "float32":
        raise UserError(
            f"--settings has master_weights {run.master_weights!r}, but the null model is one of "
            "float32 master weights; leave master_weights out"
        )
    optimiser = Optimiser(
        learning_rate=run.learning_rate,
        steps=run.steps,
        schedule=run.schedule,
        warmup_steps=run.warmup_steps,
        betas=run.betas,
        weight_decay=run.weight_decay,
        updates_per_step=run.updates,
    )
    return optimiser, run.save_dtype, list(kept_steps(run.trajectory_every, run.steps))


def _tell(summary: dict[str, Any]) -> None:
    typer.echo(f"{summary['n']:,} entries, {summary['trained']:,} of them trained")
    typer.echo(f"{'step':>8}{'sparsity':>10}{'Δ = 0':>10}{'overlap':>10}{'spread':>11}")
    for row in summary["steps"]:
        overlap = row["two_runs"]["o1"]
        shown = "-" if overlap is None else f"{overlap:.2%}"
        typer.echo(
            f"{row['step']:>8}{row['sparsity']:>10.2%}{row['equal'] / summary['n']:>10.2%}"
            f"{shown:>10}{row['noise']:>11.2e}"
        )
