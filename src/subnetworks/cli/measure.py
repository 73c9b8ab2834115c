"""`measure BEFORE AFTER`: what an update changed, under every rule, in one pass."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from subnetworks.core.errors import UserError


def read_names(path: Path | None) -> dict[str, str]:
    """A map of names, before → after, from a YAML or JSON file."""
    if path is None:
        return {}
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise UserError(f"{path}: expected a map of names, before: after")
    return {str(key): name for key, name in value.items()}


def tolerances(text: str) -> tuple[str, ...]:
    """Tolerances that are written with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


Checkpoint = Annotated[
    str,
    typer.Argument(
        help="Folder or file of weights, hub:owner/name@revision, or adapter:PATH@BASE."
    ),
]
After = Annotated[str, typer.Argument(help="The same, after the update.")]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the summary here (- for standard output).")
]
TensorTable = Annotated[
    Path | None, typer.Option(help="Write one row per tensor here (.parquet, .csv).")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores to use (default: all).")]
ISCLOSE = typer.Option(help="Tolerances of isclose in bf16 (the paper's rule), with commas.")
ABSOLUTE = typer.Option(help="Tolerances of |Δ| in fp32.")
RELATIVE = typer.Option(help="Tolerances η of |Δ| ≤ η·max(|w|, |ŵ|).")
COMMON_ROWS = typer.Option("--common-rows", help="Compare the common rows of resized vocabularies.")
NAMES = typer.Option(
    help="YAML map of names, before: after; * is a layer, a second * an expert, 'q + k + v' a "
    "fused matrix, 'model.: model.language_model.' a prefix."
)
ALLOW_PARTIAL = typer.Option(
    "--allow-partial", help="Compare what there is, also where it is less than 99 % of all entries."
)


def tell_coverage(
    share: float, names: dict[str, Any], notes: list[str], of: str = "entries"
) -> None:
    """Print how much was compared, under which names, and what else a reader should know."""
    typer.echo(f"  compared share                 {share:.2%} of the {of} there are")
    for side in ("before", "after"):
        for wrapper, count in names.get(side, {}).get("stripped", {}).items():
            typer.echo(f"  {wrapper!r} stripped from {count} names {side}")
    for row in names.get("prefixes", []):
        prefixes = f"{row['before']!r} before is {row['after']!r} after"
        typer.echo(f"  {prefixes} in {row['tensors']} names")
    for note in notes:
        typer.echo(f"  {note}")


def emit(value: Any, path: Path | None) -> None:
    """Write JSON to a file, to standard output for `-`, or nowhere."""
    from subnetworks.core.files import write_json

    if str(path) == "-":
        json.dump(value, sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    elif path is not None:
        write_json(path, value)


def measure(
    before: Checkpoint,
    after: After,
    json_: Json = None,
    table: TensorTable = None,
    mask: Annotated[
        Path | None, typer.Option(help="Write the subnetwork's bit map here (.safetensors).")
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            help="What the mask leaves out: equal, bit_equal, isclose_bf16, absolute, relative."
        ),
    ] = "equal",
    tolerance: Annotated[
        str | None, typer.Option(help="The mask's tolerance, for the rules that take one.")
    ] = None,
    isclose: Annotated[str, ISCLOSE] = "1e-8,1e-7,1e-6,1e-5,1e-4",
    absolute: Annotated[str, ABSOLUTE] = "1e-5,1e-4",
    relative: Annotated[str, RELATIVE] = "1e-3",
    common_rows: Annotated[bool, COMMON_ROWS] = False,
    names: Annotated[Path | None, NAMES] = None,
    allow_partial: Annotated[bool, ALLOW_PARTIAL] = False,
    cast: Annotated[
        str | None,
        typer.Option(help="Compare in this dtype (BF16, F16, F32), not in the narrower of both."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="cpu (compiled kernels), torch (the same by torch), or cuda, cuda:1, …."),
    ] = "cpu",
    threads: Threads = None,
) -> None:
    """Count what an update changed: in all, by layer, by matrix and by tensor, under every rule.

    It prints a short summary; --json, --table and --mask keep the rest. Memory stays below 400 MiB
    whatever the size of the checkpoints, and 14 KiB more a tensor where they are tens of thousands.

    Examples:

    python -m subnetworks measure base/ tuned/

    python -m subnetworks measure hub:meta-llama/Llama-3.1-8B@main tuned/ --json update.json
    --table update.parquet --mask update.safetensors
    """
    # Nothing here multiplies matrices, and idle threads of BLAS cost time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring.updates import Rules, Selection, summarise, write_table
    from subnetworks.measuring.updates import measure as run
    from subnetworks.measuring.updates import table as rows_of

    if cast is not None and cast not in ("BF16", "F16", "F32"):
        raise UserError(f"--cast {cast}: expected BF16, F16 or F32")
    rules = Rules(tolerances(isclose), tolerances(absolute), tolerances(relative))
    selection = Selection(rule, tolerance)
    outputs = claim(
        "measure",
        reads=[*checkpoints.places(before, after), names],
        files={"--json": json_, "--table": table, "--mask": mask},
    )
    settings = {"before": before, "after": after, "rule": rule, "tolerance": tolerance}
    with recorded(*outputs, settings=settings) as facts:
        result = run(
            before,
            after,
            rules=rules,
            mask=mask,
            selection=selection,
            common_rows=common_rows,
            names=read_names(names),
            cast=cast,
            allow_partial=allow_partial,
            threads=threads,
            device=device,
        )
        facts["checkpoint_digests"] = result.digests
        summary = summarise(result)
        if table is not None:
            write_table(rows_of(result), table)
        emit(summary, json_)
    if str(json_) != "-":
        _tell(summary, result.bytes_read, result.seconds)


def _tell(summary: dict[str, Any], size: int, seconds: float) -> None:
    n = summary["n"]
    typer.echo(f"{n:,} entries compared in {len(summary['tensors'])} tensors")
    tell_coverage(summary["compared_share"], summary["names"], summary["notes"])
    typer.echo(f"  sparsity (|Δ| ≤ 1e-5 in bf16)  {summary['sparsity']:.4%}")
    typer.echo(f"  unchanged (Δ = 0)              {summary['equal'] / n:.4%}")
    typer.echo(f"  bit for bit                    {summary['bit_equal'] / n:.4%}")
    if summary["nonfinite"]["either"]:
        typer.echo(f"  NaN or infinite                {summary['nonfinite']['either']:,}")
    for cast, tensors in summary["casts"].items():
        typer.echo(f"  compared after a cast: {tensors} tensors, {cast}")
    if summary["excluded"]:
        typer.echo(f"  {len(summary['excluded'])} tensors excluded:")
        for entry in summary["excluded"][:10]:
            typer.echo(f"    {entry['name']}: {entry['reason']}")
        if len(summary["excluded"]) > 10:
            typer.echo("    … (all of them with --json)")
    typer.echo(
        f"  {size / 1e9:.2f} GB in {seconds:.2f} s, {size / seconds / 1e9:.2f} GB/s", err=True
    )
