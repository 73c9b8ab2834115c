"""`mask OPERATION SOURCES…`: masks made of other masks, of weights, of a trajectory."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.overlap import DIFFERENT_BASES, DIFFERENT_RULES
from subnetworks.core.errors import UserError


class Operation(StrEnum):
    """What can be made, of masks, of a checkpoint, of a delta."""

    complement = "complement"
    random = "random"
    union = "union"
    intersection = "intersection"
    difference = "difference"
    magnitude = "magnitude"
    principal = "principal"
    early = "early"


_BY_WEIGHTS = (Operation.magnitude, Operation.principal)
_OF_WEIGHTS = (*_BY_WEIGHTS, Operation.early)


def mask(
    operation: Annotated[Operation, typer.Argument(help="What to make.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="The masks to make it of; for magnitude and principal a checkpoint, for early a "
            "step of a trajectory."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The mask to write (.safetensors).")],
    seed: Annotated[int, typer.Option(help="Seed of a random mask.")] = 0,
    in_all: Annotated[
        bool, typer.Option("--in-all", help="Random: keep the density in all, not in each tensor.")
    ] = False,
    like: Annotated[
        Path | None,
        typer.Option(help="Magnitude, principal: as many entries in each tensor as this mask."),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Magnitude, principal: this share of each tensor instead.")
    ] = None,
    different_bases: Annotated[bool, DIFFERENT_BASES] = False,
    different_rules: Annotated[bool, DIFFERENT_RULES] = False,
    rank: Annotated[
        int | None, typer.Option(help="Principal: of the approximation whose entries are judged.")
    ] = None,
) -> None:
    """Derive a mask.

    Of masks: complement; random, with exactly as many set entries in every tensor; union,
    intersection; difference, the first without all the others. Of a checkpoint: magnitude, the
    entries with the lowest |w| of each tensor; principal, the largest entries of each matrix's best
    approximation of a rank. Of a trajectory: early, what had changed at a step.

    Examples:

    python -m subnetworks mask random grpo.safetensors --seed 1 --output random.safetensors

    python -m subnetworks mask intersection a.safetensors b.safetensors --output both.safetensors

    python -m subnetworks mask magnitude checkpoints/sft --like grpo.safetensors
    --output small.safetensors

    python -m subnetworks mask principal checkpoints/sft --density 0.2 --rank 16
    --output principal.safetensors

    python -m subnetworks mask early runs/grpo/trajectory/step_000015.safetensors
    --output early.safetensors
    """
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import mask_origins
    from subnetworks.measuring.masks import Mask, combine, randomise

    _check(operation, sources, like, density, rank)
    settings = {
        "operation": operation.value,
        "sources": sources,
        "like": None if like is None else str(like),
        "density": density,
        "rank": rank,
    }
    read = checkpoints.places(*sources) if operation in _OF_WEIGHTS else sources
    outputs = claim("mask", reads=[*read, like], files={"--output": output})
    with recorded(*outputs, seed=seed, settings=settings):
        if operation in _OF_WEIGHTS:
            # They need the measuring kernels; the others need no more than numpy.
            from subnetworks.measuring import selections

            if operation is Operation.early:
                changed = selections.early(sources[0], output)
            else:
                share = selections.Share(Mask.open(like) if like else None, density)
                if operation is Operation.magnitude:
                    changed = selections.magnitude(
                        sources[0], output, share, different_bases=different_bases
                    )
                else:
                    assert rank is not None
                    changed = selections.principal(
                        sources[0], output, share, rank, different_bases=different_bases
                    )
        elif operation is Operation.random:
            changed = randomise(Mask.open(sources[0]), output, seed, per_tensor=not in_all)
        else:
            masks = [Mask.open(path) for path in sources]
            notes = mask_origins.check(
                masks, different_bases=different_bases, different_rules=different_rules
            )
            changed = combine(operation.value, masks, output)
            for note in notes if len(masks) > 1 else []:
                typer.echo(f"  {note}")
    n = Mask.open(output).n
    typer.echo(f"{output}: {changed} of {n} entries set ({changed / max(n, 1):.2%})")


def _check(
    operation: Operation,
    sources: list[str],
    like: Path | None,
    density: float | None,
    rank: int | None,
) -> None:
    """Options that the operation needs are there, and those that it ignores are not."""
    of_one = {Operation.random: "mask", Operation.early: "step of a trajectory"}
    of_one |= dict.fromkeys(_BY_WEIGHTS, "checkpoint")
    if operation in of_one and len(sources) != 1:
        raise UserError(f"{operation}: needs one {of_one[operation]}, got {len(sources)}")
    if operation in _BY_WEIGHTS:
        if (like is None) == (density is None):
            raise UserError(f"{operation}: needs either --like MASK or --density SHARE")
    elif like is not None or density is not None:
        raise UserError(f"{operation}: --like and --density are for magnitude and principal")
    if (rank is None) == (operation is Operation.principal):
        says = "needs --rank" if rank is None else "--rank is for principal"
        raise UserError(f"{operation}: {says}")


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(name="mask")(mask)
