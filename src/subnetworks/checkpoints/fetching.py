"""Bring a checkpoint here: from the Hub, or by linking to a folder or file of one's own."""

import os
from dataclasses import replace
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any

from subnetworks.checkpoints import formats
from subnetworks.checkpoints.formats import folders, torch_zip
from subnetworks.checkpoints.hub import client, locks
from subnetworks.checkpoints.hub.sources import BESIDE, Source, needed, parse
from subnetworks.checkpoints.manifest import NAME, write_manifest
from subnetworks.checkpoints.reading import open as open_checkpoint
from subnetworks.checkpoints.reading import places
from subnetworks.checkpoints.weights import INDEX, SAFE, TORCH, TORCH_INDEX, Choice
from subnetworks.core.errors import UserError
from subnetworks.core.outputs import claim
from subnetworks.core.outputs import folder as made_folder


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
        the snapshot's folder, or that or the file in it which is named, and what it is held to.

    Raises:
        UserError: as `subnetworks.checkpoints.locks.pinned` and `client.download`.
    """
    entry = locks.pinned(source, lock, cache)
    return client.download(source, entry, cache, anew=anew) / source.inside, entry


def fetch(
    source: str,
    output: str | os.PathLike[str],
    cache: str | os.PathLike[str] | None = None,
    lock: str | os.PathLike[str] | None = None,
    *,
    trusted: bool = False,
    note: str | os.PathLike[str] | None = None,
    loadable: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> Path:
    """Make `output` a checkpoint folder of links to `source`; returns its manifest.

    With `loadable` what transformers, vLLM and the trainers here would not load, and with `base` an
    adapter merged into it, is written as safetensors instead (see `converting`).

    Args:
        source: `hub:owner/name@revision`, maybe with `:folder`, a folder, or a single file with
            weights. Of what several processes saved (verl, torch.distributed.checkpoint) all files
            are linked.
        output: the folder to make, which appears as a whole; an earlier one is replaced.
        cache: where downloads lie (default: the Hub's own cache).
        lock: the experiment's lock (see `download`).
        trusted: take its Python files, too, and let those who load it run them.
        note: a file to write the digest of the lock's entry to (see `locks.note`).
        loadable: whether it is to be loaded, not only compared.
        base: the base of an adapter, as `subnetworks.checkpoints.open` takes it.

    Raises:
        UserError: no such repository, revision or folder, no weights in it, a shard that its index
            names is missing, a file of torch asks for more than tensors, or something is in the way
            (see `subnetworks.core.outputs`).
    """
    own = [] if source.startswith("hub:") else [source]
    own += [str(path) for path in places(base)] if base else []
    claim("fetch", reads=own, folders=[output], beside=[cache, lock, note])
    facts: dict[str, Any] = {"source": source}
    known: dict[str, str] = {}
    if source.startswith("hub:"):
        kind = "hub"
        wanted = replace(parse(source), code=trusted)
        entry = locks.pinned(wanted, lock, cache)
        snapshot = client.download(wanted, entry, cache, anew=True)
        facts["revision"] = entry.commit
        if note is not None:
            locks.note(note, entry)
        within = f"{wanted.folder}/" if wanted.folder else ""
        found = {name.removeprefix(within): snapshot / name for name in entry.files}
        known = {n.removeprefix(within): c.sha256 for n, c in entry.files.items() if c.sha256}
        origin = snapshot / wanted.inside
    else:
        kind, origin = "path", Path(source)
        found = _own(origin, trusted)
    if trusted:
        facts["trust_remote_code"] = True
    _whole(source, found)
    special = formats.special(origin)
    read = _files(special, origin) if special else []
    for name, path in found.items():
        if name.endswith(TORCH) and path not in read:
            # Others than ourselves may open it: what could run code comes no further.
            torch_zip.read_file(path).close()
    weights = [name for name in found if name.endswith((SAFE, *TORCH))]
    if base is None and Choice(tuple(weights)).adapter:
        raise UserError(
            f"{source}: an adapter, not a whole model; name the checkpoint that it belongs to "
            "(--base, or in an experiment base:)"
        )
    plain = special is None and all(_is_loadable(name, found[name]) for name in weights)
    if base is not None or (loadable and not plain):
        from subnetworks.checkpoints import converting
        from subnetworks.checkpoints.adapters import open_adapter

        opened = open_adapter(origin, os.fspath(base), source) if base else open_checkpoint(origin)
        with opened as checkpoint, made_folder(output, "fetch") as folder:
            facts["notes"] = converting.write(checkpoint, folder)
            if base is not None:
                facts["base"] = os.fspath(base)
            write_manifest(folder, name=Path(output).absolute().name, kind=kind, **facts)
        return Path(output) / NAME
    with made_folder(output, "fetch") as folder:
        for name, path in found.items():
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        write_manifest(folder, name=Path(output).absolute().name, kind=kind, known=known, **facts)
    return Path(output) / NAME


def _is_loadable(name: str, path: Path) -> bool:
    """Whether a file is safetensors of whole tensors, in the folder itself."""
    from subnetworks.checkpoints.deltas import is_delta

    return name.endswith(SAFE) and "/" not in name and not is_delta(path)


def _own(origin: Path, trusted: bool) -> dict[str, Path]:
    """The files that are needed of a folder, or the one file, by the names they get."""
    if special := formats.special(origin):
        folder = origin if origin.is_dir() else origin.parent
        beside = [p for p in (*folder.glob("*"), *folder.glob("huggingface/*")) if p.is_file()]
        beside = [path for path in beside if any(fnmatch(path.name, glob) for glob in BESIDE)]
        files = (*_files(special, origin), *beside)
        return {path.relative_to(folder).as_posix(): path for path in files}
    if origin.is_file() and origin.suffix == SAFE:
        return {"model.safetensors": origin}
    if origin.is_file() and origin.suffix in TORCH:
        return {"pytorch_model.bin": origin}
    if not origin.is_dir():
        raise UserError(f"{origin}: no such folder, nor a .safetensors file or one of torch")
    names = [p.relative_to(origin).as_posix() for p in origin.rglob("*") if p.is_file()]

    def indexed(index: str) -> set[str]:
        return set(folders.weight_map(origin / index).values())

    wanted = needed(names, trusted, str(origin), indexed)
    if not wanted:
        raise UserError(
            f"{origin}: no .safetensors files in it, nor a model of torch; save the model as "
            "safetensors"
        )
    return {name: origin / name for name in wanted if name != NAME}


def _files(found: formats.Format, origin: Path) -> list[Path]:
    """The files that are read of a checkpoint; names what is missing."""
    contents = found.read(origin)
    contents.close()
    return contents.files


def _whole(source: str, found: dict[str, Path]) -> None:
    """Every shard that an index names is there: better found out now than when it is read."""
    for name, path in found.items():
        if name.endswith((INDEX, TORCH_INDEX)):
            folder = name.rpartition("/")[0]
            for shard in sorted(set(folders.weight_map(path).values())):
                inside = f"{folder}/{shard}" if folder else shard
                if inside not in found:
                    raise UserError(f"{source}: {inside}: missing, though {name} names it")
