"""`table NAME`: write one of the paper's tables from finished results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subnetworks.core.options import json_object

if TYPE_CHECKING:
    from subnetworks.artefacts import Kind

Spec = Annotated[
    str, typer.Option(help="What to show, as JSON: the artefact's entry in the experiment.")
]
OverSeeds = Annotated[
    str,
    typer.Option(
        help="On how many seeds its numbers rest, and what to show at further ones, as JSON."
    ),
]
Results = Annotated[Path, typer.Option(help="The experiment's folder, results/<experiment>.")]
Published = Annotated[Path, typer.Option(help="The folder with the paper's own numbers.")]
Folder = Annotated[Path, typer.Option(help="Where the files go.")]


def table(
    name: Annotated[str, typer.Argument(help="Which table, e.g. table_1_update_sparsity.")],
    spec: Spec,
    results: Results,
    output_folder: Folder,
    published: Published = Path("workflow/published"),
    seeds: OverSeeds = "{}",
) -> None:
    """Write a table, ours beside the paper's, as CSV (full precision), Markdown and LaTeX.

    Example:

    python -m subnetworks table table_2_update_rank --results results/mini
    --output-folder results/mini/tables
    --spec '{"updates": [{"update": "grpo", "label": "GRPO", "algorithm": "GRPO"}]}'
    """
    from subnetworks.artefacts import Table

    write(Table, name, spec, results, output_folder, published, seeds)


def write(
    kind: "type[Kind]",
    name: str,
    spec: str,
    results: Path,
    folder: Path,
    published: Path,
    seeds: str,
) -> None:
    """Write an artefact's files and print their paths."""
    from subnetworks import artefacts
    from subnetworks.artefacts.turns import SUFFIX
    from subnetworks.core.provenance import recorded
    from subnetworks.core.results import Context, claim_shown

    artefact = artefacts.load(name, kind)
    over = json_object(seeds, "--seeds")
    turns: list[dict[str, Any]] = over.get("turns", [])
    in_pairs = bool(over.get("in_pairs", False))
    context = Context(results, published, json_object(spec, "--spec"), turns, in_pairs)
    verb = kind.__name__.lower()
    further = (SUFFIX,) if turns else ()
    outputs = claim_shown(verb, context, folder, name, artefact.suffixes + further)
    known = {"n": over.get("n"), "in_pairs": in_pairs, "turns": len(turns)}
    with recorded(*outputs, settings=dict(context.spec), seeds=known):
        for path in artefact.write(context, folder):
            typer.echo(path)
