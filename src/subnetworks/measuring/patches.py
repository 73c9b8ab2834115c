"""Patches: what turns old bf16 weights into new ones, in the encodings that trainers send.

An encoding is a pair of functions: `encode(old, new)` gives bytes, `decode(code, old)` gives `new`
again, to the bit. Arrays are uint16, flat, of one size of at most `PIECE`: a larger tensor is sent
in pieces, and a piece in which nothing changed is not sent. Numbers are little-endian. Where names,
shapes and sizes are sent, too, they come on top; a whole copy needs them as well.

- `indices`: the number of changed entries (int32), their positions (int32), their new bits, as TRL
  sends them.
- `gaps`: the same, with how many unchanged entries precede each changed one for its position,
  seven bits a byte, lowest first, the highest bit set in all bytes but a number's last (LEB128).
- `gaps_zstd`: `gaps` compressed, as slime does (with gaps of two bytes).
- `bitmap`: one bit an entry, lowest first, and the new bits of the changed ones.
- `xor_zstd`: old xor new of all entries, compressed, as SkyRL does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint16]
PIECE = 1 << 22
"""Entries that are encoded at a time: 8 MiB of a whole copy."""
LEVEL = 3
"""Of zstd; its own default."""
_COUNT = 4


@dataclass(frozen=True)
class Encoding:
    """How a patch is written and read; see the module's text."""

    encode: Callable[[Bits, Bits], bytes]
    decode: Callable[[bytes, Bits], Bits]


@cache
def _zstd() -> Any:
    import pyarrow

    return pyarrow.Codec("zstd", compression_level=LEVEL)


def _compressed(plain: bytes) -> bytes:
    # A frame of zstd need not say how long its content is.
    return len(plain).to_bytes(_COUNT, "little") + _zstd().compress(plain, asbytes=True)


def _plain(code: bytes) -> bytes:
    size = int.from_bytes(code[:_COUNT], "little")
    return bytes(_zstd().decompress(code[_COUNT:], decompressed_size=size, asbytes=True))


def _where(old: Bits, new: Bits) -> NDArray[np.int64]:
    return np.flatnonzero(old != new)


def _values(bits: Bits) -> bytes:
    return bits.astype("<u2").tobytes()


def _changed(old: Bits, where: NDArray[Any], values: bytes) -> Bits:
    new = old.copy()
    new[where] = np.frombuffer(values, "<u2")
    return new


def _counted(where: bytes, values: Bits) -> bytes:
    return values.size.to_bytes(_COUNT, "little") + where + _values(values)


def _as_indices(old: Bits, new: Bits) -> bytes:
    where = _where(old, new)
    return _counted(where.astype("<i4").tobytes(), new[where])


def _of_indices(code: bytes, old: Bits) -> Bits:
    count = int.from_bytes(code[:_COUNT], "little")
    end = _COUNT + 4 * count
    return _changed(old, np.frombuffer(code[_COUNT:end], "<i4"), code[end:])


def _as_gaps(old: Bits, new: Bits) -> bytes:
    where = _where(old, new)
    gaps = np.diff(where, prepend=-1) - 1
    # Bytes of each number, then each byte of it that there is.
    sizes = np.ones(gaps.size, np.int64)
    for further in range(1, 4):
        sizes += gaps >= 1 << (7 * further)
    starts = np.cumsum(sizes) - sizes
    coded = np.empty(int(sizes.sum()), np.uint8)
    for place in range(4):
        has = sizes > place
        more = (sizes[has] > place + 1).astype(np.int64) << 7
        coded[starts[has] + place] = (gaps[has] >> (7 * place)) & 0x7F | more
    return _counted(coded.tobytes(), new[where])


def _of_gaps(code: bytes, old: Bits) -> Bits:
    count = int.from_bytes(code[:_COUNT], "little")
    end = len(code) - 2 * count
    coded = np.frombuffer(code[_COUNT:end], np.uint8)
    last = np.flatnonzero(coded < 0x80)
    first = np.append(0, last[:-1] + 1)[: last.size]
    gaps = np.zeros(last.size, np.int64)
    for place in range(4):
        has = first + place <= last
        gaps[has] += (coded[first[has] + place].astype(np.int64) & 0x7F) << (7 * place)
    return _changed(old, np.cumsum(gaps + 1) - 1, code[end:])


def _as_bitmap(old: Bits, new: Bits) -> bytes:
    differs = old != new
    return np.packbits(differs, bitorder="little").tobytes() + _values(new[differs])


def _of_bitmap(code: bytes, old: Bits) -> Bits:
    end = (old.size + 7) // 8
    bits = np.frombuffer(code[:end], np.uint8)
    where = np.unpackbits(bits, count=old.size, bitorder="little").astype(bool)
    return _changed(old, where, code[end:])


ENCODINGS = {
    "indices": Encoding(_as_indices, _of_indices),
    "gaps": Encoding(_as_gaps, _of_gaps),
    "gaps_zstd": Encoding(
        lambda old, new: _compressed(_as_gaps(old, new)),
        lambda code, old: _of_gaps(_plain(code), old),
    ),
    "bitmap": Encoding(_as_bitmap, _of_bitmap),
    "xor_zstd": Encoding(
        lambda old, new: _compressed(_values(old ^ new)),
        lambda code, old: old ^ np.frombuffer(_plain(code), "<u2"),
    ),
}
"""By name."""
