"""The manifest of a checkpoint folder: written last, so that its presence says "complete"."""

import os
from pathlib import Path
from typing import Any

from subnetworks.files import sha256, write_json

NAME = "manifest.json"


def write_manifest(folder: str | os.PathLike[str], *, name: str, kind: str, **facts: Any) -> Path:
    """Record every file of a finished checkpoint folder, atomically; returns the manifest's path.

    Args:
        folder: the checkpoint; all its files (links followed, hidden ones and old manifests not)
            are hashed.
        name: the checkpoint's name.
        kind: where it comes from: `make`, `hub`, `path`, `run` or `delta`.
        facts: anything else worth keeping, as JSON values.
    """
    root = Path(folder)
    found = sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path != root / NAME
        and not path.name.endswith(".meta.json")
    )
    files = {
        path.relative_to(root).as_posix(): {"sha256": sha256(path), "size": path.stat().st_size}
        for path in found
    }
    write_json(root / NAME, {"name": name, "kind": kind, **facts, "files": files})
    return root / NAME
