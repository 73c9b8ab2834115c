"""Files read with `pread`, and the tensors in them, read piece by piece."""

import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from subnetworks.core.errors import UserError

# Bytes an entry takes, by safetensors' names of dtypes, which all formats are given in.
ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
# Entries compared at a time.
_PIECE = 1 << 20
# Bytes read at once: macOS refuses 2 GiB and more.
_MOST = 1 << 30


class File:
    """An open file, read with `pread`: nothing is mapped, so memory stays small."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        try:
            # Without O_NONBLOCK a pipe of that name would be waited for.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(path, flags)
        except OSError as error:
            if path.is_symlink() and not path.exists():
                raise UserError(
                    f"{path}: a link to {os.readlink(path)}, which is not there: fetch it again, "
                    "or copy folders of the Hub's cache with what their links point to (cp -L)"
                ) from error
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
            count = _read(self._descriptor, view[done : done + _MOST], offset + done)
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


def _read(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill as much of `view` as one call does; returns how many bytes."""
    if hasattr(os, "preadv"):  # which an old macOS lacks
        return os.preadv(descriptor, [view], offset)
    content = os.pread(descriptor, len(view), offset)
    view[: len(content)] = content
    return len(content)


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


def same_content(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are alike in dtype, shape and every bit."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    for start in range(0, first.n, _PIECE):
        stop = min(start + _PIECE, first.n)
        if not np.array_equal(first.raw(start, stop), second.raw(start, stop)):
            return False
    return True
