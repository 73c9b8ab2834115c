"""Deltas: a checkpoint as what differs, bit for bit, from its base. Lossless, checksummed.

A delta is a safetensors file. Its metadata (all strings) gives

- `format`: `subnetworks-delta-1`;
- `base`: the digest of the base's content (`subnetworks.updates.digests`);
- `base_path`: where the base lay when the delta was written, relative to the delta's folder, or
  `hub:owner/name@revision`;
- `changed`: the number of entries stored;
- `tensors`: JSON, name → `[dtype, shape, encoding]` of every tensor of the checkpoint, in order;
- `content`: BLAKE2b (16 bytes, hexadecimal) of the canonical JSON of all of the header but
  `content` itself, followed by all data.

The encodings of a tensor, of which the smallest is taken:

- `same`: nothing is stored, the tensor is the base's;
- `bitmap`: `NAME#where` has one bit an entry, packed as in a mask (`subnetworks.masks`);
- `gaps`: `NAME#where` has, a byte each (uint8), how many unchanged entries precede each changed
  one within its block; 255 stands for 255 unchanged entries and no changed one;
- `offsets`: `NAME#where` has the position of each changed entry within its block (uint16);
- `whole`: `NAME#values` is the whole tensor: the base has none of that name, dtype and shape.

A block is 65,536 entries in C order. `NAME#values` has the new values of the changed entries, in
order and in the tensor's dtype; `NAME#blocks` (int64) says at which value each block begins, with
the end behind the last, and for `gaps`, in a second row, at which byte of `NAME#where`. So any part
of a tensor is read without the rest.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.reading import open as open_checkpoint
from subnetworks.checkpoints.storage import ITEMSIZE, File, Tensor, read_header, read_tensors
from subnetworks.checkpoints.writing import PIECE, header
from subnetworks.errors import UserError
from subnetworks.files import atomic_path, canonical_json

FORMAT = "subnetworks-delta-1"
BLOCK = 1 << 16
# Entries compared at a time; whole blocks.
_CHUNK = 16 * BLOCK
_ESCAPE = 255
_DIGEST_SIZE = 16


@dataclass(frozen=True)
class Written:
    """What was written: entries stored, entries in all, bytes of the file and of a whole copy."""

    changed: int
    n: int
    size: int
    whole: int


def write(
    path: str | os.PathLike[str],
    before: Checkpoint,
    after: Mapping[str, Tensor],
    *,
    base: str,
) -> Written:
    """Write `after` as what differs from `before`, atomically.

    Reads both twice (once to choose encodings), in pieces; memory: some 20 MiB.

    Args:
        path: the file.
        before: the base.
        after: all tensors of the checkpoint by name.
        base: the digest of `before`.
    """
    plans = {name: _plan(before.tensors.get(name), tensor) for name, tensor in after.items()}
    entries = {key: entry for plan in plans.values() for key, entry in plan.entries().items()}
    tensors = {n: [p.after.dtype, list(p.after.shape), p.encoding] for n, p in plans.items()}
    changed = sum(plan.changed for plan in plans.values())
    facts = {
        "format": FORMAT,
        "base": base,
        "base_path": _relative(before.source, Path(path).absolute().parent),
        "changed": str(changed),
        "tensors": json.dumps(tensors, separators=(",", ":")),
    }
    unsigned = header(entries, {**facts, "content": "0" * (2 * _DIGEST_SIZE)})
    with atomic_path(path) as temporary:
        with open(temporary, "w+b") as file:
            file.write(unsigned)
            for plan in plans.values():
                plan.write(file)
            file.flush()
        opened = File(temporary)
        content = _content(opened)
        opened.close()
        with open(temporary, "r+b") as file:
            file.write(header(entries, {**facts, "content": content}))
        size = temporary.stat().st_size
    return Written(
        changed, sum(t.n for t in after.values()), size, sum(t.nbytes for t in after.values())
    )


def _relative(source: str, folder: Path) -> str:
    return source if ":" in source else os.path.relpath(Path(source).absolute(), folder)


def _changes(before: Tensor, after: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Flat positions (ascending) and new bits of the entries that differ, chunk by chunk."""
    for start in range(0, after.n, _CHUNK):
        stop = min(start + _CHUNK, after.n)
        new = after.raw(start, stop)
        where = np.flatnonzero(before.raw(start, stop) != new)
        yield where + start, new[where]


def _gaps(positions: np.ndarray) -> np.ndarray:
    """Unchanged entries before each changed one, within its block."""
    before = np.empty_like(positions)
    before[:1] = -1
    before[1:] = positions[:-1]
    return positions - np.maximum(before, positions // BLOCK * BLOCK - 1) - 1


@dataclass(frozen=True)
class _Plan:
    """How one tensor is stored."""

    before: Tensor | None
    after: Tensor
    encoding: str
    changed: int = 0
    # At which value and, for `gaps`, at which byte each block begins; int64, (rows, blocks + 1).
    starts: np.ndarray | None = None

    def entries(self) -> dict[str, tuple[str, tuple[int, ...], int]]:
        """Name → dtype, shape and bytes of the arrays stored, in order."""
        name, dtype = self.after.name, self.after.dtype
        if self.encoding == "same":
            return {}
        if self.encoding == "whole":
            return {f"{name}#values": (dtype, self.after.shape, self.after.nbytes)}
        assert self.starts is not None
        size = {
            "bitmap": (self.after.n + 7) // 8,
            "offsets": self.changed,
            "gaps": int(self.starts[-1, -1]),
        }[self.encoding]
        kind = "U16" if self.encoding == "offsets" else "U8"
        return {
            f"{name}#blocks": ("I64", self.starts.shape, self.starts.nbytes),
            f"{name}#values": (dtype, (self.changed,), self.changed * self.after.itemsize),
            f"{name}#where": (kind, (size,), size * ITEMSIZE[kind]),
        }

    def write(self, file: BinaryIO) -> None:
        """Append the arrays to `file`."""
        if self.encoding == "same":
            return
        if self.encoding == "whole":
            step = PIECE // self.after.itemsize
            for start in range(0, self.after.n, step):
                file.write(self.after.raw(start, min(start + step, self.after.n)).data)
            return
        assert self.starts is not None and self.before is not None
        file.write(self.starts.astype("<i8").data)
        begin = file.tell()
        where = begin + self.changed * self.after.itemsize
        for index, (positions, values) in enumerate(_changes(self.before, self.after)):
            file.seek(begin)
            begin += file.write(values.data)
            file.seek(where)
            where += file.write(self._encode(positions, index * _CHUNK).data)

    def _encode(self, positions: np.ndarray, start: int) -> np.ndarray:
        if self.encoding == "offsets":
            return (positions % BLOCK).astype("<u2")
        if self.encoding == "gaps":
            gaps = _gaps(positions)
            ends = np.cumsum(gaps // _ESCAPE + 1)
            codes = np.full(ends[-1] if ends.size else 0, _ESCAPE, np.uint8)
            codes[ends - 1] = gaps % _ESCAPE
            return codes
        bits = np.zeros(min(_CHUNK, self.after.n - start), np.bool_)
        bits[positions - start] = True
        return np.packbits(bits, bitorder="little")


def _plan(before: Tensor | None, after: Tensor) -> _Plan:
    """Count what differs, and choose the smallest encoding."""
    if before is None or (before.dtype, before.shape) != (after.dtype, after.shape):
        return _Plan(None, after, "whole", after.n)
    blocks = -(-after.n // BLOCK)
    counts = np.zeros((2, blocks), np.int64)
    for positions, _ in _changes(before, after):
        block = positions // BLOCK
        _count(counts[0], block, None)
        _count(counts[1], block, _gaps(positions) // _ESCAPE + 1)
    changed = int(counts[0].sum())
    if not changed:
        return _Plan(before, after, "same")
    starts = np.zeros((2, blocks + 1), np.int64)
    np.cumsum(counts, axis=1, out=starts[:, 1:])
    sizes = {
        "bitmap": (after.n + 7) // 8,
        "offsets": 2 * changed,
        "gaps": int(starts[1, -1]) + 8 * (blocks + 1),
    }
    encoding = min(sizes, key=lambda name: sizes[name])
    rows = 2 if encoding == "gaps" else 1
    return _Plan(before, after, encoding, changed, np.ascontiguousarray(starts[:rows]))


def _count(into: np.ndarray, block: np.ndarray, weights: np.ndarray | None) -> None:
    if block.size:
        first = int(block[0])
        # Weights are whole numbers far below 2⁵³.
        found = np.bincount(block - first, weights)
        into[first : first + found.size] += found.astype(np.int64)


def _content(file: File) -> str:
    """The checksum of an open delta (see the module's text)."""
    facts, data = read_header(file)
    facts["__metadata__"] = {
        key: value for key, value in facts["__metadata__"].items() if key != "content"
    }
    total = hashlib.blake2b(canonical_json(facts).encode(), digest_size=_DIGEST_SIZE)
    buffer = bytearray(PIECE)
    for start in range(data, file.size, PIECE):
        view = memoryview(buffer)[: min(PIECE, file.size - start)]
        file.read_into(view, start)
        total.update(view)
    return total.hexdigest()


def is_delta(path: Path) -> bool:
    """Whether a safetensors file is a delta."""
    file = File(path)
    try:
        metadata = read_header(file)[0].get("__metadata__")
    finally:
        file.close()
    return isinstance(metadata, dict) and metadata.get("format") == FORMAT


def metadata(path: Path) -> dict[str, str]:
    """The strings of a delta's header; `UserError` if the file is no delta."""
    file, _, found = read_tensors(path)
    file.close()
    if found.get("format") != FORMAT:
        raise UserError(f"{path}: not a delta (no metadata format={FORMAT!r})")
    return found


def base_of(source: str | os.PathLike[str]) -> str:
    """The base of a delta (FILE or `delta:FILE@BASE`), as `subnetworks.checkpoints.open` takes it.

    Raises:
        UserError: the file is no delta, or its base is not where it was.
    """
    text, _, base = os.fspath(source).removeprefix("delta:").partition("@")
    return base or _recorded(Path(text), metadata(Path(text))["base_path"])


def open_delta(path: Path, base: str | None = None) -> Checkpoint:
    """Open a delta as the checkpoint it stands for.

    Args:
        path: its file.
        base: the base, as `subnetworks.checkpoints.open` takes it; by default the one that is
            recorded in the file.

    Raises:
        UserError: the file is no delta or damaged, or the base is not there or another one.
    """
    facts = metadata(path)
    file, arrays, _ = read_tensors(path)
    try:
        if _content(file) != facts.get("content"):
            raise UserError(
                f"{path}: damaged: its content does not have the checksum in its header; "
                "write or fetch it again"
            )
        source = base or _recorded(path, facts["base_path"])
        checkpoint = open_checkpoint(source)
    except BaseException:
        file.close()
        raise
    checkpoint._open.append(file)
    try:
        # The one look back up the chain: what a base is is what `measure` says of it.
        from subnetworks.updates.digests import digest

        found = digest(checkpoint)
        if found != facts["base"]:
            raise UserError(
                f"{path}: applies to a base with digest {facts['base']}, but {source} has {found}; "
                f"name the right one: delta:{path}@BASE"
            )
        tensors = {
            name: _tensor(name, dtype, tuple(shape), encoding, checkpoint.tensors, arrays)
            for name, (dtype, shape, encoding) in json.loads(facts["tensors"]).items()
        }
    except BaseException:
        checkpoint.close()
        raise
    return replace(
        checkpoint,
        source=str(path),
        tensors=tensors,
        files=[path, *checkpoint.files],
    )


def _recorded(path: Path, base: str) -> str:
    if ":" in base:
        return base
    place = Path(os.path.normpath(path.absolute().parent / base))
    if not place.exists():
        raise UserError(f"{path}: its base {place} is not there; name it: delta:{path}@BASE")
    return str(place)


def _tensor(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    encoding: str,
    base: Mapping[str, Tensor],
    arrays: Mapping[str, Tensor],
) -> Tensor:
    if encoding == "same":
        return base[name]
    values = arrays[f"{name}#values"]
    if encoding == "whole":
        return replace(values, name=name, dtype=dtype, shape=shape)
    blocks = arrays[f"{name}#blocks"]
    starts = blocks.raw().view(np.int64).reshape(blocks.shape)
    changes = _Changes(encoding, starts, values, arrays[f"{name}#where"], math.prod(shape))
    under = base[name]

    def read(buffer: Any, offset: int) -> None:
        under.reader(buffer, offset)
        out = np.frombuffer(buffer, dtype=f"u{under.itemsize}")
        changes.put(out, offset // under.itemsize)

    return replace(under, reader=read, source=values.source)


@dataclass(frozen=True)
class _Changes:
    """The changed entries of one stored tensor."""

    encoding: str
    starts: np.ndarray
    values: Tensor
    where: Tensor
    n: int

    def put(self, out: np.ndarray, start: int) -> None:
        """Put the new bits of the entries from `start` on in their places in `out`."""
        stop = start + out.size
        first, last = start // BLOCK, -(-stop // BLOCK)
        begin, end = int(self.starts[0, first]), int(self.starts[0, last])
        if begin == end:
            return
        values = self.values.raw(begin, end)
        where, bounds = self._where(first, last)
        for block in range(first, last):
            a, b = (int(v) - begin for v in self.starts[0, block : block + 2])
            if a == b:
                continue
            code = where[bounds[block - first] : bounds[block - first + 1]]
            positions = self._decode(code) + block * BLOCK - start
            new = values[a:b]
            if block * BLOCK < start or (block + 1) * BLOCK > stop:
                wanted = (positions >= 0) & (positions < out.size)
                positions, new = positions[wanted], new[wanted]
            out[positions] = new

    def _where(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """What says where, for these blocks, and where each block begins in it."""
        if self.encoding == "bitmap":
            bounds = np.minimum(np.arange(first, last + 1) * (BLOCK // 8), (self.n + 7) // 8)
        else:
            bounds = self.starts[-1, first : last + 1]
        return self.where.raw(int(bounds[0]), int(bounds[-1])), bounds - bounds[0]

    def _decode(self, code: np.ndarray) -> np.ndarray:
        """Positions within a block."""
        if self.encoding == "bitmap":
            return np.flatnonzero(np.unpackbits(code, bitorder="little"))
        if self.encoding == "offsets":
            return code.astype(np.int64)
        entry = code != _ESCAPE
        return (np.cumsum(code + entry, dtype=np.int64) - 1)[entry]
