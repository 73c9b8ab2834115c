"""Folders of files with weights: which are read (`subnetworks.checkpoints.weights`), and read as
one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.formats.contents import Contents
from subnetworks.checkpoints.hub.sources import safe
from subnetworks.checkpoints.weights import Choice, choose
from subnetworks.core.errors import UserError

_MODELOPT = "hf_quant_config.json"
# Reads one file; the tensors' names get the prefix.
Reader = Callable[[Path, str], Contents]


def choice(folder: Path) -> Choice | None:
    """The weights in a folder, or, where it has none itself, in those within it."""

    def indexed(index: str) -> set[str]:
        return set(weight_map(folder / index).values())

    here = [p.name for p in folder.iterdir() if not p.is_dir()]
    if found := choose(here, str(folder), indexed=indexed):
        return found
    within = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()]
    return choose(within, str(folder), indexed=indexed)


def read(path: Path, index: str, one: Reader) -> Contents:
    """Read a folder, an index (whose name ends in `index`) or a file, whose files `one` reads.

    As `contents.Format.read`.
    """
    if path.is_dir():
        found = choice(path)
        assert found is not None  # it was recognised
        return read_choice(path, found, one)
    return read_indexed(path, one) if path.name.endswith(index) else one(path, "")


def read_choice(folder: Path, found: Choice, read: Reader) -> Contents:
    """Read what was chosen as one checkpoint.

    Raises:
        UserError: a file or tensor that an index names is missing; a tensor is there twice.
    """
    if found.index:
        contents = read_indexed(folder / found.index, read)
    else:
        qualify = len({Path(name).parent for name in found.files}) > 1
        qualify = qualify and (folder / "model_index.json").exists()
        contents = _gather(folder, [folder / name for name in found.files], read, None, qualify)
    if found.left:
        read_ = found.index or ", ".join(found.files[:3])
        contents.notes.append(f"{folder}: read {read_}; not {', '.join(found.left)} beside it")
    inside = {path.parent for path in contents.files}
    if len(inside) == 1 and inside != {folder}:
        contents.home = inside.pop()
    return contents


def read_indexed(index: Path, read: Reader) -> Contents:
    """Read the files that an index names, and of each the tensors that the index lists."""
    where = weight_map(index)
    if not where:
        raise UserError(f"{index}: names no tensors: fetch it again")
    folder = index.parent
    shards = [folder / file for file in sorted(set(where.values()))]
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{shard}: missing, though {index.name} names it: fetch it")
    contents = _gather(folder, shards, read, where)
    for name, file in where.items():
        if name not in contents.tensors and name not in contents.excluded:
            contents.close()
            raise UserError(f"{folder / file}: no tensor {name!r}, though {index.name} says so")
    return contents


def _gather(
    folder: Path,
    files: list[Path],
    read: Reader,
    only: dict[str, str] | None = None,
    qualify: bool = False,
) -> Contents:
    """Gather the tensors of `files`; with `only`, as that map says; `qualify` names by folder."""
    gathered = Contents(files=files)
    try:
        for path in files:
            inner = path.relative_to(folder).parent.as_posix()
            part = read(path, f"{inner}/" if qualify and inner != "." else "")
            gathered.open += part.open
            gathered.notes += part.notes
            for name, reason in part.excluded.items():
                gathered.excluded.setdefault(name, reason)
            gathered.unread |= part.unread
            for name, tensor in part.tensors.items():
                if only is not None and only.get(name) != path.relative_to(folder).as_posix():
                    gathered.excluded.setdefault(name, f"in {path.name} but not in the index")
                elif name in gathered.tensors:
                    raise UserError(
                        f"{path}: tensor {name!r} is also in {gathered.tensors[name].source}; "
                        "keep one, or name one file or folder"
                    )
                else:
                    gathered.tensors[name] = tensor
    except BaseException:
        gathered.close()
        raise
    if only is not None:
        for name in gathered.tensors:
            gathered.excluded.pop(name, None)
    return gathered


def config(folder: Path) -> dict[str, Any]:
    """A folder's `config.json`, with what ModelOpt writes beside it; or nothing."""
    path, further = folder / "config.json", folder / _MODELOPT
    found = json_object(path) if path.exists() else {}
    if further.exists() and not found.get("quantization_config"):
        # Where ModelOpt's exporters say how the weights are quantised.
        section = json_object(further).get("quantization")
        if isinstance(section, dict):
            found["quantization_config"] = {"quant_method": "modelopt", **section}
    return found


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `UserError` if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object: fetch it again")
    return value


def weight_map(index: Path) -> dict[str, str]:
    """Tensor → shard, as an index says; every shard lies within the index's folder.

    Raises:
        UserError: it is not an index, or names a file elsewhere.
    """
    found = json_object(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise UserError(f"{index}: no 'weight_map' of names to files: fetch it again")
    for name, file in found.items():
        if not safe(file):
            raise UserError(
                f"{index}: tensor {name!r}: shard {file!r} lies outside the folder; refused"
            )
    return found
