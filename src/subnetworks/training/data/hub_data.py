"""Data sets from the Hub, rewritten in the schemas that runs read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.fetching import download
from subnetworks.checkpoints.hub import locks
from subnetworks.checkpoints.hub.sources import parse as parse_source
from subnetworks.core import outputs
from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.training.data import rows
from subnetworks.training.data.files import FORMATS
from subnetworks.training.data.sources import HubSettings


def fetch(
    source: str,
    output: Path,
    values: Mapping[str, Any],
    cache: Path | None = None,
    lock: Path | None = None,
    note: Path | None = None,
) -> str:
    """Write a data set of the Hub as `output`/train.parquet; returns what was taken, in words.

    Rows that no run can use (no answer, an answer preferred to itself, no truth) are left out, and
    counted in the manifest.

    Args:
        source: `hub:owner/name@revision`.
        values: keys of `HubSettings`.
        cache: where downloads lie (default: the Hub's own cache).
        lock: the experiment's lock; what it has not got is recorded in it.
        note: a file to write the digest of the lock's entry to (see `locks.note`).

    Raises:
        UserError: no such repository, revision, file or column, or not one usable row.
    """
    outputs.claim("fetch-data", folders=[output], beside=[cache, lock, note])
    settings = parse(HubSettings, values, f"settings of {source}")
    wanted = replace(parse_source(source), kind="dataset", files=settings.pattern)
    folder, entry = download(wanted, cache, lock, anew=True)
    if note is not None:
        locks.note(note, entry)
    files = [folder / name for name in _chosen(source, sorted(entry.files), settings)]
    taken = rows.take(source, files, settings, "hub")
    origin = {"source": source, "revision": entry.commit}
    taken.write(output, "hub", origin, settings.model_dump() | {"files": settings.pattern})
    return f"{source}: {taken}"


def _chosen(source: str, names: Sequence[str], settings: HubSettings) -> list[str]:
    """Those of a repository's files that are rows of one data set.

    Raises:
        UserError: there are none, or they may be the same rows in two formats, or the rows of
            several configurations.
    """
    chosen = [name for name in names if Path(name).suffix in FORMATS]
    if settings.split is not None or settings.configuration is not None:
        split = settings.split or "train"
        chosen = [name for name in chosen if re.search(rf"(^|/){re.escape(split)}[-_./]", name)]
    if not chosen:
        raise UserError(
            f"{source}: no file of {', '.join(FORMATS)} matches {settings.pattern!r}; there are: "
            f"{', '.join(names)}"
        )
    for what, remedy, found in (
        ("formats", "files", {Path(name).suffix for name in chosen}),
        ("folders", "configuration", {str(Path(name).parent) for name in chosen}),
    ):
        named = settings.configuration is not None or settings.files is not None
        if len(found) > 1 and (what == "formats" or not named):
            raise UserError(
                f"{source}: {settings.pattern!r} matches files of several {what} "
                f"({', '.join(sorted(found))}); name one by {remedy}"
                + (", or all by files" if what == "folders" else "")
            )
    return chosen
