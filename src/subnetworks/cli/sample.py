"""The verb `sample`."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.train import Accelerator
from subnetworks.core.options import json_object


def sample(
    problems: Annotated[Path, typer.Option(help="Folder of the problems (train.parquet).")],
    policy: Annotated[Path, typer.Option(help="Folder of the checkpoint that answers.")],
    output: Annotated[Path, typer.Option(help="Folder to write; replaces what this made.")],
    settings: Annotated[
        str, typer.Option(help="Settings as JSON: samples, temperature, reward, …")
    ] = "{}",
    accelerator: Accelerator = "{}",
) -> None:
    """Sample a checkpoint's answers and keep the right ones, to finetune on them (RFT).

    Examples:

    python -m subnetworks sample --problems results/mini/data/problems
    --policy results/mini/checkpoints/sft --output results/mini/data/right_answers
    --settings '{"samples": 4, "max_response_length": 16}'
    """
    from subnetworks.training.data.rejection import sample as run

    run(
        json_object(settings, "--settings"),
        problems=problems,
        policy=policy,
        output=output,
        accelerator=json_object(accelerator, "--accelerator"),
    )
