"""Deltas: a checkpoint as what differs, bit for bit, from its base. Lossless, checksummed.

A delta is a safetensors file. Its metadata (all strings) gives

- `format`: `subnetworks-delta-1`;
- `base`: the digest of the base's content (`subnetworks.checkpoints.identity`);
- `base_path`: where the base lay when the delta was written, relative to the delta's folder, or
  `hub:owner/name@revision`;
- `changed`: the number of entries stored;
- `tensors`: JSON, name → `[dtype, shape, encoding]` of every tensor of the checkpoint, in order;
- `files`: JSON, name → `[SHA-256, bytes, where]` of every file beside the checkpoint's weights that
  a delta gives back (`subnetworks.checkpoints.companions`): `base`, where the base has the same, or
  `here`, as `NAME#file` (uint8); not there for weights alone, nor in older deltas;
- `content`: BLAKE2b (16 bytes, hexadecimal) of the canonical JSON of all of the header but
  `content` itself, followed by all data.

The encodings of a tensor, of which the smallest is taken:

- `same`: nothing is stored, the tensor is the base's;
- `bitmap`: `NAME#where` has one bit an entry, packed as in a mask (`subnetworks.measuring.masks`);
- `gaps`: `NAME#where` has, a byte each (uint8), how many unchanged entries precede each changed
  one within its block; 255 means 255 unchanged entries and no changed one;
- `offsets`: `NAME#where` has the position of each changed entry within its block (uint16);
- `whole`: `NAME#values` is the whole tensor: the base has none of that name, dtype and shape.

A block is 65,536 entries in C order. `NAME#steps` (uint8) has how far each changed entry moved:
the difference d of its bits as whole numbers of its width w (new − old, modulo 2ʷ, read as signed)
as (d << 1) ^ (d >> (w − 1)), so that small steps are small numbers; of each block first all lowest
bytes, then all next ones, …, compressed with zlib. An update of RL moves most entries by a few
representable numbers, which so take a few bits each. `NAME#blocks` (int64) says in its rows, for
each block and the end behind the last, how many changed entries lie before it, at which byte of
`NAME#steps` it begins and, for `gaps`, at which byte of `NAME#where`: any part of a tensor is read
without the rest.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from subnetworks.checkpoints import identity
from subnetworks.checkpoints.companions import Companion, allowed, companions
from subnetworks.checkpoints.formats.safetensors import read_header, read_tensors
from subnetworks.checkpoints.reading import Checkpoint, split_base
from subnetworks.checkpoints.reading import open as open_checkpoint
from subnetworks.checkpoints.storage import ITEMSIZE, File, Tensor
from subnetworks.checkpoints.writing import PIECE, header
from subnetworks.core.errors import UserError
from subnetworks.core.files import atomic_path, canonical_json

FORMAT = "subnetworks-delta-1"
BLOCK = 1 << 16
# Entries compared at a time; whole blocks.
_CHUNK = 16 * BLOCK
_ESCAPE = 255
# Sources that are no paths.
_ELSEWHERE = ("hub:", "delta:", "adapter:")
# Of zlib: the fastest; the others gain little here.
_LEVEL = 1
_DIGEST_SIZE = 16
# What reading a file with a forged checksum may run into.
_MALFORMED = (
    *(LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError),
    *(MemoryError, zlib.error),
)


@dataclass(frozen=True)
class Written:
    """What was written: entries stored, entries in all, bytes of the file and of a whole copy.

    `carried` are the files beside the weights that lie in the delta, `left` those that it lacks.
    """

    changed: int
    n: int
    size: int
    whole: int
    carried: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def write(
    path: str | os.PathLike[str],
    before: Checkpoint,
    after: Mapping[str, Tensor],
    *,
    base: str,
    beside: Mapping[str, Companion] | None = None,
) -> Written:
    """Write `after` as what differs from `before`, atomically.

    Reads both twice (once to choose encodings), in pieces; memory: some 30 MiB.

    Args:
        path: the file.
        before: the base.
        after: all tensors of the checkpoint by name.
        base: the digest of `before`.
        beside: what lies beside the checkpoint's weights; None says nothing of it.
    """
    listed, carried = _beside(before, beside)
    plans = {name: _plan(before.tensors.get(name), tensor) for name, tensor in after.items()}
    tensors = {n: [p.after.dtype, list(p.after.shape), p.encoding] for n, p in plans.items()}
    changed = sum(plan.changed for plan in plans.values())
    facts = {
        "format": FORMAT,
        "base": base,
        "base_path": _relative(before.source, Path(path).absolute().parent),
        "changed": str(changed),
        "tensors": json.dumps(tensors, separators=(",", ":")),
        **({} if beside is None else {"files": json.dumps(listed, separators=(",", ":"))}),
    }
    # How well steps compress is known only at the end; until then their bound is used.
    most = _entries(plans, {}) | carried.entries
    room = len(header(most, {**facts, "content": "0" * (2 * _DIGEST_SIZE)}))
    sizes: dict[str, int] = {}
    with atomic_path(path) as temporary:
        with open(temporary, "w+b") as file:
            file.seek(room)
            for name, plan in plans.items():
                sizes[name] = plan.write(file)
            for one in carried.files:
                file.write(one.content)
            file.truncate()
        entries = _entries(plans, sizes) | carried.entries
        _put_header(temporary, entries, {**facts, "content": ""}, room)
        opened = File(temporary)
        content = _content(opened)
        opened.close()
        _put_header(temporary, entries, {**facts, "content": content}, room)
        size = temporary.stat().st_size
    return Written(
        changed,
        sum(t.n for t in after.values()),
        size,
        sum(t.nbytes for t in after.values()),
        tuple(one.name for one in carried.files),
        tuple(name for name in beside or () if name not in listed),
    )


@dataclass(frozen=True)
class _Carried:
    """The files that a delta holds."""

    files: list[Companion]

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...], int]]:
        """The arrays in which they are stored, as `_entries`."""
        return {f"{one.name}#file": ("U8", (one.size,), one.size) for one in self.files}


def _beside(
    before: Checkpoint, beside: Mapping[str, Companion] | None
) -> tuple[dict[str, list[Any]], _Carried]:
    """What a delta says of the files beside the weights, and those that it holds."""
    known = companions(before) or {}
    listed: dict[str, list[Any]] = {}
    carried: list[Companion] = []
    for name, one in (beside or {}).items():
        same = name in known and known[name].size == one.size and known[name].digest == one.digest
        if same or one.carried:
            listed[name] = [one.digest, one.size, "base" if same else "here"]
            if not same:
                carried.append(one)
    return listed, _Carried(carried)


def _bytes(array: Tensor) -> bytes:
    return array.raw().tobytes()


def _given_back(
    path: Path, listed: Any, base: Checkpoint, source: str, arrays: Mapping[str, Tensor]
) -> dict[str, Companion]:
    """The files beside the weights that a delta's header lists; each is verified when it is read.

    Raises:
        UserError: one has a name that no delta gives.
    """
    known = companions(base) or {}
    found: dict[str, Companion] = {}
    for name, (digest, size, where) in listed.items():
        if not allowed(name):
            raise UserError(f"{path}: a file named {name!r} is none that a delta gives; refused")
        if where == "here":
            array = arrays[f"{name}#file"]
            one = Companion(name, size, partial(_bytes, array))
            if (array.dtype, array.shape) != ("U8", (size,)) or not one.carried:
                raise ValueError(name)
            words = f"{path}: {name}: damaged; write or fetch the delta again"
        elif where == "base":
            words = (
                f"{path}: {name} is not beside {source} as it was beside the base of this delta; "
                "name that base, or fetch it again"
            )
            one = known.get(name) or Companion(name, size, bytes)
        else:
            raise ValueError(where)
        found[name] = one.verified(digest, words)
    return found


def _entries(
    plans: Mapping[str, "_Plan"], sizes: Mapping[str, int]
) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """All arrays stored; `sizes` are the bytes of each tensor's steps, by default their bound."""
    return {
        key: entry
        for name, plan in plans.items()
        for key, entry in plan.entries(sizes.get(name)).items()
    }


def _put_header(path: Path, entries: Any, facts: Mapping[str, str], room: int) -> None:
    with open(path, "r+b") as file:
        file.write(header(entries, facts, room))


def _relative(source: str, folder: Path) -> str:
    return (
        source
        if source.startswith(_ELSEWHERE)
        else os.path.relpath(Path(source).absolute(), folder)
    )


def _changes(before: Tensor, after: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Flat positions (ascending), old and new bits of the entries that differ, chunk by chunk."""
    for start in range(0, after.n, _CHUNK):
        stop = min(start + _CHUNK, after.n)
        old, new = before.raw(start, stop), after.raw(start, stop)
        where = np.flatnonzero(old != new)
        yield where + start, old[where], new[where]


def _pack(old: np.ndarray, new: np.ndarray) -> bytes:
    """The steps of one block, as they are stored."""
    step = (new - old).view(f"i{old.itemsize}")
    coded = (step << 1) ^ (step >> (8 * old.itemsize - 1))
    planes = coded.astype(f"<i{old.itemsize}").view(np.uint8).reshape(-1, old.itemsize).T
    return zlib.compress(planes.tobytes(), _LEVEL)


def _unpack(packed: np.ndarray, itemsize: int) -> np.ndarray:
    """The differences of bits that `_pack` stored, unsigned, to be added to the old ones."""
    planes = np.frombuffer(zlib.decompress(packed.data), np.uint8).reshape(itemsize, -1)
    coded = np.ascontiguousarray(planes.T).view(f"<u{itemsize}").reshape(-1)
    return (coded >> 1) ^ -(coded & 1)


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
    # Of each block and the end: changed entries before it, and bytes of gaps; int64.
    starts: np.ndarray | None = None

    def entries(self, steps: int | None) -> dict[str, tuple[str, tuple[int, ...], int]]:
        """Name → dtype, shape and bytes of the arrays stored, in order.

        `steps` are the bytes of the steps; None for a bound.
        """
        name, dtype = self.after.name, self.after.dtype
        if self.encoding == "same":
            return {}
        if self.encoding == "whole":
            return {f"{name}#values": (dtype, self.after.shape, self.after.nbytes)}
        assert self.starts is not None
        kind = "U16" if self.encoding == "offsets" else "U8"
        size = {
            "bitmap": (self.after.n + 7) // 8,
            "offsets": self.changed,
            "gaps": int(self.starts[1, -1]),
        }[self.encoding]
        shape = (3 if self.encoding == "gaps" else 2, self.starts.shape[1])
        if steps is None:
            steps = 2 * self.changed * self.after.itemsize + 64 * shape[1]
        return {
            f"{name}#where": (kind, (size,), size * ITEMSIZE[kind]),
            f"{name}#steps": ("U8", (steps,), steps),
            f"{name}#blocks": ("I64", shape, 8 * math.prod(shape)),
        }

    def write(self, file: BinaryIO) -> int:
        """Append the arrays to `file`; gives the bytes of the steps."""
        if self.encoding == "same":
            return 0
        if self.encoding == "whole":
            step = PIECE // self.after.itemsize
            for start in range(0, self.after.n, step):
                file.write(self.after.raw(start, min(start + step, self.after.n)).data)
            return 0
        assert self.starts is not None and self.before is not None
        where = file.tell()
        begin = end = where + self.entries(0)[f"{self.after.name}#where"][2]
        ends = [0]
        for index, (positions, old, new) in enumerate(_changes(self.before, self.after)):
            file.seek(where)
            where += file.write(self._encode(positions, index * _CHUNK).data)
            file.seek(end)
            first, last = len(ends) - 1, min(len(ends) - 1 + _CHUNK // BLOCK, len(self) - 1)
            bounds = self.starts[0, first : last + 1] - self.starts[0, first]
            for a, b in pairwise(bounds.tolist()):
                if a < b:
                    end += file.write(_pack(old[a:b], new[a:b]))
                ends.append(end - begin)
        rows = [self.starts[0], np.array(ends), self.starts[1]]
        table = np.stack(rows[: 3 if self.encoding == "gaps" else 2])
        file.seek(end)
        file.write(table.astype("<i8").data)
        return end - begin

    def __len__(self) -> int:
        """Blocks and one."""
        assert self.starts is not None
        return int(self.starts.shape[1])

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
    for positions, _, _ in _changes(before, after):
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
    return _Plan(before, after, min(sizes, key=lambda name: sizes[name]), changed, starts)


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
        metadata = read_header(file, any_dtype=True)[0].get("__metadata__")
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
    named, base = split_base(os.fspath(source).removeprefix("delta:"))
    file = Path(named)
    return base or _recorded(file, metadata(file)["base_path"])


def open_delta(path: Path, base: str | None = None) -> Checkpoint:
    """Open a delta as the checkpoint that it encodes.

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
        if missing := {"base", "base_path", "tensors"} - facts.keys():
            raise UserError(f"{path}: damaged: no {', '.join(sorted(missing))} in its header")
        source = base or _recorded(path, facts["base_path"])
        checkpoint = open_checkpoint(source)
    except BaseException:
        file.close()
        raise
    checkpoint._open.append(file)
    try:
        found = identity.digest(checkpoint)
        if found != facts["base"]:
            raise UserError(
                f"{path}: applies to a base with digest {facts['base']}, but {source} has {found}; "
                f"name the right one, where a base is asked for or as delta:{path}@BASE"
            )
        try:
            tensors = {
                name: _tensor(name, dtype, tuple(shape), encoding, checkpoint.tensors, arrays)
                for name, (dtype, shape, encoding) in json.loads(facts["tensors"]).items()
            }
            if "files" in facts:
                listed = json.loads(facts["files"])
                checkpoint.beside = _given_back(path, listed, checkpoint, source, arrays)
                if listed.get("config.json", [""])[-1] == "here":
                    checkpoint.config = dict(json.loads(checkpoint.beside["config.json"].content))
        except _MALFORMED as error:
            raise UserError(
                f"{path}: damaged: what it lists is not what it holds; write or fetch it again"
            ) from error
    except BaseException:
        checkpoint.close()
        raise
    return replace(
        checkpoint,
        source=str(path),
        tensors=tensors,
        files=[path, *checkpoint.files],
        folder=None,
        content=None,
    )


def _recorded(path: Path, base: str) -> str:
    if base.startswith(_ELSEWHERE):
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
    under = base.get(name)
    if encoding != "whole" and (under is None or (dtype, shape) != (under.dtype, under.shape)):
        raise ValueError(name)
    if encoding == "same":
        return base[name]
    if encoding == "whole":
        if (arrays[f"{name}#values"].dtype, arrays[f"{name}#values"].shape) != (dtype, shape):
            raise ValueError(name)
        return replace(arrays[f"{name}#values"], name=name, dtype=dtype, shape=shape)
    blocks, steps = arrays[f"{name}#blocks"], arrays[f"{name}#steps"]
    starts = blocks.raw().view(np.int64).reshape(blocks.shape)
    changes = _Changes(encoding, starts, steps, arrays[f"{name}#where"], math.prod(shape))
    under = base[name]

    def read(buffer: Any, offset: int) -> None:
        under.reader(buffer, offset)
        out = np.frombuffer(buffer, dtype=f"u{under.itemsize}")
        try:
            changes.add(out, offset // under.itemsize)
        except _MALFORMED as error:
            raise UserError(f"{steps.source}: tensor {name!r}: damaged; fetch it again") from error

    return replace(under, reader=read, source=steps.source)


@dataclass(frozen=True)
class _Changes:
    """The changed entries of one stored tensor."""

    encoding: str
    starts: np.ndarray
    steps: Tensor
    where: Tensor
    n: int

    def add(self, out: np.ndarray, start: int) -> None:
        """Move the entries from `start` on, whose old bits `out` holds, by their steps."""
        stop = start + out.size
        first, last = start // BLOCK, -(-stop // BLOCK)
        if self.starts[0, first] == self.starts[0, last]:
            return
        bounds = self.starts[1, first : last + 1]
        packed = self.steps.raw(int(bounds[0]), int(bounds[-1]))
        bounds = bounds - bounds[0]
        where, codes = self._where(first, last)
        for block in range(last - first):
            if bounds[block] == bounds[block + 1]:
                continue
            steps = _unpack(packed[bounds[block] : bounds[block + 1]], out.itemsize)
            code = where[codes[block] : codes[block + 1]]
            positions = self._decode(code) + (first + block) * BLOCK - start
            if positions[0] < 0 or positions[-1] >= out.size:
                wanted = (positions >= 0) & (positions < out.size)
                positions, steps = positions[wanted], steps[wanted]
            out[positions] += steps

    def _where(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """What says where, for these blocks, and where each block begins in it."""
        if self.encoding == "bitmap":
            bounds = np.minimum(np.arange(first, last + 1) * (BLOCK // 8), (self.n + 7) // 8)
        else:
            bounds = self.starts[2 if self.encoding == "gaps" else 0, first : last + 1]
        return self.where.raw(int(bounds[0]), int(bounds[-1])), bounds - bounds[0]

    def _decode(self, code: np.ndarray) -> np.ndarray:
        """Positions within a block."""
        if self.encoding == "bitmap":
            return np.flatnonzero(np.unpackbits(code, bitorder="little"))
        if self.encoding == "offsets":
            return code.astype(np.int64)
        entry = code != _ESCAPE
        return (np.cumsum(code + entry, dtype=np.int64) - 1)[entry]
