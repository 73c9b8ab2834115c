"""The kernels by NumPy alone: the same counts, on any processor, about fifty times slower."""

from typing import TYPE_CHECKING

import numpy as np

from subnetworks.core.kernels.layout import (
    BIT_EQUAL,
    EQUAL,
    EXPONENTS,
    INF_AFTER,
    INF_BEFORE,
    NAN_AFTER,
    NAN_BEFORE,
    NONFINITE,
    NONFINITE_BIT_EQUAL,
    SELECT_ABSOLUTE,
    SELECT_BITS,
    SELECT_CLOSE,
    SELECTED,
    STEP_BINS,
    TOLERANCES,
)

if TYPE_CHECKING:
    from subnetworks.core.kernels import Counts, Rule

Arrays = tuple[np.ndarray, np.ndarray]
# The largest number of ulp steps of each bin.
_REACHES = np.array([0, *(1 << k for k in range(STEP_BINS - 2))])
_HALF, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_SEED, _FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


def count_any(
    bits: Arrays,
    values: Arrays,
    rounded: Arrays,
    magnitude: int,
    rule: "Rule",
    mask: np.ndarray | None,
    counts: "Counts",
) -> None:
    """As `kernels.count_any`."""
    (p, q), (f, g) = bits, values
    close, absolute = rule.close, rule.close + rule.absolute
    with np.errstate(invalid="ignore", over="ignore"):
        same = p == q
        finite = np.isfinite(f) & np.isfinite(g)
        difference = np.abs(g - f)
        difference_bf16 = np.abs(rounded[1] - rounded[0])
        larger = np.maximum(np.abs(f), np.abs(g))
        equal = finite & (difference == 0)
        within = [
            *(difference_bf16 <= bound for bound in rule.bounds[:close]),
            *(difference <= bound for bound in rule.bounds[close:absolute]),
            *(difference <= bound * larger for bound in rule.bounds[absolute:]),
        ]
        bound = np.float32(rule.bound)
        if rule.select == SELECT_BITS:
            kept = same
        elif rule.select == SELECT_CLOSE:
            kept = finite & (difference_bf16 <= bound)
        elif rule.select == SELECT_ABSOLUTE:
            kept = finite & (difference <= bound)
        else:
            kept = finite & (difference <= bound * larger)
    sums = {
        BIT_EQUAL: same,
        EQUAL: equal,
        SELECTED: ~kept,
        NAN_BEFORE: np.isnan(f),
        NAN_AFTER: np.isnan(g),
        INF_BEFORE: np.isinf(f),
        INF_AFTER: np.isinf(g),
        NONFINITE: ~finite,
        NONFINITE_BIT_EQUAL: same & ~finite,
        **{TOLERANCES + k: finite & held for k, held in enumerate(within)},
    }
    for place, held in sums.items():
        counts.counts[place] += np.count_nonzero(held)
    if magnitude:
        wide = [side.astype(np.int64) for side in bits]
        signed = [np.where(s > magnitude, -(s & magnitude), s & magnitude) for s in wide]
        steps = np.abs(signed[1] - signed[0])[finite]
        counts.steps += np.bincount(np.searchsorted(_REACHES, steps), minlength=STEP_BINS)
    exponents = (np.ascontiguousarray(f).view(np.uint32) >> np.uint32(23)) & np.uint32(0xFF)
    counts.exponents[0] += np.bincount(exponents, minlength=EXPONENTS)
    counts.exponents[1] += np.bincount(exponents[~equal], minlength=EXPONENTS)
    if mask is not None:
        mask[:] = np.packbits(~kept, bitorder="little")


def count_bf16(
    a: np.ndarray,
    b: np.ndarray,
    rule: "Rule",
    mask: np.ndarray | None,
    counts: "Counts",
) -> None:
    """As `kernels.count_bf16`."""
    bits = a.astype(np.uint32), b.astype(np.uint32)
    first, second = ((side << np.uint32(16)).view(np.float32) for side in bits)
    count_any(bits, (first, second), (first, second), 0x7FFF, rule, mask, counts)


def multiply(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """As `kernels.multiply`.

    A product of two float32 is exact in float64. That their sum is rounded to float64 before it is
    to float32 matters in one of 2²⁹ cases.
    """
    out[:] = 0
    for column, row in zip(left.T, right.astype(np.float64), strict=True):
        out[:] = column[:, np.newaxis] * row + out


def fingerprint(words: np.ndarray) -> int:
    """As `kernels.fingerprint`."""
    from subnetworks.core.kernels.keys import KEYS

    state = _SEED
    with np.errstate(over="ignore"):
        for start in range(0, words.size, KEYS.size):
            block = words[start : start + KEYS.size]
            key = KEYS[: block.size]
            low = (block + key) & _HALF
            high = ((block >> _SHIFT) + (key >> _SHIFT)) & _HALF
            state = (state ^ (low * high).sum(dtype=np.uint64)) * _FACTOR
            state ^= state >> _SHIFT
    return int(state)


def count_masks(first: np.ndarray, second: np.ndarray, result: np.ndarray) -> None:
    """As `kernels.count_masks`."""
    for k, words in enumerate((first, second, first & second)):
        result[k] += int(np.bitwise_count(words).sum())


def count_masks_by_exponent(
    first: np.ndarray, second: np.ndarray, values: np.ndarray, table: np.ndarray
) -> None:
    """As `kernels.count_masks_by_exponent`."""
    exponents = (values >> np.uint32(23)) & np.uint32(0xFF)
    one, two = (
        np.unpackbits(mask, count=values.size, bitorder="little").astype(bool)
        for mask in (first, second)
    )
    rows = table.reshape(4, EXPONENTS)
    for row, chosen in zip(rows, (slice(None), one, two, one & two), strict=True):
        row += np.bincount(exponents[chosen], minlength=EXPONENTS)
