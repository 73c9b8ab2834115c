"""Number formats of weights: bits to float32, float32 to bits, and which format is narrower."""

from functools import cache

import numpy as np

FLOATS = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "BF16", "F16", "F32", "F64")
# Bits of a value without its sign, where counting representable values between two makes sense.
MAGNITUDE = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7F, "BF16": 0x7FFF, "F16": 0x7FFF, "F32": 0x7FFFFFFF}
# Fewer significant bits first; F64 is compared as F32.
_NARROWEST = ("F8_E8M0", "F8_E5M2", "F8_E4M3", "BF16", "F16", "F32")


def narrower(first: str, second: str) -> str:
    """The dtype in which values of two dtypes are compared: the one with fewer significant bits."""
    first, second = ("F32" if d == "F64" else d for d in (first, second))
    return min(first, second, key=_NARROWEST.index)


@cache
def _table(dtype: str) -> np.ndarray:
    """The 256 values of an 8-bit format (OCP: E4M3 has no infinities, E8M0 is a power of two)."""
    code = np.arange(256)
    if dtype == "F8_E5M2":
        return (code.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if dtype == "F8_E8M0":
        with np.errstate(over="ignore"):
            return np.where(code == 255, np.nan, np.ldexp(1.0, code - 127)).astype(np.float32)
    exponent, fraction = (code >> 3) & 15, code & 7
    magnitude = np.where(
        exponent == 0, np.ldexp(fraction, -9), np.ldexp(8 + fraction, exponent - 10)
    )
    magnitude = np.where((code & 0x7F) == 0x7F, np.nan, magnitude)
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32)


def decode(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values of unsigned integers that are bits of `dtype` (F64 is rounded)."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F32":
        return bits.view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    if dtype == "F64":
        with np.errstate(over="ignore"):
            return bits.view(np.float64).astype(np.float32)
    return _table(dtype)[bits]


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Bits of float32 values in `dtype`, rounded to nearest, ties to even; NaN stays NaN."""
    if dtype == "F32":
        return np.ascontiguousarray(values).view(np.uint32)
    if dtype == "BF16":
        wide = np.ascontiguousarray(values).view(np.uint32)
        rounded = (wide + (0x7FFF + ((wide >> 16) & 1))) >> 16
        quiet = (wide >> 16) | 0x40
        return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    return _encode_byte(values, dtype)


def _encode_byte(values: np.ndarray, dtype: str) -> np.ndarray:
    """By search in the format's values.

    What is too large becomes infinity or, in a format without, the largest number (as in torch).
    """
    table = _table(dtype)[: 256 if dtype == "F8_E8M0" else 128]
    finite = table[np.isfinite(table)].astype(np.float64)
    middles = (finite[1:] + finite[:-1]) / 2
    with np.errstate(invalid="ignore"):  # signalling NaN
        size = np.abs(values.astype(np.float64))
    code = np.searchsorted(middles, size)
    # searchsorted sends a tie to the lower code; it belongs to the even one.
    tie = (code < middles.size) & (size == middles[np.minimum(code, middles.size - 1)])
    code = code + (tie & (code % 2 == 1))
    beyond = size >= finite[-1] + (finite[-1] - finite[-2]) / 2
    special = 0x7C if dtype == "F8_E5M2" else table.size - 2
    code = np.where(beyond, special, code)
    code = np.where(np.isnan(values), table.size - 1, code)
    if dtype != "F8_E8M0":
        code = code | (np.signbit(values).astype(code.dtype) << 7)
    return code.astype(np.uint8)


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values rounded to `dtype`, as float32."""
    return values if dtype == "F32" else decode(encode(values, dtype), dtype)
