"""A data set as a folder: one file a split, and the manifest that says that all is there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.core.files import sha256, write_json

Row = dict[str, Any]
Splits = Mapping[str, list[Row]]


def write(
    splits: Splits,
    folder: Path,
    *,
    name: str,
    kind: str,
    settings: object,
    suffix: str = ".parquet",
) -> None:
    """Write each split as `<split>.parquet` or, for the suffix `.jsonl`, as JSON lines.

    The manifest, written last, names `kind` (where the rows come from), the settings, and each
    file's digest, size and number of rows.
    """
    files = {}
    for split, rows in splits.items():
        path = folder / f"{split}{suffix}"
        (_write_parquet if suffix == ".parquet" else _write_json_lines)(rows, path)
        files[path.name] = {
            "sha256": sha256(path),
            "size": path.stat().st_size,
            "rows": len(rows),
        }
    manifest = {"name": name, "kind": kind, "settings": settings, "files": files}
    write_json(folder / "manifest.json", manifest)


def _write_parquet(rows: list[Row], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _write_json_lines(rows: list[Row], path: Path) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
