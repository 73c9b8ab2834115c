"""Compiled loops over FP8 codes: to bfloat16 weights by their scales, and pairs of codes counted.

As in `source`: nothing here allocates, raises or touches a Python object.
"""

# The functions below have no annotations: Numba infers types from the signatures in `EXPORTS`.
# mypy: ignore-errors

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from subnetworks.core.kernels import processor
from subnetworks.core.kernels.layout import BF16, CODES, E5M2, GRID, SCRATCH
from subnetworks.core.kernels.source import (
    _bits_of,
    _count_bf16,
    _count_one,
    _fingerprint,
    _float_of,
    _jit,
    _read,
    _results,
)

_QUIET_NAN = 0x7FC00000
# Whether the processor turns float16 into float32, subnormal numbers at no extra cost.
_HAS_HALF = "+f16c" in processor.features(llvm).split(",")
# Up to here 2⁸ times a scale is a float32, exactly; also false of NaN.
_QUICK = np.float32(2.0**119)


@_jit
def _e4m3(code):
    """The value of an E4M3 code: no infinities, one NaN a sign."""
    size = np.uint32(code) & np.uint32(0x7F)
    sign = (np.uint32(code) & np.uint32(0x80)) << np.uint32(24)
    wide = size << np.uint32(20)
    # Below the smallest normal number, 2⁻⁶, codes are steps of 2⁻⁹, as above it at that exponent.
    small = _float_of(wide + np.uint32(121 << 23)) - np.float32(2.0**-6)
    bits = _bits_of(small) if size < np.uint32(8) else wide + np.uint32(120 << 23)
    bits = np.uint32(_QUIET_NAN) if size == np.uint32(0x7F) else bits
    return _float_of(bits | sign)


@_jit
def _e5m2(code):
    """The value of an E5M2 code: the upper half of a float16."""
    size = np.uint32(code) & np.uint32(0x7F)
    sign = (np.uint32(code) & np.uint32(0x80)) << np.uint32(24)
    wide = size << np.uint32(21)
    small = _float_of(wide + np.uint32(113 << 23)) - np.float32(2.0**-14)
    bits = _bits_of(small) if size < np.uint32(4) else wide + np.uint32(112 << 23)
    special = np.uint32(0x7F800000) | ((size & np.uint32(3)) << np.uint32(21))
    special = special | np.uint32(0x400000) if size > np.uint32(0x7C) else special
    bits = special if size >= np.uint32(0x7C) else bits
    return _float_of(bits | sign)


@_jit
def _product(value, factor):
    """A product as bfloat16, to nearest, ties to even; of two NaN it is the first."""
    product = value * factor
    bits = _bits_of(product if value == value else value)
    up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    number = (bits + up) >> np.uint32(16)
    nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.uint16(number if product == product else nan)


@intrinsic
def _half(_typing, _bits):
    """The float32 value of a float16."""

    def generate(_context, builder, _signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@_jit
def _quick(half, factor):
    """The product of a float16 and a finite factor as bfloat16; its NaN have few bits set."""
    bits = _bits_of(_half(half) * factor)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16)


@_jit
def _scale_e4m3_quickly(codes, start, n, factor, out):
    """As float16 a code has its value by 2⁻⁸ (the factor makes up for that), but for NaN."""
    for i in range(n):
        at = start + np.uint64(i)
        code = np.uint16(codes[at])
        size = np.uint16(code & np.uint16(0x7F))
        bits = np.uint16(0x7E00) if size == np.uint16(0x7F) else np.uint16(size << np.uint16(7))
        sign = np.uint16((code & np.uint16(0x80)) << np.uint16(8))
        out[at] = _quick(np.uint16(bits | sign), factor)


@_jit
def _scale_e5m2_quickly(codes, start, n, factor, out):
    for i in range(n):
        at = start + np.uint64(i)
        out[at] = _quick(np.uint16(np.uint16(codes[at]) << np.uint16(8)), factor)


@_jit
def _scale_plainly(codes, start, n, factor, e5m2, out):
    for i in range(n):
        at = start + np.uint64(i)
        value = _e5m2(codes[at]) if e5m2 else _e4m3(codes[at])
        out[at] = _product(value, factor)


@_jit
def _scale(codes, start, n, factor, e5m2, out):
    """Codes times one scale."""
    if _HAS_HALF and abs(factor) < _QUICK:
        if e5m2:
            _scale_e5m2_quickly(codes, start, n, factor, out)
        else:
            _scale_e4m3_quickly(codes, start, n, factor * np.float32(256), out)
    else:
        _scale_plainly(codes, start, n, factor, e5m2, out)


@_jit
def _scale_each(codes, start, n, factors, first, e5m2, out):
    """The same with a scale for every weight."""
    for i in range(n):
        at = start + np.uint64(i)
        value = _e5m2(codes[at]) if e5m2 else _e4m3(codes[at])
        out[at] = _product(value, factors[first + np.uint64(i)])


@_jit
def _dequantise(codes, start, grid, factors, e5m2, out):
    """Weights of the codes from flat index `start` on, as bfloat16."""
    rows, columns, row_step, column_step, row_cells, column_cells, shared, first = grid
    n = codes.size
    done = 0
    row = start // columns
    column = start - row * columns
    while done < n:
        matrix = row // rows
        line = (row - matrix * rows) // row_step - first
        if not shared:
            line += matrix * row_cells
        stop = min(n, done + columns - column)
        if column_step == 1:
            at = np.uint64(line * column_cells + column)
            _scale_each(codes, np.uint64(done), stop - done, factors, at, e5m2, out)
            done = stop
        else:
            cell = column // column_step
            while done < stop:
                size = min(stop - done, (cell + 1) * column_step - column)
                factor = factors[line * column_cells + cell]
                _scale(codes, np.uint64(done), size, factor, e5m2, out)
                done += size
                column += size
                cell += 1
        row += 1
        column = 0


@_jit
def _grid(grid):
    return grid[0], grid[1], grid[2], grid[3], grid[4], grid[5], grid[6], grid[7]


def dequantise(codes_, n, start, grid_, factors_, n_factors, e5m2, out_):
    """Weights of the codes from flat index `start` on, as bfloat16."""
    grid = _grid(carray(grid_, GRID))
    _dequantise(carray(codes_, n), start, grid, carray(factors_, n_factors), e5m2, carray(out_, n))


@_jit
def _count_codes(a, b, table):
    for i in range(a.size):
        table[np.uint64(a[i]) * np.uint64(CODES) + np.uint64(b[i])] += np.uint32(1)


def count_codes(a_, b_, n, table_):
    """Count in `table` how often each code before meets each code after."""
    _count_codes(carray(a_, n), carray(b_, n), carray(table_, CODES * CODES))


@_jit
def _fingerprint_bytes(raw, size):
    """The fingerprint of `size` bytes, filled up with zeros to whole words."""
    padded = (size + 7) // 8 * 8
    for i in range(size, padded):
        raw[i] = np.uint8(0)
    return _fingerprint(raw[:padded].view(np.uint64))


@_jit
def _weights(raw, kind, size, start, grid, factors, made):
    """What was read as bfloat16: as it is or, of codes, decoded to `made`."""
    if kind == BF16:
        return raw.view(np.uint16)[:size]
    _dequantise(raw[:size], start, grid, factors, kind == E5M2, made[:size])
    return made[:size]


def stream_codes(
    before, before_at, before_, before_address, before_hashes_, before_kind, before_grid_,
    before_factors_, before_n_factors, before_made_,
    after, after_at, after_, after_address, after_hashes_, after_kind, after_grid_,
    after_factors_, after_n_factors, after_made_,
    start, n, chunk, hashed, table_, tabled,
    bounds_, close, absolute, relative, select, bound, mask_, masked,
    counts_, steps_, exponents_, scratch_,
):  # fmt: skip
    """Read FP8 codes (of one side maybe bfloat16) chunk by chunk; hash, decode, count them."""
    bounds = carray(bounds_, close + absolute + relative)
    rule = bounds, close, absolute, relative, select, bound
    mask = carray(mask_, (n + 7) // 8 if masked else 0)
    results = _results(bounds.size, counts_, steps_, exponents_)
    scratch = carray(scratch_, SCRATCH)
    chunks = (n + chunk - 1) // chunk
    before_hashes = carray(before_hashes_, chunks if hashed & 1 else 0)
    after_hashes = carray(after_hashes_, chunks if hashed & 2 else 0)
    unhashed = before_hashes[:0], after_hashes[:0], chunk
    first = carray(before_, 2 * chunk)
    second = carray(after_, 2 * chunk)
    made_first = carray(before_made_, chunk if before_kind else 0)
    made_second = carray(after_made_, chunk if after_kind else 0)
    before_factors = carray(before_factors_, before_n_factors)
    after_factors = carray(after_factors_, after_n_factors)
    before_grid = _grid(carray(before_grid_, GRID))
    after_grid = _grid(carray(after_grid_, GRID))
    table = carray(table_, CODES * CODES if tabled else 0)
    before_width = 1 if before_kind else 2
    after_width = 1 if after_kind else 2
    for k in range(chunks):
        size = min(chunk, n - k * chunk)
        at = k * chunk * before_width
        if not _read(before, before_address, size * before_width, before_at + at):
            return k * chunk
        at = k * chunk * after_width
        if not _read(after, after_address, size * after_width, after_at + at):
            return k * chunk
        if before_hashes.size:
            before_hashes[k] = _fingerprint_bytes(first, size * before_width)
        if after_hashes.size:
            after_hashes[k] = _fingerprint_bytes(second, size * after_width)
        at = start + k * chunk
        p = _weights(first, before_kind, size, at, before_grid, before_factors, made_first)
        q = _weights(second, after_kind, size, at, after_grid, after_factors, made_second)
        if tabled:
            _count_codes(first[:size], second[:size], table)
        _count_bf16(p, q, rule, mask[k * chunk // 8 :], masked, results, scratch, unhashed)
    return n


def settle_codes(
    table_, values_, magnitude, bounds_, close, absolute, relative, select, bound, counts_, steps_,
    exponents_,
):  # fmt: skip
    """Count every pair of codes in `table`, as often as it occurred, and clear the table."""
    table = carray(table_, CODES * CODES)
    values = carray(values_, CODES)
    bounds = carray(bounds_, close + absolute + relative)
    counts, steps, n_by_exponent = _results(bounds.size, counts_, steps_, exponents_)
    none = carray(table_, 0).view(np.uint8)
    for p in range(CODES):
        for q in range(CODES):
            often = np.int64(table[CODES * p + q])
            if often:
                table[CODES * p + q] = np.uint32(0)
                # Values of FP8 are values of bfloat16.
                _count_one(
                    np.uint32(p), np.uint32(q), values[p], values[q], values[p], values[q],
                    magnitude, bounds, close, absolute, relative, select, bound,
                    none, 0, False, counts, steps, n_by_exponent, often,
                )  # fmt: skip


_i, _f = types.int64, types.float32
_u8, _u16, _u32, _u64, _i64, _f32 = (
    types.CPointer(kind)
    for kind in (
        types.uint8, types.uint16, types.uint32, types.uint64, types.int64, types.float32
    )
)  # fmt: skip
_SIDE = _i, _i, _u8, _i, _u64, _i, _i64, _f32, _i, _u16
EXPORTS = {
    dequantise: types.void(_u8, _i, _i, _i64, _f32, _i, _i, _u16),
    stream_codes: _i(
        *_SIDE, *_SIDE, _i, _i, _i, _i, _u32, _i,
        _f32, _i, _i, _i, _i, _f, _u8, _i, _i64, _i64, _i64, _u8,
    ),
    count_codes: types.void(_u8, _u8, _i, _u32),
    settle_codes: types.void(
        _u32, _f32, types.uint64, _f32, _i, _i, _i, _i, _f, _i64, _i64, _i64
    ),
}  # fmt: skip
