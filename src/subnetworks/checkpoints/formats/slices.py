"""safetensors in which each process saved its own slices: torch's Hugging Face writer, not merged.

Every file has slices under the tensors' names, and in its metadata (`DCP_SHARDING_INFO`) where in
the tensor each begins. The sizes of the tensors are not recorded: they follow from the slices.
"""

import json
import re
from pathlib import Path

from subnetworks.checkpoints.formats import folders, safetensors
from subnetworks.checkpoints.formats.contents import Contents
from subnetworks.checkpoints.formats.sharding import Chunk, join
from subnetworks.checkpoints.storage import Tensor
from subnetworks.checkpoints.tensors import is_token_embedding
from subnetworks.core.errors import UserError

_NAME = re.compile(r"shard-(\d+)-model-(\d+)-of-(\d+)\.safetensors")
_INFO = "DCP_SHARDING_INFO"
_SHARDED = "sharded"
_CONSOLIDATE = (
    "torch.distributed.checkpoint._consolidate_hf_safetensors.consolidate_safetensors_files"
)


def recognises(path: Path) -> bool:
    """Whether a folder has such files and no others with weights, or it is such a file."""
    if path.is_file():
        return bool(_NAME.fullmatch(path.name))
    return path.is_dir() and _folder(path) is not None


def _folder(path: Path) -> Path | None:
    """Where the slices lie: here, or in the folder for them, where they have not been merged."""
    files = list(path.glob("*.safetensors"))
    if files:
        return path if all(_NAME.fullmatch(file.name) for file in files) else None
    within = path / _SHARDED
    return _folder(within) if path.name != _SHARDED and within.is_dir() else None


def read(path: Path) -> Contents:
    """All tensors, each joined from its slices.

    Raises:
        UserError: one file alone, or files of processes are missing.
    """
    if path.is_file():
        raise UserError(
            f"{path}: the slices of one process, not whole tensors; name the folder with those of "
            f"all: {path.parent}"
        )
    home, path = path, _folder(path) or path
    home = home if (home / "config.json").exists() else path
    files = _complete(path)
    contents = Contents(files=files, home=home)
    parts: dict[str, list[Chunk]] = {}
    try:
        for file in files:
            opened, tensors, metadata = safetensors.read_tensors(file)
            contents.open.append(opened)
            for name, offsets in _offsets(file, tensors, metadata).items():
                parts.setdefault(name, []).append(Chunk(offsets, tensors[name]))
        for name, chunks in parts.items():
            if len({len(chunk.offsets) for chunk in chunks}) != 1:
                raise UserError(
                    f"{path}: tensor {name!r}: slices of different shapes; save it again"
                )
            ends = [[a + b for a, b in zip(c.offsets, c.sizes, strict=True)] for c in chunks]
            shape = tuple(max(axis) for axis in zip(*ends, strict=True))
            contents.tensors[name] = join(name, shape, chunks, str(path))
        _require_whole(path, contents)
    except BaseException:
        contents.close()
        raise
    return contents


def _complete(folder: Path) -> list[Path]:
    """The files, of processes 1, 2, … without a gap."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(int(match[1]), []).append(path)
    for rank in range(1, max(found) + 1):
        if rank not in found:
            raise UserError(
                f"{folder / f'shard-{rank:05d}-model-00001-of-00001.safetensors'}: missing, though "
                f"there are those of process {max(found)}; fetch it"
            )
    return [path for rank in sorted(found) for path in found[rank]]


def _offsets(
    file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> dict[str, tuple[int, ...]]:
    try:
        said = json.loads(metadata[_INFO])
        offsets = {name: tuple(said[name]["saved_offsets"]) for name in tensors}
        if not all(
            len(found) == len(tensors[name].shape)
            and all(type(x) is int and 0 <= x < 1 << 48 for x in found)
            for name, found in offsets.items()
        ):
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        lost = isinstance(error, KeyError) and error.args[0] in tensors
        what = f"that of {error.args[0]!r} lies" if lost else "they lie"
        raise UserError(
            f"{file}: one process's slices, and {_INFO} in its metadata does not say where {what}; "
            f"merge those of all processes with {_CONSOLIDATE}, or save it again"
        ) from error
    return offsets


def _require_whole(folder: Path, contents: Contents) -> None:
    """Raise `UserError` if the last processes' files are missing, as far as that shows."""
    vocabulary = folders.config(contents.home or folder).get("vocab_size")
    for name, tensor in contents.tensors.items():
        if is_token_embedding(name) and isinstance(vocabulary, int) and tensor.shape:
            if tensor.shape[0] < vocabulary:
                raise UserError(
                    f"{folder}: tensor {name!r} has {tensor.shape[0]} rows of {vocabulary} by "
                    "config.json: the last processes' files are missing; fetch them"
                )
            return
    if len(contents.files) == 1:
        raise UserError(
            f"{contents.files[0]}: the slices of one process, and nothing says that there was only "
            f"one; fetch the others, or put the model's config.json beside it, or merge it with "
            f"{_CONSOLIDATE}"
        )
    contents.notes.append(
        f"{folder}: no config.json, by which it could be seen that no process's file is missing"
    )
