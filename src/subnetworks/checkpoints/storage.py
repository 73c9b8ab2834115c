"""Safetensors files: headers checked before they are believed, tensors read piece by piece."""

import json
import math
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from subnetworks.errors import UserError

# Bytes an entry takes, by the format's own names.
ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_MAX_HEADER = 100_000_000  # the format's own limit


class File:
    """An open safetensors file, read with `pread`: nothing is mapped, so memory stays small."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Without O_NONBLOCK a pipe of that name would be waited for.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor: int | None = os.open(path, flags)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened ({error.strerror})") from error
        facts = os.fstat(self._descriptor)
        if not stat.S_ISREG(facts.st_mode):
            self.close()
            raise UserError(f"{path}: not a regular file; refused")
        self.size = facts.st_size

    def read_into(self, buffer: Any, offset: int) -> None:
        """Fill `buffer` (any writable contiguous bytes) from byte `offset`."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            if self._descriptor is None:
                raise ValueError(f"{self.path}: read after close")
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise UserError(
                    f"{self.path}: ends early; it was cut while being read: fetch it again"
                )
            done += count

    def fileno(self) -> int:
        """The descriptor, for those who read by themselves."""
        if self._descriptor is None:
            raise ValueError(f"{self.path}: read after close")
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor; closing twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True)
class Span:
    """The reader of a tensor whose data lie in a file as they are, from byte `begin` on."""

    file: File
    begin: int

    def __call__(self, buffer: Any, offset: int) -> None:
        """Fill `buffer` from byte `offset` of the tensor's data."""
        self.file.read_into(buffer, self.begin + offset)


@dataclass(frozen=True)
class Tensor:
    """A stored tensor that is read on demand, in any pieces.

    `reader(buffer, offset)` fills a buffer from a byte offset into the tensor's data. Other
    storages (sparse deltas, shards of a training run) give other readers than a `Span`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    reader: Callable[[Any, int], None]
    source: str

    @cached_property
    def n(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes an entry."""
        return ITEMSIZE[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return self.n * self.itemsize

    def read_into(self, buffer: Any, start: int) -> None:
        """Fill `buffer` with the raw bytes of the entries from flat index `start` (C order)."""
        self.reader(buffer, start * self.itemsize)

    def raw(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Entries start … stop as unsigned integers of the entry's width, flat."""
        stop = self.n if stop is None else stop
        out = np.empty(stop - start, dtype=f"u{self.itemsize}")
        self.read_into(out, start)
        return out

    def rows(self, start: int, stop: int) -> "Tensor":
        """The part along the first axis, as a tensor of its own."""
        stride = math.prod(self.shape[1:]) * self.itemsize
        begin = start * stride
        reader = self.reader
        if isinstance(reader, Span):
            part: Callable[[Any, int], None] = Span(reader.file, reader.begin + begin)
        else:

            def part(buffer: Any, offset: int) -> None:
                reader(buffer, offset + begin)

        return replace(self, shape=(stop - start, *self.shape[1:]), reader=part)


def read_header(file: File) -> tuple[dict[str, Any], int]:
    """The header (checked for sense) and the offset at which the data begins.

    Raises:
        UserError: not a safetensors file, cut short, or with offsets that contradict each other.
    """
    path = file.path
    if file.size < 8:
        raise UserError(f"{path}: only {file.size} bytes, cut short: fetch it again")
    length = bytearray(8)
    file.read_into(length, 0)
    (size,) = struct.unpack("<Q", length)
    damaged = size > min(_MAX_HEADER, file.size - 8)
    if damaged and (length[0] == 0x80 or length[:4] == b"PK\x03\x04"):
        raise UserError(
            f"{path}: a pickle by its first bytes, whatever its name, which can run code; save the "
            "model as safetensors instead"
        )
    if size > _MAX_HEADER:
        raise UserError(
            f"{path}: header of {size} bytes, over the format's limit of {_MAX_HEADER}: "
            "not a safetensors file, or a damaged one"
        )
    if size > file.size - 8:
        raise UserError(
            f"{path}: header of {size} bytes in a file of {file.size}, cut short: fetch it again"
        )
    text = bytearray(size)
    file.read_into(text, 8)
    try:
        header = json.loads(text.decode("utf-8"))
        if not isinstance(header, dict):
            raise TypeError
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: header is not a JSON object: the file is damaged") from error
    _check(header, file, 8 + size)
    return header, 8 + size


def _check(header: dict[str, Any], file: File, data: int) -> None:
    """Every entry well-formed, and together they fill the data exactly."""
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            if not (isinstance(entry, dict) and all(isinstance(v, str) for v in entry.values())):
                raise UserError(
                    f"{file.path}: metadata is not a map from text to text: the file is damaged"
                )
            continue
        try:
            dtype, shape = entry["dtype"], entry["shape"]
            begin, end = entry["data_offsets"]
            numbers = [begin, end, *shape]
            if not all(type(x) is int and x >= 0 for x in numbers):
                raise TypeError
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{file.path}: tensor {name!r}: malformed header entry: the file is damaged"
            ) from error
        if not isinstance(dtype, str) or dtype not in ITEMSIZE:
            raise UserError(
                f"{file.path}: tensor {name!r}: unknown dtype {dtype!r}; "
                f"known: {', '.join(ITEMSIZE)}"
            )
        if end - begin != math.prod(shape) * ITEMSIZE[dtype]:
            raise UserError(
                f"{file.path}: tensor {name!r}: {end - begin} bytes do not hold shape {shape} "
                f"of {dtype}: the file is damaged"
            )
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise UserError(
                f"{file.path}: tensor {name!r}: data overlaps another's or leaves a gap: "
                "the file is damaged"
            )
        position = end
    if data + position != file.size:
        state = "cut short" if data + position > file.size else "longer than its header says"
        raise UserError(
            f"{file.path}: {file.size} bytes, header says {data + position}: {state}; "
            "fetch it again"
        )


def read_tensors(path: Path, prefix: str = "") -> tuple[File, dict[str, Tensor], dict[str, str]]:
    """All tensors of one file by name, and its metadata. Raises `UserError` as `read_header`."""
    file = File(path)
    header, data = read_header(file)
    metadata = header.pop("__metadata__", None) or {}
    tensors = {}
    for name, entry in header.items():
        reader = Span(file, data + entry["data_offsets"][0])
        tensors[prefix + name] = Tensor(
            prefix + name, entry["dtype"], tuple(entry["shape"]), reader, str(path)
        )
    return file, tensors, metadata
