"""`schema`: what experiments and config.yaml may say, for an editor or as tables."""

from pathlib import Path
from typing import Annotated

import typer


def schema(
    output: Annotated[
        Path, typer.Option(help="The folder that editors are pointed to by each file.")
    ] = Path("workflow/schemas"),
    tables: Annotated[
        bool, typer.Option("--tables", help="Print tables of all options instead, in Markdown.")
    ] = False,
) -> None:
    """Write JSON schemas of experiments and of config.yaml, for editors to complete and check.

    Example:

    python -m subnetworks schema
    """
    from subnetworks.experiment import schemas

    if tables:
        typer.echo("\n\n".join(schemas.tables(name) for name in schemas.SCHEMAS))
        return
    for file in schemas.write(output):
        typer.echo(str(file))
