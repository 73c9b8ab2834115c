"""`ranking MASK SOURCE FILES…`: how well scores before training rank what training changes."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.mask import settings_of
from subnetworks.cli.measure import Json, emit
from subnetworks.core.errors import UserError


def ranking(
    mask: Annotated[Path, typer.Argument(help="The mask of what was changed in the end.")],
    source: Annotated[str, typer.Argument(help="The source of masks whose scores are judged.")],
    files: Annotated[list[str], typer.Argument(help="What it reads, as for `mask`.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A further key of the source."),
    ] = None,
    json_: Json = None,
) -> None:
    """Judge the scores of a source of masks: do they rank high what training changes?

    Gives the area under the precision-recall curve, and precision and recall at several densities.
    Scores that know nothing have the mask's density as their precision.

    Examples:

    python -m subnetworks ranking dpo.safetensors fisher gradients.safetensors

    python -m subnetworks ranking dpo.safetensors magnitude checkpoints/sft --json ranking.json
    """
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import mask_making, mask_sources, rankings
    from subnetworks.measuring.masks import Mask

    module = mask_sources.load(source)
    if not hasattr(module, "scores"):
        every = mask_sources.names()
        judged = [name for name in every if hasattr(mask_sources.load(name), "scores")]
        raise UserError(f"ranking: {source} has no scores; allowed: {', '.join(judged)}")
    options = {"density": 1.0, **settings_of(settings or [])}
    request = mask_making.Request(files, Path(), options=options)
    mask_making.check(source, module.SETTINGS, request)
    read = checkpoints.places(*files) if module.SETTINGS.made_of == "checkpoint" else files
    outputs = claim("ranking", reads=[mask, *read], files={"--json": json_})
    with recorded(*outputs, settings={"source": source, "files": files, **options}):
        summary = {"source": source, **rankings.rank(Mask.open(mask), module.scores(request))}
        emit(summary, json_)
    if str(json_) != "-":
        _tell(summary)


def _tell(summary: dict[str, object]) -> None:
    def percent(value: object) -> str:
        return "-" if value is None else f"{value:.2%}"

    typer.echo(f"area under the precision-recall curve {percent(summary['average_precision'])}")
    typer.echo(f"{'density':>10}{'precision':>11}{'recall':>9}")
    sweep: list[dict[str, object]] = summary["sweep"]  # type: ignore[assignment]
    for row in sweep:
        cells = percent(row["density"]), percent(row["precision"]), percent(row["recall"])
        typer.echo(f"{cells[0]:>10}{cells[1]:>11}{cells[2]:>9}")
