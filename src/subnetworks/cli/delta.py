"""`delta BEFORE AFTER`: ship what changed instead of the whole."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.measure import After


def delta(
    before: Annotated[
        str, typer.Argument(help="The base: folder, .safetensors file, or hub:owner/name@revision.")
    ],
    after: After,
    output: Annotated[Path, typer.Option(help="The delta to write (.safetensors).")],
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Write it also where less than 99 % of all entries are stored as what differs.",
        ),
    ] = False,
) -> None:
    """Write what differs, bit for bit, between two checkpoints: lossless, checksummed.

    Where AFTER is a folder with a config.json, the delta also carries the configuration, tokenizer
    and chat templates that differ from those of BEFORE; a checkpoint's code it does not carry.

    The delta is read as AFTER wherever a checkpoint is expected. Its base is looked for where it
    lay when the delta was written; if it has moved, name it: delta:FILE@BASE. Another base than the
    one it was made for is refused.

    Examples:

    python -m subnetworks delta base/ tuned/ --output tuned.safetensors

    python -m subnetworks measure base/ tuned.safetensors
    """
    from subnetworks import checkpoints
    from subnetworks.checkpoints.companions import companions
    from subnetworks.checkpoints.deltas import write
    from subnetworks.checkpoints.identity import digest
    from subnetworks.core.errors import UserError
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring.updates.stored import coverage_of

    if output.suffix != ".safetensors":
        raise UserError(f"--output {output}: a delta's name ends in .safetensors")
    outputs = claim("delta", reads=checkpoints.places(before, after), files={"--output": output})
    with (
        recorded(*outputs, settings={"before": before, "after": after}) as facts,
        checkpoints.open(before) as first,
        checkpoints.open(after) as second,
    ):
        share = coverage_of(first, second, allow_partial)
        base = digest(first)
        facts["checkpoint_digests"] = {"before": base}
        facts["compared_share"] = share
        written = write(output, first, second.tensors, base=base, beside=companions(second))
    typer.echo(
        f"{output}: {written.changed:,} of {written.n:,} entries stored, {written.size:,} bytes "
        f"({written.size / max(written.whole, 1):.1%} of a whole copy), "
        f"compared share {share:.2%}"
    )
    if written.carried:
        typer.echo(f"  with {', '.join(written.carried)}, which the base has not")
    if written.left:
        typer.echo(f"  without {', '.join(written.left)}, which the base has not either")
