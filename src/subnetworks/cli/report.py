"""`report`: the findings of an experiment in numbers, written from its finished tables."""

from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.table import Published
from subnetworks.core.errors import UserError


def report(
    results: Annotated[Path, typer.Option(help="The experiment's folder, results/<experiment>.")],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            help="Write the report here, as .md or as one self-contained .html; repeatable."
        ),
    ] = None,
    published: Published = Path("workflow/published"),
    text: Annotated[bool, typer.Option("--text", help="Print one line per finding.")] = False,
    brief: Annotated[bool, typer.Option("--brief", help="Print the gist in ten lines.")] = False,
) -> None:
    """Say which of the paper's effects appear, which do not, and in what numbers.

    Examples:

    python -m subnetworks report --results results/mini --text

    python -m subnetworks report --results results/mini --output results/mini/report.html --brief
    """
    from subnetworks import report as pages
    from subnetworks.core.files import write_text
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.core.results import stages

    writers = {".md": pages.to_markdown, ".html": pages.to_html}
    for path in output or ():
        if path.suffix not in writers:
            raise UserError(f"{path}: --output ends in {' or '.join(writers)}")
    outputs = claim(
        "report",
        reads=[*stages(results, "logs"), published],
        files=[("--output", path) for path in output or ()],
    )
    gathered = pages.gather(results, published)
    if outputs:
        with recorded(*outputs, settings={"results": str(results)}):
            for path in output or ():
                write_text(path, writers[path.suffix](gathered))
    if brief:
        typer.echo(pages.to_terminal(gathered), nl=False)
    if text or not (output or brief):
        typer.echo(pages.to_text(gathered.found), nl=False)
