"""The verb `fetch-data`."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.fetch import Cache, LockFile, Note
from subnetworks.core.options import json_object


def fetch_data(
    source: Annotated[
        str, typer.Argument(help="hub:owner/name@revision, a file, or a pattern of files.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write; replaces what this made.")],
    settings: Annotated[str, typer.Option(help="Settings as JSON: gives, columns, where, …")],
    cache: Cache = None,
    lock: LockFile = None,
    note: Note = None,
) -> None:
    """Rewrite a data set of the Hub, or of files of one's own, in the schema that runs read.

    Files are JSON lines, JSON, CSV or Parquet. Cache, lock and note are of the Hub alone.

    Examples:

    python -m subnetworks fetch-data pairs.jsonl --output data/pairs --settings '{"gives":
    "preferences", "columns": {"chosen": "better", "rejected": "worse"}}'

    python -m subnetworks fetch-data hub:allenai/llama-3.1-tulu-3-8b-preference-mixture@main
    --output data/tulu3 --settings '{"gives": "preferences"}'
    """
    from subnetworks.core.provenance import recorded

    values = json_object(settings, "--settings")
    with recorded(output / "manifest.json", settings={"source": source, **values}):
        if source.startswith("hub:"):
            # Only here: an environment that reads files has no client of the Hub.
            from subnetworks.training.data import hub_data

            typer.echo(hub_data.fetch(source, output, values, cache, lock, note))
        else:
            from subnetworks.training.data import local_data

            typer.echo(local_data.read(source, output, values))
