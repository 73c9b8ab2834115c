"""`lock EXPERIMENT`: what the Hub has of all that an experiment names, asked and written down."""

from pathlib import Path
from typing import Annotated

import typer


def lock(
    experiment: Annotated[Path, typer.Argument(help="experiments/NAME.yaml.")],
    cache: Annotated[
        Path | None, typer.Option(help="Where downloads will lie: is there room for them?")
    ] = None,
) -> None:
    """Ask the Hub for every checkpoint and data set of an experiment; write NAME.lock beside it.

    The lock holds commit, sizes and digests of all files that will be fetched: later runs take
    exactly those. What is gated, private or missing is reported at once with its remedy; nothing is
    downloaded. Run it again to move on to what the Hub has by then.

    Example:

    python -m subnetworks lock experiments/paper.yaml
    """
    from subnetworks import experiment as experiments
    from subnetworks.checkpoints.hub import locks
    from subnetworks.core.outputs import claim

    path = experiment.with_suffix(".lock")
    claim("lock", reads=[experiment], beside=[path, cache])
    loaded = experiments.load(experiment)
    report = locks.lock(path, loaded.hub_sources(), cache)
    for line in report:
        typer.echo(line)
