"""The verb `train`."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.core.options import json_object

RunSettings = Annotated[
    str, typer.Option(help="The run's settings as JSON: algorithm, steps, learning_rate, …")
]
Data = Annotated[Path, typer.Option(help="Folder of the data set (train.parquet).")]
Accelerator = Annotated[str, typer.Option(help="The machine as JSON: kind, devices, threads, …")]


def train(
    settings: RunSettings,
    init: Annotated[Path, typer.Option(help="Folder of the checkpoint to start from.")],
    data: Data,
    output: Annotated[Path, typer.Option(help="Folder to write the final checkpoint to.")],
    run_folder: Annotated[Path, typer.Option(help="Folder for log.csv, train.log and state/.")],
    mask: Annotated[
        Path | None, typer.Option(help="Mask to train within; without it all is trained.")
    ] = None,
    accelerator: Accelerator = "{}",
    keep_state: Annotated[
        bool, typer.Option(help="Keep the trainer's own checkpoints after the end.")
    ] = False,
) -> None:
    """Train a checkpoint, whole or within a mask; the same command again resumes a killed run.

    Examples:

    python -m subnetworks train
    --settings '{"algorithm":"grpo","steps":60,"batch_size":16,"learning_rate":4e-6}'
    --init results/mini/checkpoints/sft --data results/mini/data/problems
    --mask results/mini/masks/grpo.safetensors
    --output results/mini/checkpoints/grpo_subnetwork
    --run-folder results/mini/runs/grpo_subnetwork
    """
    from subnetworks.training.runtime.run import train as run

    run(
        json_object(settings, "--settings"),
        init=init,
        data=data,
        output=output,
        run_folder=run_folder,
        mask=mask,
        accelerator=json_object(accelerator, "--accelerator"),
        keep_state=keep_state,
    )
