"""`times`: where an experiment's time went, by the records beside its results."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.core.errors import UserError


def times(
    results: Annotated[Path, typer.Option(help="The experiment's folder, results/<experiment>.")],
    brief: Annotated[bool, typer.Option("--brief", help="Print two lines.")] = False,
) -> None:
    """Say how long each stage's jobs took, on what they spent their time, and on which machine.

    Example:

    python -m subnetworks times --results results/mini
    """
    from subnetworks.report import times_to_text
    from subnetworks.report.origins import read_origins
    from subnetworks.report.times import read_times

    if not results.is_dir():
        raise UserError(f"{results}: no such folder; it is results/<experiment> once that has run")
    typer.echo(times_to_text(read_origins(results), read_times(results), brief), nl=False)
