"""The verb `fetch-data`."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.fetch import Cache, LockFile, Planned
from subnetworks.core.options import json_object


def fetch_data(
    source: Annotated[str, typer.Argument(help="hub:owner/name@revision.")],
    output: Annotated[Path, typer.Option(help="Folder to write; replaces what this made.")],
    settings: Annotated[str, typer.Option(help="Settings as JSON: gives, columns, where, …")],
    cache: Cache = None,
    lock: LockFile = None,
    planned: Planned = "new",
) -> None:
    """Fetch a data set from the Hub and rewrite it in the schema that runs read.

    Example:

    python -m subnetworks fetch-data hub:allenai/llama-3.1-tulu-3-8b-preference-mixture@main
    --output data/tulu3 --settings '{"gives": "preferences"}'
    """
    from subnetworks.core.provenance import recorded
    from subnetworks.training.data import hub_data

    values = json_object(settings, "--settings")
    with recorded(output / "manifest.json", settings={"source": source, **values}):
        typer.echo(hub_data.fetch(source, output, values, cache, lock, planned))


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(name="fetch-data")(fetch_data)
