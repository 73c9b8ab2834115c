"""`convert SOURCE --output FOLDER`: any checkpoint as safetensors, as transformers loads it."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, file, hub:owner/name@revision, delta:FILE@BASE or adapter:PATH@BASE."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
) -> None:
    """Write a checkpoint as a folder that transformers, vLLM and the trainers here load.

    Files of torch.save, those that verl or torch.distributed.checkpoint saved in several processes,
    a delta, or an adapter merged into its base become safetensors, every entry as it was to the
    bit; configuration and tokenizer come along. Nothing in a pickle is run.

    Examples:

    python -m subnetworks convert global_step_100/actor --output grpo/

    python -m subnetworks convert adapter:lora/@base/ --output merged/
    """
    from subnetworks.checkpoints.converting import convert as run
    from subnetworks.core.provenance import recorded

    with recorded(output / "manifest.json", settings={"source": source}):
        notes = run(source, output)
    typer.echo(output)
    for note in notes:
        typer.echo(f"  {note}")
