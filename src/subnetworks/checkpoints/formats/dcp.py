"""Checkpoints of torch.distributed.checkpoint: `.metadata` and the processes' `*.distcp`.

`.metadata` is a pickle of torch's classes for it, read here as inert records: for each tensor its
shape and the chunks that make it up; for each chunk the stretch of a file in which it lies, as
`torch.save` writes it.

A training's state is nested ({"model": {…}, "optimizer": {…}}): the model's part is taken where it
is clear which that is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.formats import pickles
from subnetworks.checkpoints.formats.archives import DTYPES, Archive
from subnetworks.checkpoints.formats.contents import Contents
from subnetworks.checkpoints.formats.pickles import Record
from subnetworks.checkpoints.formats.sharding import Chunk, join
from subnetworks.checkpoints.hub.sources import safe
from subnetworks.checkpoints.storage import File, Tensor
from subnetworks.core.errors import UserError

METADATA = ".metadata"
_SUFFIX = ".distcp"
_MODULE = "torch.distributed.checkpoint.metadata"
_OLDER = "torch.distributed._shard.sharded_tensor.metadata"
_RECORDS = frozenset(
    [
        *(
            f"{_MODULE}.{name}"
            for name in (
                "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata",
                "ChunkStorageMetadata", "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
            )
        ),
        f"{_OLDER}.TensorProperties",
        f"{_OLDER}.MEM_FORMAT_ENCODING",
        "torch.distributed.checkpoint.filesystem._StorageInfo",
        "torch.serialization._get_layout",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
    ]
)  # fmt: skip
# What a training's state holds beside the model.
_BESIDE = re.compile(
    r"(?i)optim(izer)?s?|opt|(lr_?)?schedulers?|lr_scheduler|train(er)?_?state|data_?loader|rng.*|step|extra.*"
)
_MODEL = ("model", "model_state_dict", "state_dict", "module")
_CONVERT = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"


def recognises(path: Path) -> bool:
    """Whether it is such a folder, or a file of one."""
    if path.is_file():
        return path.suffix == _SUFFIX or path.name == METADATA
    return path.is_dir() and (
        (path / METADATA).is_file() or next(path.glob(f"*{_SUFFIX}"), None) is not None
    )


def among(names: Sequence[str]) -> list[str]:
    """See `subnetworks.checkpoints.formats.among`."""
    found = [name for name in names if name.endswith(_SUFFIX)]
    return [*found, *(name for name in names if name == METADATA)] if found else []


def read(path: Path) -> Contents:
    """The model's tensors, each joined from its chunks.

    Raises:
        UserError: not written to the end, a file is missing, or it is not clear what is the model.
    """
    folder = path.parent if path.is_file() else path
    if (folder / "metadata.json").is_file() and "sharded_backend" in _text(
        folder / "metadata.json"
    ):
        raise UserError(
            f"{folder}: a checkpoint of Megatron, whose tensors have its own names and layout; "
            "convert it to the Hugging Face layout (verl: python -m verl.model_merger merge "
            "--backend megatron) and name that"
        )
    index = folder / METADATA
    if not index.is_file():
        raise UserError(
            f"{index}: missing, though there are {_SUFFIX} files beside it: it is written last, so "
            "saving did not come to its end, or it was not copied (a hidden file); fetch it"
        )
    contents = Contents()
    try:
        _fill(contents, folder, index)
    except BaseException:
        contents.close()
        raise
    return contents


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[:10_000]


@dataclass(frozen=True)
class _Stored:
    """What `.metadata` says of one tensor."""

    key: str
    path: tuple[str, ...]  # within the nested state
    shape: tuple[int, ...]
    chunks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # offsets, sizes
    dtype: str


def _fill(contents: Contents, folder: Path, index: Path) -> None:
    damaged = UserError(f"{index}: not metadata as torch writes it: save the checkpoint again")
    file = File(index)
    try:
        if file.size > pickles.SIZE:
            raise UserError(f"{index}: {file.size} bytes, more than metadata needs; refused")
        data = bytearray(file.size)
        file.read_into(data, 0)
    finally:
        file.close()
    remedy = f"fetch it again, or convert it where it was saved ({_CONVERT} {folder} model.pt)"
    value = pickles.read(data, str(index), _RECORDS, remedy)
    tensors, planned = _field(value, "state_dict_metadata"), _field(value, "planner_data")
    where = _field(value, "storage_data")
    if not isinstance(tensors, dict) or not isinstance(where, dict):
        raise damaged
    stored = []
    for key, facts in tensors.items():
        if isinstance(facts, Record) and facts.name.endswith(".BytesStorageMetadata"):
            continue
        found = _stored(key, facts, planned)
        if found is None:
            raise damaged
        stored.append(found)
    chosen = _model(stored, contents, folder)
    places: dict[tuple[str, tuple[int, ...] | None], object] = {}
    for at, info in where.items():
        key, offset = _field(at, "fqn"), _field(at, "offset")
        if not isinstance(key, str):
            raise damaged
        places[key, offset if isinstance(offset, tuple) else None] = info
    opened: dict[str, File] = {}
    for name, tensor in chosen.items():
        what = f"{index}: tensor {name!r}"
        chunks = []
        for offsets, sizes in tensor.chunks:
            info = places.get((tensor.key, offsets), places.get((tensor.key, None)))
            part = _place(info, folder, opened, contents, what)
            piece = _Saved(part, name, tensor.dtype, sizes)
            chunks.append(
                Chunk(offsets, Tensor(name, tensor.dtype, sizes, piece, str(part.file.path)))
            )
        contents.tensors[name] = join(name, tensor.shape, chunks, str(folder))
    contents.files = [index, *sorted({file.path for file in opened.values()})]


def _field(value: object, name: str) -> object:
    state = value.state if isinstance(value, Record) else None
    return state.get(name) if isinstance(state, Mapping) else None


def _sizes(value: object) -> tuple[int, ...] | None:
    if isinstance(value, tuple) and all(type(x) is int and 0 <= x < 1 << 48 for x in value):
        return value
    return None


def _stored(key: object, facts: object, planned: object) -> _Stored | None:
    """The entry of a tensor; None if it is malformed."""
    properties = _field(facts, "properties")
    state = properties.state if isinstance(properties, Record) else None
    kind = state[0] if isinstance(state, tuple) and state else _field(properties, "dtype")
    shape, chunks = _sizes(_field(facts, "size")), _field(facts, "chunks")
    if not (isinstance(key, str) and isinstance(kind, pickles.Name) and shape is not None):
        return None
    dtype = DTYPES.get(kind.name.removeprefix("torch."))
    if dtype is None or not isinstance(chunks, list):
        return None
    found = []
    for chunk in chunks:
        offsets, sizes = _sizes(_field(chunk, "offsets")), _sizes(_field(chunk, "sizes"))
        if offsets is None or sizes is None:
            return None
        found.append((offsets, sizes))
    path = planned.get(key) if isinstance(planned, dict) else None
    if not (isinstance(path, tuple) and path):
        path = (key,)
    return _Stored(key, tuple(map(str, path)), shape, tuple(found), dtype)


def _model(stored: list[_Stored], contents: Contents, folder: Path) -> dict[str, _Stored]:
    """The tensors of the model by their names in it."""
    level, trail = [(tensor.path, tensor) for tensor in stored], ""
    while True:
        nested: dict[str, list[tuple[tuple[str, ...], _Stored]]] = {}
        leaves = {}
        for path, tensor in level:
            if len(path) == 1:
                leaves[path[0]] = tensor
            else:
                nested.setdefault(path[0], []).append((path[1:], tensor))
        named = [name for name in _MODEL if name in nested]
        others = [name for name in nested if not _BESIDE.fullmatch(name)]
        of_model = {
            name: tensor
            for name, tensor in leaves.items()
            if not _BESIDE.fullmatch(name.split(".")[0])
        }
        if len(named) == 1:
            chosen = named[0]
        elif len(others) == 1 and not of_model:
            chosen = others[0]
        elif not others and of_model:
            if left := sorted(
                {*nested, *(name.split(".")[0] for name in leaves.keys() - of_model)}
            ):
                contents.notes.append(f"{folder}: read the model, not {', '.join(left)} beside it")
            return of_model
        else:
            there = ", ".join(f"{trail}{name}" for name in [*nested, *list(leaves)[:3]][:8])
            raise UserError(
                f"{folder}: it is not clear which part is the model (there are {there or 'none'}); "
                f"convert it ({_CONVERT} {folder} model.pt), save the model's part alone, "
                "and name that"
            )
        if left := sorted({*nested, *leaves} - {chosen}):
            shown = ", ".join(left[:6]) + (", …" if len(left) > 6 else "")
            contents.notes.append(f"{folder}: read {trail}{chosen}, not {shown} beside it")
        level, trail = nested[chosen], f"{trail}{chosen}."


@dataclass(frozen=True)
class _Place:
    """A stretch of an open file."""

    file: File
    begin: int
    size: int


def _place(
    info: object, folder: Path, opened: dict[str, File], contents: Contents, what: str
) -> _Place:
    """Where a chunk lies."""
    name, begin, size = (_field(info, k) for k in ("relative_path", "offset", "length"))
    if not isinstance(name, str) or type(begin) is not int or type(size) is not int:
        raise UserError(f"{what}: its place is missing; save the checkpoint again")
    if not safe(name):
        raise UserError(f"{what}: its file {name!r} lies outside the folder; refused")
    if _field(info, "transform_descriptors"):
        raise UserError(
            f"{what}: stored compressed or encrypted; convert it with {_CONVERT} {folder} model.pt"
        )
    if name not in opened:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing, though {METADATA} names it: fetch it")
        opened[name] = File(path)
        contents.open.append(opened[name])
    file = opened[name]
    if not 0 <= begin <= begin + size <= file.size:
        raise UserError(
            f"{file.path}: {file.size} bytes, by {METADATA} at least {begin + size}: cut short; "
            "fetch it again"
        )
    return _Place(file, begin, size)


@dataclass(frozen=True)
class _Saved:
    """The reader of a chunk, a tensor saved by torch; looked at when it is first read."""

    place: _Place
    name: str
    dtype: str
    shape: tuple[int, ...]

    @cached_property
    def tensor(self) -> Tensor:
        archive = Archive(self.place.file, self.place.begin, self.place.size)
        value = archive.value()
        found = (
            archive.tensor(self.name, value)
            if isinstance(value, pickles.View) and value.dtype in DTYPES
            else None
        )
        if found is None or (found.dtype, found.shape) != (self.dtype, self.shape):
            raise UserError(
                f"{self.place.file.path}: tensor {self.name!r}: not the part that {METADATA} says; "
                "the files are not of one checkpoint: fetch it again"
            )
        return found

    def __call__(self, buffer: Any, offset: int) -> None:
        self.tensor.reader(buffer, offset)
