"""`figure NAME`: draw one of the paper's figures from finished results."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.table import Folder, OverSeeds, Published, Results, Spec, write


def figure(
    name: Annotated[str, typer.Argument(help="Which figure, e.g. figure_1_sft_vs_rl.")],
    spec: Spec,
    results: Results,
    output_folder: Folder,
    published: Published = Path("workflow/published"),
    seeds: OverSeeds = "{}",
) -> None:
    """Draw a figure as PDF, SVG and PNG, beside the CSV of what is drawn.

    Example:

    python -m subnetworks figure figure_1_sft_vs_rl --results results/mini
    --output-folder results/mini/figures
    --spec '{"families": [{"family": "mini, GRPO", "sft": "sft", "rl": "grpo"}]}'
    """
    from subnetworks.artefacts import Figure

    write(Figure, name, spec, results, output_folder, published, seeds)
