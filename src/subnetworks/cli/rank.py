"""`rank BEFORE AFTER`: in how many directions an update changed each matrix."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from subnetworks.cli.measure import (
    ALLOW_PARTIAL,
    COMMON_ROWS,
    NAMES,
    After,
    Checkpoint,
    Json,
    Threads,
    emit,
    read_names,
    tell_coverage,
)

# Matrices at a time: each of an 8B model takes up to 0.7 GB.
_WORKERS = 4


class Spectrum(StrEnum):
    """How the ranks that need all singular values are found."""

    exact = "exact"
    none = "none"


def rank(
    before: Checkpoint,
    after: After,
    json_: Json = None,
    table: Annotated[
        Path | None, typer.Option(help="Write one row per matrix here (.parquet, .csv).")
    ] = None,
    angles: Annotated[
        int, typer.Option(min=0, help="Also the principal angles of this many directions.")
    ] = 0,
    spectrum: Annotated[
        Spectrum,
        typer.Option(
            help="Ranks that need all singular values: exact, or none of them, which is faster."
        ),
    ] = Spectrum.exact,
    names: Annotated[Path | None, NAMES] = None,
    common_rows: Annotated[bool, COMMON_ROWS] = False,
    allow_partial: Annotated[bool, ALLOW_PARTIAL] = False,
    cast: Annotated[str | None, typer.Option(help="Compare in this dtype, as in measure.")] = None,
    device: Annotated[
        str, typer.Option(help="cpu (LAPACK), torch (the same by torch), or cuda, cuda:1, ….")
    ] = "cpu",
    threads: Threads = None,
) -> None:
    """Ranks of an update: exact under torch's rule, stable, effective, and of 99 % of the energy.

    None is an estimate. The rank is flagged as borderline where a singular value lies so near the
    threshold that float32 arithmetic could decide otherwise. All matrices of an 8B model take about
    a quarter of an hour on two cores and 1 GB.

    Examples:

    python -m subnetworks rank base/ tuned/

    python -m subnetworks rank base/ tuned/ --json update.rank.json --table update.rank.parquet
    """
    # Factorising one matrix keeps few cores busy, two matrices keep twice as many.
    cores = threads or os.cpu_count() or 1
    workers = min(cores, _WORKERS)
    for library in ("OPENBLAS", "OMP", "MKL"):
        # Read by the linear algebra libraries when they are loaded, which is only now.
        os.environ[f"{library}_NUM_THREADS"] = str(cores // workers)
    from subnetworks import checkpoints
    from subnetworks.core.outputs import claim
    from subnetworks.core.provenance import recorded
    from subnetworks.measuring import spectra
    from subnetworks.measuring.updates.summary import write_table

    outputs = claim(
        "rank",
        reads=[*checkpoints.places(before, after), names],
        files={"--json": json_, "--table": table},
    )
    with recorded(*outputs, settings={"before": before, "after": after, "cast": cast}):
        found = spectra.ranks(
            before,
            after,
            names=read_names(names),
            cast=cast,
            common_rows=common_rows,
            allow_partial=allow_partial,
            spectrum=spectrum is Spectrum.exact,
            angles=angles,
            device=device,
            workers=workers,
        )
        summary = spectra.summarise(before, after, found)
        if table is not None:
            write_table(spectra.table(found), table)
        emit(summary, json_)
    if str(json_) == "-":
        return
    if not found:
        typer.echo("no matrices in common")
        return
    typer.echo(
        f"mean rank {summary['mean_rank']:.2%} of full over {summary['matrices']} matrices, "
        f"lowest {summary['min_rank']:.2%}, {summary['borderline']} borderline"
    )
    if names_ := summary["not_finite"]:
        typer.echo(
            f"{len(names_)} more have no rank, since their update holds NaN or infinities "
            f"({', '.join(names_[:3])}{', …' if len(names_) > 3 else ''}); measure says how many"
        )
    tell_coverage(summary["compared_share"], summary["names"], summary["notes"], "matrices")
