"""The verb `gradients`."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.train import Accelerator, Data, RunSettings
from subnetworks.core.options import json_object
from subnetworks.core.schedule import FIRST_BATCHES


def gradients(
    settings: RunSettings,
    init: Annotated[Path, typer.Option(help="Folder of the checkpoint that the run starts from.")],
    data: Data,
    output: Annotated[Path, typer.Option(help="The file to write (.safetensors).")],
    batches: Annotated[
        int, typer.Option(help="How many of the run's first batches.")
    ] = FIRST_BATCHES,
    accelerator: Accelerator = "{}",
) -> None:
    """Sum up the gradients of a run's own loss at its init, batch by batch, without training.

    The file has each entry's sum of gradients and of their squares, from which `mask fisher`,
    `mask gradient_signal` and `mask product` choose entries before the first update.

    Examples:

    python -m subnetworks gradients
    --settings '{"algorithm":"dpo","steps":100,"batch_size":32,"learning_rate":1.5e-6}'
    --init results/mini/checkpoints/sft --data results/mini/data/preferences
    --output gradients.safetensors
    """
    from subnetworks.training.runtime.gradients import measure

    measure(
        json_object(settings, "--settings"),
        init=init,
        data=data,
        output=output,
        batches=batches,
        accelerator=json_object(accelerator, "--accelerator"),
    )
