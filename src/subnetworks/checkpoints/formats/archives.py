"""What `torch.save` writes since torch 1.6: a zip archive of a pickle and the numbers it names.

Only the archive's own directory is believed, after it has been checked: every file in it is stored
as it is, in one place of its own, and what its place says of it is what the directory says.
"""

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from subnetworks.checkpoints.formats import pickles
from subnetworks.checkpoints.formats.pickles import View
from subnetworks.checkpoints.storage import File, Span, Tensor
from subnetworks.core.errors import UserError

# torch's dtypes by safetensors' names; of others only that there are such tensors is known.
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_DIRECTORY = 32 << 20  # of 60,000 tensors: 6 MB
_END, _END64, _LOCATOR = 0x06054B50, 0x06064B50, 0x07064B50
_CENTRAL, _LOCAL = 0x02014B50, 0x04034B50
_WIDE = 0xFFFFFFFF
# Entries gathered at a time where a tensor does not lie in one piece, and how far apart two may be
# (bytes) to be read together.
_PIECE = 1 << 16
_GAP = 256
_RESAVE = "load it with torch and save its state dict once more, as safetensors"


@dataclass(frozen=True)
class _Entry:
    """A file of the archive: where its content lies."""

    begin: int
    size: int


class Archive:
    """An archive of torch in an open file, or in a part of one.

    Attributes:
        root: the folder in it, which all its files lie in.
        entries: their places in `file`, by their names in that folder.
    """

    def __init__(self, file: File, begin: int = 0, size: int | None = None) -> None:
        """Read the directory of the archive that takes `size` bytes from byte `begin` on.

        Raises:
            UserError: it is none, or damaged, compressed, encrypted, a TorchScript's, or from a
                machine of the other byte order.
        """
        self.file = file
        self._begin = begin
        self._size = file.size - begin if size is None else size
        self._where = f"{file.path}"
        if self._begin < 0 or self._size < 22 or self._begin + self._size > file.size:
            raise self._damaged("too short for an archive")
        try:
            every = self._directory()
        except (struct.error, UnicodeDecodeError) as error:
            raise self._damaged("its directory cannot be read") from error
        roots = sorted(name[: -len("data.pkl")] for name in every if name.endswith("/data.pkl"))
        roots = [root for root in roots if root.count("/") == 1]
        if len(roots) != 1:
            raise UserError(
                f"{self._where}: a zip archive, but not one that torch.save wrote; unpack it, and "
                "name what is in it"
            )
        self.root = roots[0][:-1]
        self.entries = {
            name.removeprefix(roots[0]): entry
            for name, entry in every.items()
            if name.startswith(roots[0])
        }
        if "constants.pkl" in self.entries:
            raise self._script()
        if (order := self.entries.get("byteorder")) and self._content(order, 16) != b"little":
            raise UserError(f"{self._where}: saved on a machine of the other byte order; {_RESAVE}")

    def value(self, records: Collection[str] = ()) -> object:
        """What was saved, as `pickles.read` gives it."""
        content = self._content(self.entries["data.pkl"], pickles.SIZE)
        return pickles.read(content, self._where, records)

    def tensor(self, name: str, view: View) -> Tensor:
        """A tensor of `value()`, to be read on demand; its dtype has to be one of `DTYPES`.

        Raises:
            UserError: its numbers are not in the archive.
        """
        storage = view.storage
        entry = self.entries.get(f"data/{storage.key}")
        size = storage.size * (pickles.ITEMSIZE[storage.dtype] if storage.dtype else 1)
        if entry is None or entry.size != size:
            found = "is not there" if entry is None else f"has {entry.size} bytes, not {size}"
            raise UserError(
                f"{self._where}: tensor {name!r}: its storage {storage.key} {found}: the file is "
                "damaged: fetch it again"
            )
        itemsize = pickles.ITEMSIZE[view.dtype]
        reader: Any = Span(self.file, entry.begin + view.offset * itemsize)
        if not _contiguous(view):
            reader = _Strided(self.file, entry.begin, view, itemsize)
        return Tensor(name, DTYPES[view.dtype], view.shape, reader, str(self.file.path))

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self._where}: {what}: the file is cut short or damaged: fetch it again")

    def _script(self) -> UserError:
        return UserError(
            f"{self._where}: a TorchScript archive, which holds code; save its state dict, "
            "torch.jit.load(FILE).state_dict(), as safetensors"
        )

    def _read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of the archive on."""
        if offset < 0 or size < 0 or offset + size > self._size:
            raise self._damaged("its directory points outside of it")
        buffer = bytearray(size)
        self.file.read_into(buffer, self._begin + offset)
        return bytes(buffer)

    def _content(self, entry: _Entry, most: int) -> bytes:
        if entry.size > most:
            raise UserError(
                f"{self._where}: {entry.size} bytes for what takes a few: the file is damaged, or "
                "no checkpoint"
            )
        return self._read(entry.begin - self._begin, entry.size)

    def _directory(self) -> dict[str, _Entry]:
        """Name → place of all files in the archive."""
        offset, size, count, end = self._bounds()
        if size > _DIRECTORY:
            raise UserError(f"{self._where}: a directory of {size} bytes; no checkpoint has that")
        if offset + size != end:
            raise self._damaged("its directory is not where it says")
        data = self._read(offset, size)
        places: list[tuple[int, int, str]] = []
        entries: dict[str, _Entry] = {}
        place = 0
        while place < size:
            name, local, length, place = self._entry(data, place)
            if name in entries:
                raise self._damaged(f"{name!r} is in it twice")
            begin = self._check_local(name, local, length)
            places.append((local, begin + length, name))
            entries[name] = _Entry(self._begin + begin, length)
        if len(entries) != count:
            raise self._damaged("its directory has not the entries that it should")
        reached = 0
        for first, last, name in sorted(places):
            if first < reached or last > offset:
                raise self._damaged(f"{name!r} overlaps something else in it")
            reached = last
        return entries

    def _bounds(self) -> tuple[int, int, int, int]:
        """Of the directory: offset, bytes, entries, and where what follows it begins."""
        end = self._size - 22
        mark, *disks, count, size, offset, comment = struct.unpack("<IHHHHIIH", self._read(end, 22))
        here, total = disks[2], count
        if mark != _END or comment or any(disks[:2]) or here != total:
            raise self._damaged("no archive's end")
        if end >= 20:
            mark, disk, at, disks_ = struct.unpack("<IIQI", self._read(end - 20, 20))
            if mark == _LOCATOR:
                if disk or disks_ > 1:
                    raise self._damaged("an archive of several parts")
                mark, _, _, _, one, two, here, count, size, offset = struct.unpack(
                    "<IQHHIIQQQQ", self._read(at, 56)
                )
                if mark != _END64 or one or two or here != count or at + 56 != end - 20:
                    raise self._damaged("no archive's end")
                end = at
        return offset, size, count, end

    def _entry(self, data: bytes, place: int) -> tuple[str, int, int, int]:
        """The directory's entry at `place`: name, offset, bytes, and the place of the next."""
        (mark, _, _, flags, method, _, _, _, packed, size, named, extra, comment, disk, _, _,
         offset) = struct.unpack_from("<IHHHHHHIIIHHHHHII", data, place)  # fmt: skip
        body = place + 46
        after = body + named + extra + comment
        if mark != _CENTRAL or disk not in (0, 0xFFFF) or after > len(data):
            raise self._damaged("its directory cannot be read")
        name = data[body : body + named].decode("utf-8")
        if not name.isprintable() or not name:
            raise self._damaged("a file in it has no proper name")
        wide = _wide(data[body + named : body + named + extra], (size, packed, offset))
        if wide is None:
            raise self._damaged(f"{name!r}: its size cannot be read")
        size, packed, offset = wide
        self._require_plain(name, flags, method)
        if size != packed:
            raise self._damaged(f"{name!r} has two sizes")
        return name, offset, size, after

    def _check_local(self, name: str, offset: int, size: int) -> int:
        """Where the content of a file begins whose own header is at `offset`."""
        mark, _, flags, method, _, _, _, packed, plain, named, extra = struct.unpack(
            "<IHHHHHIIIHH", self._read(offset, 30)
        )
        if mark != _LOCAL:
            raise self._damaged(f"{name!r} is not where the directory says")
        own = self._read(offset + 30, named + extra)
        if own[:named].decode("utf-8") != name:
            raise self._damaged(f"{name!r} has another name in its own header")
        self._require_plain(name, flags, method)
        wide = _wide(own[named:], (plain, packed, 0))
        # With bit 3 the sizes follow the content, and may be 0 here.
        if (wide is None or wide[:2] != (size, size)) and not flags & 8:
            raise self._damaged(f"{name!r} has another size in its own header")
        begin = offset + 30 + named + extra
        if begin + size > self._size:
            raise self._damaged(f"{name!r} lies outside of it")
        return begin

    def _require_plain(self, name: str, flags: int, method: int) -> None:
        if name.split("/")[1:2] == ["code"]:
            raise self._script()
        if flags & 0x2041:
            raise UserError(f"{self._where}: {name!r} in it is encrypted; decrypt the archive")
        if method:
            raise UserError(
                f"{self._where}: {name!r} in it is compressed, which torch.save does not do; "
                "unpack it and pack it without (zip -0), or " + _RESAVE
            )


def _wide(extra: bytes, sizes: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Sizes and offset, those that do not fit 32 bits from the extra field; None if not there."""
    if _WIDE not in sizes:
        return sizes
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == 1:
            field = extra[place + 4 : place + 4 + length]
            if len(field) != length or (length % 8 and length % 8 != 4):
                return None
            values = [v for (v,) in struct.iter_unpack("<Q", field[: length // 8 * 8])]
            if len(values) < sizes.count(_WIDE):
                return None
            found = [values.pop(0) if size == _WIDE else size for size in sizes]
            return found[0], found[1], found[2]
        place += 4 + length
    return None


def _contiguous(view: View) -> bool:
    """Whether the entries lie one behind the other in C order."""
    expected = 1
    for size, step in zip(reversed(view.shape), reversed(view.stride), strict=True):
        if size != 1 and step != expected:
            return 0 in view.shape
        expected *= size
    return True


@dataclass(frozen=True)
class _Strided:
    """The reader of a tensor whose entries do not lie in C order: transposed, cut, or repeated."""

    file: File
    begin: int
    view: View
    itemsize: int

    def __call__(self, buffer: Any, offset: int) -> None:
        """Fill `buffer` from byte `offset` of the tensor's data (in C order)."""
        out = np.frombuffer(buffer, dtype=f"u{self.itemsize}")
        start = offset // self.itemsize
        for first in range(0, out.size, _PIECE):
            part = out[first : first + _PIECE]
            self._gather(part, start + first)

    def _gather(self, out: np.ndarray, start: int) -> None:
        """Fill `out` with the entries from flat index `start` on."""
        flat = np.arange(start, start + out.size)
        where = np.full(out.size, self.view.offset, np.int64)
        rest = math.prod(self.view.shape)
        for size, step in zip(self.view.shape, self.view.stride, strict=True):
            rest //= size
            where += flat // rest % size * step
        places, back = np.unique(where, return_inverse=True)
        found = np.empty(places.size, out.dtype)
        apart = max(1, _GAP // self.itemsize)
        cuts = np.flatnonzero(np.diff(places) > apart) + 1
        for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), places.size], strict=True):
            low, high = int(places[a]), int(places[b - 1])
            run = np.empty(high - low + 1, out.dtype)
            self.file.read_into(run, self.begin + low * self.itemsize)
            found[a:b] = run[places[a:b] - low]
        out[:] = found[back]
