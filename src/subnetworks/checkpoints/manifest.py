"""The manifest of a checkpoint folder: written last, so that its presence says "complete"."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.files import sha256, write_json

NAME = "manifest.json"


def write_manifest(
    folder: str | os.PathLike[str],
    *,
    name: str,
    kind: str,
    known: Mapping[str, str] | None = None,
    **facts: Any,
) -> Path:
    """Record every file of a finished checkpoint folder, atomically; returns the manifest's path.

    Args:
        folder: the checkpoint; all its files (links followed, hidden ones and old manifests not)
            are hashed.
        name: the checkpoint's name.
        kind: where it comes from: `make`, `hub`, `path`, `run` or `delta`.
        known: SHA-256 of files that have been hashed already, by name.
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
    files = {}
    for path in found:
        inside = path.relative_to(root).as_posix()
        digest = (known or {}).get(inside) or sha256(path)
        files[inside] = {"sha256": digest, "size": path.stat().st_size}
    write_json(root / NAME, {"name": name, "kind": kind, **facts, "files": files})
    return root / NAME


def trusts(folder: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint's own Python code may run: only where the experiment trusts it."""
    try:
        manifest = json.loads((Path(folder) / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("trust_remote_code") is True
