"""`apply BASE DELTA`: the whole checkpoint that a delta makes of its base."""

from pathlib import Path
from typing import Annotated

import typer


def apply(
    base: Annotated[str, typer.Argument(help="The checkpoint that the delta was made for.")],
    delta: Annotated[Path, typer.Argument(help="The delta (.safetensors).")],
    output: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
) -> None:
    """Write the whole checkpoint that a delta makes of its base, to the bit.

    Configuration, tokenizer and chat templates are those of the checkpoint that the delta was
    written from (the base's if it was written from weights alone, or by an older version); how
    tensors are spread over files is as in the base.

    Examples:

    python -m subnetworks apply base/ tuned.safetensors --output tuned/
    """
    from subnetworks.checkpoints.applying import apply as run
    from subnetworks.core.provenance import recorded

    with recorded(output / "manifest.json", settings={"base": base, "delta": str(delta)}):
        tensors = run(base, delta, output)
    typer.echo(f"{output}: {tensors} tensors")
