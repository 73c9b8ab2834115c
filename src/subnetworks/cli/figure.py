"""`figure NAME`: draw one of the paper's figures from finished results."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.table import Folder, Published, Results, Spec
from subnetworks.options import json_object


def figure(
    name: Annotated[str, typer.Argument(help="Which figure, e.g. figure_1_sft_vs_rl.")],
    spec: Spec,
    results: Results,
    output_folder: Folder,
    published: Published = Path("workflow/published"),
) -> None:
    """Draw a figure as PDF, SVG and PNG, beside the CSV of what is drawn.

    Example:

    python -m subnetworks figure figure_1_sft_vs_rl --results results/mini
    --output-folder results/mini/figures
    --spec '{"families": [{"family": "mini, GRPO", "sft": "sft", "rl": "grpo"}]}'
    """
    from subnetworks import figures
    from subnetworks.figures import style
    from subnetworks.provenance import recorded
    from subnetworks.results import Context, claim_shown

    module = figures.load(name)
    context = Context(results, published, json_object(spec, "--spec"))
    outputs = claim_shown("figure", context, output_folder, name, style.SUFFIXES)
    with recorded(*outputs, settings=dict(context.spec)), style.house_style():
        drawing, frame = module.draw(context)
        for path in style.write(drawing, frame, name, output_folder):
            typer.echo(path)


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(name="figure")(figure)
