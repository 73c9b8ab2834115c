"""Data sets from the Hub, rewritten in the schemas that runs read."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.fetching import download
from subnetworks.checkpoints.hub import locks
from subnetworks.checkpoints.hub.sources import parse as parse_source
from subnetworks.core import datasets, outputs
from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.training.data import rows
from subnetworks.training.data.sources import HubSettings


def fetch(
    source: str,
    output: Path,
    values: Mapping[str, Any],
    cache: Path | None = None,
    lock: Path | None = None,
    planned: str = locks.NEW,
) -> str:
    """Write a data set of the Hub as `output`/train.parquet; returns what was taken, in words.

    Rows that no run can use (no answer, an answer preferred to itself, no truth) are left out, and
    counted in the manifest.

    Args:
        source: `hub:owner/name@revision`.
        values: keys of `HubSettings`.
        cache: where downloads lie (default: the Hub's own cache).
        lock: the experiment's lock; what it has not got is recorded in it.
        planned: digest of the lock's entry when this was planned; another one is refused.

    Raises:
        UserError: no such repository, revision, file or column, or not one usable row.
    """
    outputs.claim("fetch-data", folders=[output], beside=[cache, lock])
    settings = parse(HubSettings, values, f"settings of {source}")
    wanted = replace(parse_source(source), kind="dataset", files=settings.files)
    folder, entry = download(wanted, cache, lock, anew=True)
    locks.require_planned(source, planned, entry)
    files = [folder / name for name in sorted(entry.files) if name.endswith(".parquet")]
    if not files:
        raise UserError(f"{source}: no Parquet file matches {settings.files!r}")
    taken = rows.take(source, files, settings, "hub")
    with outputs.folder(output, "fetch-data") as made:
        datasets.write(
            taken.splits,
            made,
            name=output.absolute().name,
            kind="hub",
            settings={
                "source": source,
                "revision": entry.commit,
                "locked": entry.digest,
                "planned": planned,
                "left_out": dict(taken.left_out),
                **settings.model_dump(),
            },
        )
    return f"{source}: {taken}"
