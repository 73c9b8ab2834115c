"""Data sets of one's own files, rewritten in the schemas that runs read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.core import outputs
from subnetworks.core.files import sha256
from subnetworks.core.validation import parse
from subnetworks.training.data import files, rows
from subnetworks.training.data.sources import LocalSettings


def read(path: str, output: Path, values: Mapping[str, Any]) -> str:
    """Write a data set of files as `output`/train.parquet; returns what was taken, in words.

    Rows that no run can use are left out, and counted by reason in the manifest, which also names
    the files with their digests.

    Args:
        path: a file of JSON lines, JSON, CSV or Parquet, or a pattern that matches several.
        values: keys of `LocalSettings`.

    Raises:
        UserError: no such file or column, or too many unusable rows.
    """
    found = files.located(path)
    outputs.claim("fetch-data", reads=found, folders=[output])
    settings = parse(LocalSettings, values, f"settings of {path}")
    taken = rows.take(path, found, settings, "path")
    origin = {"source": path, "read": {str(file): sha256(file) for file in found}}
    taken.write(output, "path", origin, settings.model_dump())
    return f"{path}: {taken}"
