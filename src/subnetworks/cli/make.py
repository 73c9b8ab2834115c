"""The verb `make`."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.core.options import json_object


def make(
    kind: Annotated[
        str,
        typer.Argument(
            help="base, demonstrations, problems, preferences, foreign_demonstrations, "
            "foreign_preferences, math500, agieval or mmlu_pro."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write; replaces what this made.")],
    settings: Annotated[str, typer.Option(help="Settings as JSON: seed, rows, …")] = "{}",
    policy: Annotated[
        Path | None, typer.Option(help="Checkpoint that preferences are sampled from.")
    ] = None,
) -> None:
    """Make a part of the miniature world: the base model, a data set or a benchmark.

    Everything is drawn from a seed, and nothing is downloaded.

    Examples:

    python -m subnetworks make base --output results/mini/checkpoints/base

    python -m subnetworks make problems --output results/mini/data/problems
    --settings '{"rows": 4096, "seed": 2}'

    python -m subnetworks make preferences --output results/mini/data/preferences
    --policy results/mini/checkpoints/sft
    """
    values = json_object(settings, "--settings")

    from subnetworks.mini.make import make as run

    run(kind, output, values, policy)
