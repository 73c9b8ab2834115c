"""The manifest of a checkpoint folder: written last, so that its presence says "complete".

It holds every file's digest, by which later stages know that the files are still what they were.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError
from subnetworks.core.files import sha256, write_json

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
        kind: where it comes from: `make`, `hub`, `path`, `run`, `delta` or `convert`.
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


_REMEDY = {
    "hub": "fetch it again",
    "path": "restore it, or fetch it again if it was changed on purpose",
}
# What has been verified in this process: path, size, time of the last change.
_verified: set[tuple[str, int, int]] = set()


def read(folder: Path) -> dict[str, Any]:
    """A folder's manifest; empty if it has none, or one that others wrote for their own ends.

    Raises:
        UserError: it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged (not JSON); remove its folder and run again") from error
    files = value.get("files") if isinstance(value, dict) and "kind" in value else None
    ours = isinstance(files, dict) and all(
        isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in files.values()
    )
    return value if ours else {}


def _remedy(manifest: dict[str, Any]) -> str:
    return _REMEDY.get(manifest["kind"], "remove its folder and run again")


def check_sizes(folder: Path) -> None:
    """Compare the files' sizes with the manifest, if there is one; nothing is read.

    Raises:
        UserError: a file is missing or of another size.
    """
    manifest = read(folder)
    for name, entry in manifest.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing, though {NAME} lists it; {_remedy(manifest)}")
        if (size := path.stat().st_size) != entry["size"]:
            raise UserError(
                f"{path}: {size} bytes, in {NAME} {entry['size']}: damaged; {_remedy(manifest)}"
            )


def verify(folder: Path) -> None:
    """Compare the content of every file with the manifest, if there is one.

    Reads everything once, on all cores; what was verified in this process and has not been touched
    since is not read again.

    Raises:
        UserError: a file is missing or is not what it was.
    """
    # Not above: every verb would wait for it.
    from concurrent.futures import ThreadPoolExecutor

    check_sizes(folder)
    manifest = read(folder)
    files = manifest.get("files", {})
    marks = {}
    for name in files:
        stat = (folder / name).stat()
        marks[name] = (str((folder / name).resolve()), stat.st_size, stat.st_mtime_ns)
    wanted = [name for name in files if marks[name] not in _verified]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = pool.map(sha256, [folder / name for name in wanted])
        for name, digest in zip(wanted, found, strict=True):
            if digest != files[name]["sha256"]:
                raise UserError(
                    f"{folder / name}: its content is not what {NAME} has the digest of: damaged; "
                    f"{_remedy(manifest)}"
                )
            _verified.add(marks[name])
