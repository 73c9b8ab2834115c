"""`plan EXPERIMENT`: hours and gigabytes of an experiment's heavy jobs, estimated."""

from pathlib import Path
from typing import Annotated

import typer


def plan(
    experiment: Annotated[Path, typer.Argument(help="experiments/NAME.yaml.")],
    accelerator: Annotated[
        str | None, typer.Option(help="One of config.yaml's accelerators, instead of its own.")
    ] = None,
    config: Annotated[Path, typer.Option(help="The machine's configuration.")] = Path(
        "config.yaml"
    ),
    controls: Annotated[bool, typer.Option("--controls", help="With the controls.")] = False,
) -> None:
    """Estimate hours and gigabytes of every training, evaluation, sampled data set and download.

    Upper bounds at the speed that the accelerator states; what is not known is named. A dry run of
    the workflow ends with the same for the jobs that it plans.

    Example:

    python -m subnetworks plan experiments/paper_runs.yaml --accelerator cuda
    """
    from subnetworks import experiment as experiments
    from subnetworks.checkpoints.hub import locks
    from subnetworks.experiment import estimates, reading

    given = dict(reading.read(config).value)
    if accelerator is not None:
        given["accelerator"] = accelerator
    machine = experiments.configuration(given, config)
    loaded = experiments.load(experiment, machine.local)
    lock = locks.read(experiment.with_suffix(".lock"))
    found = [
        one
        for one in estimates.estimates(loaded, machine.machine, lock)
        if controls or not estimates.is_control(loaded, one)
    ]
    typer.echo(
        estimates.text(found, loaded.name, machine.accelerator, machine.machine)
        or f"{loaded.name}: nothing to train, sample, evaluate or download",
        nl=not found,
    )
