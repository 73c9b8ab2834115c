"""Bring a checkpoint here: from the Hub, or by linking to a folder or file of one's own."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.manifest import NAME, write_manifest
from subnetworks.errors import UserError
from subnetworks.hub import client, locks
from subnetworks.hub.sources import Source, needed, parse
from subnetworks.weights import INDEX


def download(
    source: Source,
    cache: str | os.PathLike[str] | None = None,
    lock: str | os.PathLike[str] | None = None,
    *,
    anew: bool = False,
) -> tuple[Path, client.Entry]:
    """Fetch what is needed of a repository into the Hub's cache, verified.

    A finished download costs nothing again, with a lock not even a question. `HF_TOKEN` and
    `HF_ENDPOINT` are obeyed.

    Args:
        source: the repository.
        cache: where downloads lie (default: the Hub's own cache).
        lock: the experiment's lock; what it has not got is recorded in it.
        anew: read again also what was verified before.

    Returns:
        the snapshot's folder, and what it is held to.

    Raises:
        UserError: as `subnetworks.checkpoints.locks.pinned` and `client.download`.
    """
    entry = locks.pinned(source, lock, cache)
    return client.download(source, entry, cache, anew=anew), entry


def fetch(
    source: str,
    output: str | os.PathLike[str],
    cache: str | os.PathLike[str] | None = None,
    lock: str | os.PathLike[str] | None = None,
    *,
    trusted: bool = False,
    planned: str = locks.NEW,
) -> Path:
    """Make `output` a checkpoint folder of links to `source`; returns its manifest.

    Args:
        source: `hub:owner/name@revision`, a folder, or a single `.safetensors` file.
        output: the folder to fill; a manifest and links already there are removed first.
        cache: where downloads lie (default: the Hub's own cache).
        lock: the experiment's lock (see `download`).
        trusted: take its Python files, too, and let those who load it run them.
        planned: digest of the lock's entry when this was planned; another one is refused.

    Raises:
        UserError: no such repository, revision or folder, no safetensors in it, or a shard that
            its index names is missing.
    """
    folder = Path(output)
    (folder / NAME).unlink(missing_ok=True)
    facts: dict[str, Any] = {"source": source}
    known: dict[str, str] = {}
    if source.startswith("hub:"):
        kind = "hub"
        origin, entry = download(replace(parse(source), code=trusted), cache, lock, anew=True)
        locks.require_planned(source, planned, entry)
        facts |= {"revision": entry.commit, "locked": entry.digest, "planned": planned}
        found = {name: origin / name for name in entry.files}
        known = {name: c.sha256 for name, c in entry.files.items() if c.sha256}
    else:
        kind = "path"
        found = _own(Path(source), trusted)
    if trusted:
        facts["trust_remote_code"] = True
    _whole(source, found)
    _clear(folder)
    for name, path in found.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    return write_manifest(folder, name=folder.name, kind=kind, known=known, **facts)


def _own(origin: Path, trusted: bool) -> dict[str, Path]:
    """The files that are needed of a folder, or the one file, by the names they get."""
    if origin.is_file() and origin.suffix == ".safetensors":
        return {"model.safetensors": origin}
    if not origin.is_dir():
        raise UserError(f"{origin}: no such folder, nor a .safetensors file")
    names = [p.relative_to(origin).as_posix() for p in origin.rglob("*") if p.is_file()]
    found = {name: origin / name for name in needed(names, trusted) if name != NAME}
    if not any(name.endswith(".safetensors") for name in found):
        raise UserError(
            f"{origin}: no .safetensors files in it; pickles, which can run code, are not taken: "
            "save the model as safetensors"
        )
    return found


def _whole(source: str, found: dict[str, Path]) -> None:
    """Every shard that an index names is there: better found out now than when it is read."""
    from subnetworks.checkpoints.formats.folders import weight_map

    for name, path in found.items():
        if name.endswith(INDEX):
            folder = name.rpartition("/")[0]
            for shard in sorted(set(weight_map(path).values())):
                inside = f"{folder}/{shard}" if folder else shard
                if inside not in found:
                    raise UserError(f"{source}: {inside}: missing, though {name} names it")


def _clear(folder: Path) -> None:
    """Remove the links of an earlier fetch: what is no longer named is no longer part of it."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            path.unlink()
