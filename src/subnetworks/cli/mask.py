"""`mask OPERATION SOURCES…`: masks made of other masks, of weights, of a trajectory."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.overlap import DIFFERENT_BASES, DIFFERENT_RULES
from subnetworks.core.errors import UserError
from subnetworks.measuring import mask_sources


def mask(
    operation: Annotated[
        str, typer.Argument(help=f"What to make: {', '.join(mask_sources.names())}.")
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="The masks to make it of; a checkpoint (magnitude, principal, predicted); a "
            "trajectory's step (early); a file of gradients (fisher, gradient_signal), and behind "
            "it their checkpoint (product)."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The mask to write (.safetensors).")],
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    in_all: Annotated[
        bool,
        typer.Option(
            "--in-all",
            help="Keep the density in all, not in each tensor (of random masks and those made of "
            "scores).",
        ),
    ] = False,
    like: Annotated[
        Path | None,
        typer.Option(help="Of what is chosen by weights or scores: as many as this mask."),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="This share of each tensor instead.")
    ] = None,
    different_bases: Annotated[bool, DIFFERENT_BASES] = False,
    different_rules: Annotated[bool, DIFFERENT_RULES] = False,
    rank: Annotated[
        int | None, typer.Option(help="Principal: of the approximation whose entries are judged.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A further key of what is made, as JSON: the run's settings (predicted), of which "
            "scores (product).",
        ),
    ] = None,
) -> None:
    """Derive a mask.

    Of masks: complement; random, with exactly as many set entries in every tensor; union,
    intersection; difference, the first without all the others. Of a checkpoint: magnitude, the
    entries with the lowest |w| of each tensor; principal, the largest entries of each matrix's best
    approximation of a rank; predicted, those that the null model of sparsity thinks likeliest
    to change. Of a trajectory: early, what had changed at a step. Of a file of gradients, before a
    run's first update: fisher, the largest mean squares; gradient_signal, those that agree most
    from batch to batch; product, of several such scores.

    Examples:

    python -m subnetworks mask random grpo.safetensors --seed 1 --output random.safetensors

    python -m subnetworks mask intersection a.safetensors b.safetensors --output both.safetensors

    python -m subnetworks mask magnitude checkpoints/sft --like grpo.safetensors
    --output small.safetensors

    python -m subnetworks mask principal checkpoints/sft --density 0.2 --rank 16
    --output principal.safetensors

    python -m subnetworks mask early runs/grpo/trajectory/step_000015.safetensors
    --output early.safetensors

    python -m subnetworks mask predicted checkpoints/sft --density 0.05
    --set settings='{"learning_rate":1e-6,"steps":100}' --output predicted.safetensors

    python -m subnetworks mask product gradients.safetensors checkpoints/sft --density 0.05
    --set of='["gradient_signal","predicted"]' --output product.safetensors
    """
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import mask_making
    from subnetworks.measuring.masks import Mask

    module = mask_sources.load(operation)
    named = {"like": like, "density": density, "rank": rank}
    options = {key: value for key, value in named.items() if value is not None}
    request = mask_making.Request(
        sources, output, seed, in_all, options | settings_of(settings or []),
        different_bases, different_rules,
    )  # fmt: skip
    mask_making.check(operation, module.SETTINGS, request)
    record = {
        "operation": operation,
        "sources": sources,
        **named,
        **request.options,
        "like": None if like is None else str(like),
    }
    of_weights = module.SETTINGS.made_of in ("checkpoint", "step of a trajectory")
    read = checkpoints.places(*sources) if of_weights else sources
    outputs = claim("mask", reads=[*read, like], files={"--output": output})
    with recorded(*outputs, seed=seed, settings=record):
        changed = mask_making.make(operation, request)
    n = Mask.open(output).n
    typer.echo(f"{output}: {changed} of {n} entries set ({changed / max(n, 1):.2%})")


def settings_of(given: list[str]) -> dict[str, object]:
    """KEY=VALUE by key; a value is JSON, or else text."""
    import json

    found: dict[str, object] = {}
    for words in given:
        key, equals, value = words.partition("=")
        if not equals:
            raise UserError(f"--set {words}: expected KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
