"""When two weights count as equal: the rules, each at any list of tolerances."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subnetworks.core.errors import UserError

# The paper's rule and tolerance (Section 2); its Table 6 sweeps the others.
PAPER = "1e-5"
RULES = ("equal", "bit_equal", "isclose_bf16", "absolute", "relative")


@dataclass(frozen=True)
class Rules:
    """Which rules are counted, at which tolerances (kept as written, since they name the counts).

    With Δ = after − before, both cast to the narrower of their dtypes:

    - `equal`: Δ = 0; so +0 equals −0.
    - `bit_equal`: the same bits; so +0 differs from −0, and a NaN equals itself.
    - `isclose_bf16`, t: `torch.isclose(Δ, 0, atol=t)` as the authors' script computes it: both
      values and Δ rounded to bfloat16, and t too (1e-5 becomes 1.0013580e-5).
    - `absolute`, t: |Δ| ≤ t in float32, t rounded to float32.
    - `relative`, η: |Δ| ≤ η·max(|before|, |after|) in float32, η rounded to float32.

    Where either value is NaN or infinite, only `bit_equal` can hold: Δ is then NaN or infinite for
    all other rules (also between equal infinities, as in the authors' script).
    """

    isclose_bf16: tuple[str, ...] = ("1e-8", "1e-7", "1e-6", "1e-5", "1e-4")
    absolute: tuple[str, ...] = ("1e-5", "1e-4")
    relative: tuple[str, ...] = ("1e-3",)

    def __post_init__(self) -> None:
        if PAPER not in self.isclose_bf16:
            object.__setattr__(self, "isclose_bf16", (*self.isclose_bf16, PAPER))
        for rule in ("isclose_bf16", "absolute", "relative"):
            for tolerance in getattr(self, rule):
                parse(tolerance)


@dataclass(frozen=True)
class Selection:
    """The rule by which a mask is extracted: an entry is set where it does not hold.

    The default, Δ ≠ 0, is the paper's definition of the subnetwork (Section 5).
    """

    rule: str = "equal"
    tolerance: str | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(f"rule {self.rule!r}: not known; there are: {', '.join(RULES)}")
        if self.rule in ("equal", "bit_equal"):
            if self.tolerance is not None:
                raise UserError(f"rule {self.rule!r} takes no tolerance")
        elif self.tolerance is None:
            raise UserError(f"rule {self.rule!r} needs a tolerance, such as --tolerance 1e-5")
        else:
            parse(self.tolerance)


def parse(tolerance: str) -> float:
    """The number a tolerance is; `UserError` unless it is finite and not negative."""
    try:
        value = float(tolerance)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"tolerance {tolerance!r}: expected a number ≥ 0, such as 1e-5")
    return value


def bf16_midpoint(tolerance: float) -> np.float32:
    """The largest float32 that, rounded to bfloat16, is at most the tolerance rounded to bfloat16.

    With it the authors' comparison of bfloat16 numbers is one of float32 numbers: the rounding of
    |Δ| (to nearest, ties to even) need not be done. For 1e-5 it is 1.0043383e-5.
    """
    bits = int(np.float32(tolerance).view(np.uint32))
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    odd = (rounded >> 16) & 1
    return np.uint32(rounded + 0x8000 - odd).view(np.float32)


def thresholds(rules: Rules) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float32 bounds: of |Δ| for `isclose_bf16` and for `absolute`, of the ratio for `relative`."""
    close = np.array([bf16_midpoint(parse(t)) for t in rules.isclose_bf16], dtype=np.float32)
    absolute = np.array([parse(t) for t in rules.absolute], dtype=np.float32)
    relative = np.array([parse(t) for t in rules.relative], dtype=np.float32)
    return close, absolute, relative


def columns(rules: Rules) -> Sequence[str]:
    """The names of all counts in a table: `isclose_bf16_1e-5`, …."""
    return [
        f"{rule}_{tolerance}"
        for rule in ("isclose_bf16", "absolute", "relative")
        for tolerance in getattr(rules, rule)
    ]
