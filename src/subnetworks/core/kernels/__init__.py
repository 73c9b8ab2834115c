"""Compiled kernels, called with NumPy arrays; all of them let go of Python's lock.

They are written in Python (`source`), translated by Numba on first use, and the machine code is
kept in a cache folder (`SUBNETWORKS_CACHE`, or `subnetworks` in the user's cache folder). Loading
it needs LLVM's small loader only, not Numba, whose import alone takes longer than measuring a
gigabyte.

Where that is not possible (no Numba, or LLVM does not know the processor) NumPy counts the same,
`portable`; `SUBNETWORKS_KERNELS=numpy` asks for it, `compiled` refuses it.

What the lines of LLVM's own language earn, on one core of an Intel Xeon (seconds of the processor,
side by side, 34 million pairs of which 20 % moved, all default rules, mask and fingerprints): with
AVX-512 4.0 GB/s, loops in plain Numba 4.7 times as long; with AVX2 2.7 GB/s and 3.2 times. Without
`tally` they take 1.2 times as long (AVX2: 1.1), without `_compress` 1.4; `_reorder` is newer:
without it AVX2 takes 1.2 times as long.
"""

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from subnetworks.core.errors import UserError
from subnetworks.core.files import atomic_path
from subnetworks.core.kernels import portable, processor
from subnetworks.core.kernels.layout import (
    BF16,
    CODES,
    E4M3,
    E5M2,
    EXPONENTS,
    GRID,
    SCRATCH,
    STEP_BINS,
    TOLERANCES,
)

# Called by Numba's code only where memory is owned or an error raised, which never happens here.
_UNUSED = (
    "NRT_Free",
    "NRT_MemInfo_call_dtor",
    "numba_do_raise",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_runtime_build_excinfo_struct",
    "numba_unpickle",
)
_POINTER, _INT, _FLOAT, _U64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint64
_P, _I, _F = _POINTER, _INT, _FLOAT
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "count_bf16": (
        None,
        [
            *(_P, _P, _I),
            *(_P, _I, _I, _I, _I, _F, _P, _I, _P, _P, _P, _P),
        ],
    ),
    "stream_bf16": (
        _INT,
        [
            *[_I, _I, _P, _I, _P] * 2,
            *(_I, _I, _I),
            *(_P, _I, _I, _I, _I, _F, _P, _I, _P, _P, _P, _P),
        ],
    ),
    "count_any": (
        None,
        [_P, _P, _P, _P, _P, _P, _I, _U64, _P, _I, _I, _I, _I, _F, _P, _I, _P, _P, _P],
    ),
    "dequantise": (None, [_P, _I, _I, _P, _P, _I, _I, _P]),
    "stream_codes": (
        _INT,
        [
            *[_I, _I, _P, _I, _P, _I, _P, _P, _I, _P] * 2,
            *(_I, _I, _I, _I, _P, _I),
            *(_P, _I, _I, _I, _I, _F, _P, _I, _P, _P, _P, _P),
        ],
    ),
    "count_codes": (None, [_P, _P, _I, _P]),
    "settle_codes": (None, [_P, _P, _U64, _P, _I, _I, _I, _I, _F, _P, _P, _P]),
    "fingerprint": (_U64, [_P, _I]),
    "count_masks": (None, [_P, _P, _I, _P]),
    "stream_masks": (_INT, [_I, _I, _I, _I, _I, _I, _P, _I, _P, _I, _P]),
    "count_masks_by_exponent": (None, [_P, _P, _P, _I, _P]),
    "multiply": (None, [_P, _P, _I, _I, _I, _P]),
}
# Entries of bfloat16 that a chunk has a multiple of: as many as there are keys for.
_CHUNK = 4096

_NO_GRID = np.zeros(GRID, np.int64)


def _at(array: np.ndarray) -> int:
    """The address of an array's data; `array.ctypes` takes longer than a kernel's call."""
    return int(array.__array_interface__["data"][0])


@dataclass(frozen=True)
class Rule:
    """Bounds of all rules (float32), and how the mask is chosen.

    Attributes:
        bounds: those of `isclose_bf16`, then of `absolute`, then of `relative`.
        close, absolute, relative: how many of each.
        select, bound: the mask's rule (`layout.SELECT_…`) and its float32 bound.
    """

    bounds: np.ndarray
    close: int
    absolute: int
    relative: int
    select: int
    bound: float

    @cached_property
    def _arguments(self) -> tuple[Any, ...]:
        numbers = (self.close, self.absolute, self.relative, self.select, self.bound)
        return (_at(self.bounds), *numbers)


class Counts:
    """What one pair of tensors, or a part of one, is counted into (int64 throughout).

    Attributes:
        counts: by rule, in the order of `layout`, then by tolerance.
        steps: entries by ulp steps.
        exponents: (2, 256), entries and changed entries by the exponent of the weight before.
    """

    def __init__(self, tolerances: int) -> None:
        self.counts = np.zeros(TOLERANCES + tolerances, np.int64)
        self.steps = np.zeros(STEP_BINS, np.int64)
        self.exponents = np.zeros((2, EXPONENTS), np.int64)
        self._arguments = _at(self.counts), _at(self.steps), _at(self.exponents)

    def add(self, other: "Counts") -> None:
        """Add another's counts."""
        self.counts += other.counts
        self.steps += other.steps
        self.exponents += other.exponents


def _cache_folder() -> Path:
    if folder := os.environ.get("SUBNETWORKS_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subnetworks"


def _key(llvm: Any) -> str:
    """What the machine code depends on: the sources, the compiler, the processor."""
    from importlib.util import find_spec

    folder = Path(__file__).parent
    parts = [
        (folder / f"{m}.py").read_bytes()
        for m in ("source", "vectors", "codes", "layout", "keys", "compiling")
    ]
    for name in ("numba", "llvmlite"):
        spec = find_spec(name)  # found, not imported
        if spec is None or spec.origin is None:
            raise ImportError(f"{name} is not installed", name=name)
        parts.append(Path(spec.origin).with_name("_version.py").read_bytes())
    parts += [processor.name(llvm).encode(), processor.features(llvm).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _object(llvm: Any) -> tuple[bytes, dict[str, str]]:
    """The machine code and its symbols, from the cache if it is there."""
    path = _cache_folder() / f"kernels-{_key(llvm)}.o"
    try:
        content = path.read_bytes()
        digest, head, code = content.split(b"\n", 2)
        if hashlib.sha256(head + b"\n" + code).hexdigest().encode() == digest:
            return code, json.loads(head)
    except (OSError, ValueError):
        pass
    from subnetworks.core.kernels.compiling import compile_object

    code, symbols = compile_object()
    head = json.dumps(symbols).encode()
    digest = hashlib.sha256(head + b"\n" + code).hexdigest().encode()
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"\n".join((digest, head, code)))
    except OSError:
        pass  # A cache that cannot be written costs time only.
    return code, symbols


@cache
def _functions() -> dict[str, Any] | None:
    """The compiled kernels; None if NumPy is to do their work."""
    way = os.environ.get("SUBNETWORKS_KERNELS") or "auto"
    if way not in ("auto", "compiled", "numpy"):
        raise UserError(f"SUBNETWORKS_KERNELS={way}: expected auto, compiled or numpy")
    if way == "numpy":
        return None
    try:
        return _compiled()
    except (ImportError, OSError, RuntimeError) as error:
        ours = isinstance(error, ImportError) and (error.name or "").startswith("subnetworks")
        if way == "compiled" or ours:
            raise
        print(
            f"subnetworks: no compiled kernels here ({' '.join(str(error).split())}); counting "
            "with NumPy, about fifty times slower",
            file=sys.stderr,
        )
        return None


def _compiled() -> dict[str, Any]:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    code, symbols = _object(llvm)
    abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for name in _UNUSED:
        if not llvm.address_of_symbol(name):
            llvm.add_symbol(name, abort)
    target = llvm.Target.from_default_triple().create_target_machine(
        codemodel="jitdefault", jit=True
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    found: dict[str, Any] = {"engine": engine}
    for name, (result, arguments) in _SIGNATURES.items():
        address = engine.get_function_address(symbols[name])
        found[name] = ctypes.CFUNCTYPE(result, *arguments)(address)
    return found


def prepare() -> None:
    """Compile or load now, rather than in the first of several threads."""
    _functions()


def _aligned(size: int) -> np.ndarray:
    """Zeros (uint8) that begin where a vector may."""
    room = np.zeros(size + 64, np.uint8)
    return room[-_at(room) % 64 :][:size]


def scratch() -> np.ndarray:
    """Working space for `count_bf16`; one per thread."""
    return _aligned(SCRATCH)


def _mask(mask: np.ndarray | None, n: int) -> tuple[int, int]:
    if mask is None:
        return 0, 0
    assert mask.dtype == np.uint8 and mask.flags.c_contiguous and mask.size == (n + 7) // 8
    return _at(mask), 1


def _check(dtype: str, *arrays: np.ndarray) -> None:
    for array in arrays:
        assert array.dtype == dtype and array.flags.c_contiguous and array.size == arrays[0].size


def count_bf16(
    a: np.ndarray,
    b: np.ndarray,
    rule: Rule,
    mask: np.ndarray | None,
    counts: Counts,
    space: np.ndarray,
) -> None:
    """Count a piece of bfloat16 entries, given as uint16; fill its packed mask, if one is given.

    Args:
        a, b: the entries before and after.
        rule, mask, counts: what to count, and where to.
        space: as `scratch` gives it.
    """
    _check("uint16", a, b)
    at, masked = _mask(mask, a.size)
    if (functions := _functions()) is None:
        return portable.count_bf16(a, b, rule, mask, counts)
    functions["count_bf16"](
        _at(a), _at(b), a.size, *rule._arguments, at, masked, *counts._arguments, _at(space)
    )


@dataclass(frozen=True)
class Side:
    """One side of what is streamed.

    Attributes:
        descriptor, offset: a file's, and that of the first entry in bytes.
        buffer: uint8, `2 * chunk` at least.
        hashes: where each chunk's fingerprint goes (uint64), if it is wanted.
    """

    descriptor: int
    offset: int
    buffer: np.ndarray
    hashes: np.ndarray | None


def _sides(n: int, chunk: int, before: Side, after: Side) -> tuple[int, list[list[int]]]:
    """Which sides are hashed, as bits, and of each: file, offset, buffer, address, hashes."""
    _check("uint8", before.buffer, after.buffer)
    assert before.buffer.size >= 2 * chunk and chunk % _CHUNK == 0
    hashed, sides = 0, []
    for k, side in enumerate((before, after)):
        if side.hashes is not None:
            assert side.hashes.dtype == np.uint64 and side.hashes.size == -(-n // chunk)
            hashed |= 1 << k
        buffer, hashes = _at(side.buffer), 0 if side.hashes is None else _at(side.hashes)
        sides.append([side.descriptor, side.offset, buffer, buffer, hashes])
    return hashed, sides


def stream_bf16(
    before: Side,
    after: Side,
    n: int,
    chunk: int,
    rule: Rule,
    mask: np.ndarray | None,
    counts: Counts,
    space: np.ndarray,
) -> int:
    """Read n bfloat16 entries of each side, chunk by chunk, and hash and count them.

    Args:
        before, after: each side.
        chunk: entries read at a time; a multiple of 4096.
        rule, mask, counts, space: as for `count_bf16`.

    Returns:
        How many entries were read: fewer than n if a file ends early or cannot be read here, and
        then `counts` are of no use.
    """
    if (functions := _functions()) is None:
        return 0
    hashed, (first, second) = _sides(n, chunk, before, after)
    at, masked = _mask(mask, n)
    return int(
        functions["stream_bf16"](
            *first, *second, hashed, n, chunk,
            *rule._arguments, at, masked, *counts._arguments, _at(space),
        )
    )  # fmt: skip


def count_any(
    bits: tuple[np.ndarray, np.ndarray],
    values: tuple[np.ndarray, np.ndarray],
    rounded: tuple[np.ndarray, np.ndarray],
    magnitude: int,
    rule: Rule,
    mask: np.ndarray | None,
    counts: Counts,
) -> None:
    """Count a piece of entries of any dtype, each argument before and after.

    Args:
        bits: the entries' bits, uint32.
        values: their values, float32.
        rounded: their values rounded to bfloat16, float32.
        magnitude: the bits of an entry without its sign; 0 if ulp steps have no meaning.
        rule, mask, counts: as for `count_bf16`.
    """
    _check("uint32", *bits)
    _check("float32", *values, *rounded)
    at, masked = _mask(mask, bits[0].size)
    if (functions := _functions()) is None:
        return portable.count_any(bits, values, rounded, magnitude, rule, mask, counts)
    pointers = [_at(array) for array in (*bits, *values, *rounded)]
    functions["count_any"](
        *pointers, bits[0].size, magnitude, *rule._arguments, at, masked, *counts._arguments
    )


@dataclass(frozen=True)
class Scales:
    """Which scale belongs to which of some FP8 codes.

    Attributes:
        shape: rows and columns of each of the matrices that follow one another.
        steps: rows and columns that share a scale.
        shared: whether all matrices have the same scales.
        factors: float32, lines of scales (one per row of blocks) from line `first` on.
        e5m2: whether the codes are of E5M2, else of E4M3.
    """

    shape: tuple[int, int]
    steps: tuple[int, int]
    shared: bool
    factors: np.ndarray
    first: int
    e5m2: bool

    @cached_property
    def _grid(self) -> np.ndarray:
        cells = [-(-size // step) for size, step in zip(self.shape, self.steps, strict=True)]
        _check("float32", self.factors)
        assert self.factors.size % cells[1] == 0
        return np.array([*self.shape, *self.steps, *cells, self.shared, self.first], np.int64)


def dequantise(codes: np.ndarray, start: int, scales: Scales, out: np.ndarray) -> bool:
    """Multiply FP8 codes by their scales, in float32, and round to bfloat16.

    False, and nothing, where there are no compiled kernels.

    Args:
        codes: uint8; the entries from flat index `start` on.
        scales: those of the codes.
        out: uint16, the bits of the weights.
    """
    _check("uint8", codes)
    _check("uint16", out)
    assert codes.size == out.size
    if (functions := _functions()) is None:
        return False
    functions["dequantise"](
        _at(codes), codes.size, start, _at(scales._grid), _at(scales.factors),
        scales.factors.size, scales.e5m2, _at(out),
    )  # fmt: skip
    return True


def stream_codes(
    before: Side,
    after: Side,
    scales: Sequence[Scales | None],
    start: int,
    n: int,
    chunk: int,
    table: np.ndarray | None,
    rule: Rule,
    mask: np.ndarray | None,
    counts: Counts,
    space: np.ndarray,
) -> int:
    """Read, hash, decode and count n weights that are FP8, on one side at least.

    Args:
        before, after, rule, mask, counts, space: as for `stream_bf16`.
        scales: of each side those of its codes; None: it is bfloat16.
        start: the flat index of the first entry.
        chunk: entries read at a time; a multiple of 4096.
        table: as for `count_codes`, where pairs of codes are to be counted, too.

    Returns:
        How many entries were read, as `stream_bf16`; then `table` is of no use, either.
    """
    if (functions := _functions()) is None:
        return 0
    hashed, sides = _sides(n, chunk, before, after)
    made = np.empty((2, chunk), np.uint16)
    for side, one, room in zip(sides, scales, made, strict=True):
        if one is None:
            side += [BF16, _at(_NO_GRID), 0, 0, 0]
        else:
            kind, factors = E5M2 if one.e5m2 else E4M3, one.factors
            side += [kind, _at(one._grid), _at(factors), factors.size, _at(room)]
    at, masked = _mask(mask, n)
    return int(
        functions["stream_codes"](
            *sides[0], *sides[1], start, n, chunk, hashed,
            *((0, 0) if table is None else (_at(table), 1)),
            *rule._arguments, at, masked, *counts._arguments, _at(space),
        )
    )  # fmt: skip


def count_codes(a: np.ndarray, b: np.ndarray, table: np.ndarray) -> bool:
    """Add to `table` (uint32, 256 x 256) how often each code before (uint8) meets each after.

    False, and nothing, where there are no compiled kernels.
    """
    _check("uint8", a, b)
    _check("uint32", table)
    assert table.size == CODES * CODES
    if (functions := _functions()) is None:
        return False
    functions["count_codes"](_at(a), _at(b), a.size, _at(table))
    return True


def settle_codes(
    table: np.ndarray, values: np.ndarray, magnitude: int, rule: Rule, counts: Counts
) -> None:
    """Count as `count_any` what `count_codes` has gathered, and clear the table.

    Args:
        table: as for `count_codes`.
        values: the float32 value of each code; all of them bfloat16, too.
        magnitude, rule, counts: as for `count_any`.
    """
    _check("uint32", table)
    _check("float32", values)
    assert table.size == CODES * CODES and values.size == CODES
    if (functions := _functions()) is not None:
        functions["settle_codes"](
            _at(table), _at(values), magnitude, *rule._arguments, *counts._arguments
        )


def fingerprint(words: np.ndarray) -> int:
    """A 64-bit hash of uint64 words.

    A change goes unseen with a chance of about 2⁻³²; it is no protection against forgery.
    """
    _check("uint64", words)
    if (functions := _functions()) is None:
        return portable.fingerprint(words)
    return int(functions["fingerprint"](_at(words), words.size))


def count_masks(first: np.ndarray, second: np.ndarray, result: np.ndarray) -> None:
    """Add to `result` (int64, 3) the set bits of the first, the second, both (uint64 words)."""
    _check("uint64", first, second)
    if (functions := _functions()) is None:
        return portable.count_masks(first, second, result)
    functions["count_masks"](_at(first), _at(second), first.size, _at(result))


def stream_masks(
    first: tuple[int, int],
    second: tuple[int, int],
    n: int,
    buffers: Sequence[np.ndarray],
    result: np.ndarray,
) -> int:
    """Read n bytes of two masks, piece by piece, and count as `count_masks`.

    Args:
        first, second: a file's descriptor, and the offset of the first byte.
        buffers: two of uint8 and one size, a multiple of 8: a piece.

    Returns:
        How many bytes were read, as `stream_bf16`.
    """
    _check("uint8", *buffers)
    assert buffers[0].size % 8 == 0
    if (functions := _functions()) is None:
        return 0
    spaces = [address for buffer in buffers for address in [_at(buffer)] * 2]
    return int(functions["stream_masks"](*first, *second, n, buffers[0].size, *spaces, _at(result)))


def count_masks_by_exponent(
    first: np.ndarray, second: np.ndarray, values: np.ndarray, table: np.ndarray
) -> None:
    """Add to `table` (int64, 4 × 256) by exponent: entries, in the first, in the second, in both.

    The masks are packed uint8, the values float32 given as uint32.
    """
    _check("uint8", first, second)
    _check("uint32", values)
    assert first.size == (values.size + 7) // 8 and table.size == 4 * EXPONENTS
    if (functions := _functions()) is None:
        return portable.count_masks_by_exponent(first, second, values, table)
    functions["count_masks_by_exponent"](
        _at(first), _at(second), _at(values), values.size, _at(table)
    )


def multiply(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Write left (n, r) times right (r, m) to `out` (n, m), all float32.

    Each sum is taken from the first to the last by fused multiply-add, so that every processor
    gives the same; libraries of linear algebra sum as suits the processor. MKL, on a CPU PyTorch's,
    sums in this order up to r = 128 at least.
    """
    for array in (left, right, out):
        assert array.dtype == np.float32 and array.flags.c_contiguous
    (rows, inner), columns = left.shape, right.shape[1]
    assert right.shape[0] == inner and out.shape == (rows, columns)
    if (functions := _functions()) is None:
        return portable.multiply(left, right, out)
    functions["multiply"](_at(left), _at(right), rows, inner, columns, _at(out))
