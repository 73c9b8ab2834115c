"""Patches: decoded by other means than their own, and applied, they give the new bits."""

import struct

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import pyarrow

from subnetworks.measuring.patches import ENCODINGS, PIECE

SHARES = (0.0, 1e-5, 0.01, 0.3, 1.0)


def pair(n, share, seed=0):
    """Bits before and after, of which about a share differs."""
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    step = rng.integers(1, 1 << 16, n, dtype=np.uint16)
    return old, np.where(rng.random(n) < share, old + step, old).astype(np.uint16)


def numbers(code):
    """LEB128 as its definition has it, a byte at a time."""
    found, value, shift = [], 0, 0
    for byte in code:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value)
            value = shift = 0
    assert shift == 0
    return found


def unzipped(code):
    """What a compressed patch holds, by a decoder that is not told its length."""
    plain = pyarrow.input_stream(pyarrow.py_buffer(code[4:]), compression="zstd").read()
    assert struct.unpack("<I", code[:4]) == (len(plain),)
    return plain


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("n", [1, 7, 8, 1000, 40_001])
def test_a_patch_gives_the_new_bits(name, share, n):
    old, new = pair(n, share)
    kept = old.copy()
    encoding = ENCODINGS[name]
    assert np.array_equal(encoding.decode(encoding.encode(old, new), old), new)
    assert np.array_equal(old, kept)


@pytest.mark.parametrize("where", [(0,), (PIECE - 1,), (5, 132, 133, 16_518, 2_113_671, PIECE - 1)])
def test_gaps_of_every_length(where):
    """One to four bytes a gap, at both ends of what each can hold."""
    old = np.zeros(PIECE, np.uint16)
    new = old.copy()
    new[list(where)] = 7
    for name in ("indices", "gaps", "gaps_zstd", "bitmap"):
        encoding = ENCODINGS[name]
        assert np.array_equal(encoding.decode(encoding.encode(old, new), old), new), name
    code = ENCODINGS["gaps"].encode(old, new)
    assert numbers(code[4 : -2 * len(where)]) == list(np.diff(where, prepend=-1) - 1)


@pytest.mark.parametrize("share", SHARES)
def test_what_is_in_a_patch(share):
    n = 40_001
    old, new = pair(n, share, seed=1)
    where = [k for k in range(n) if old[k] != new[k]]
    values = b"".join(struct.pack("<H", new[k]) for k in where)
    count = struct.pack("<I", len(where))
    coded = {name: encoding.encode(old, new) for name, encoding in ENCODINGS.items()}
    assert coded["indices"] == count + struct.pack(f"<{len(where)}i", *where) + values
    assert coded["gaps"][:4] == count
    assert coded["gaps"].endswith(values)
    gaps = numbers(coded["gaps"][4 : len(coded["gaps"]) - len(values)])
    assert gaps == [b - a - 1 for a, b in zip([-1, *where], where, strict=False)]
    bits = sum(1 << k for k in where).to_bytes((n + 7) // 8, "little")
    assert coded["bitmap"] == bits + values
    assert unzipped(coded["gaps_zstd"]) == coded["gaps"]
    xor = np.frombuffer(unzipped(coded["xor_zstd"]), "<u2")
    assert np.array_equal(xor ^ old, new)
