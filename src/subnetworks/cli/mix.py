"""The verb `mix`."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.core.errors import UserError
from subnetworks.core.options import json_object


def mix(
    part: Annotated[
        list[str], typer.Option(help="NAME=FOLDER of a data set; once for each of them.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write; replaces what this made.")],
    settings: Annotated[str, typer.Option(help="Settings as JSON: weights, rows, seed.")],
) -> None:
    """Mix rows of several data sets in the proportions of their weights.

    Example:

    python -m subnetworks mix --part gsm8k=data/gsm8k --part math=data/math --output data/both
    --settings '{"weights": {"gsm8k": 1, "math": 1}}'
    """
    from subnetworks.core.provenance import recorded
    from subnetworks.training.data import mixture

    parts: dict[str, Path] = {}
    for text in part:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in parts:
            raise UserError(f"--part {text}: expected NAME=FOLDER, each name once")
        parts[name] = Path(folder)
    values = json_object(settings, "--settings")
    with recorded(output / "manifest.json", settings=values):
        typer.echo(mixture.mix(parts, output, values))
