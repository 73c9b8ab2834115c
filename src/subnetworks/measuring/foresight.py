"""Foresight: how well the null model says which bf16 weights the next step of a run will change.

It knows the init and the optimiser's settings, and takes gradients for noise. Before a step an
entry is displaced from the init by a normal x, and in the step moves by a normal m that depends on
x (Adam has momentum); it changes if both positions are rounded to different numbers. That
probability is one of |w| in the init alone, so entries are counted by the 2^15 magnitudes of bf16.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from subnetworks.checkpoints.numbers import decode
from subnetworks.measuring.null_model import Floats, Optimiser, Sizes, numbers_of, variance_of

Bits = NDArray[np.uint16]
Counts = NDArray[np.int64]
_MAGNITUDES = 1 << 15
# Standard deviations that are integrated over to either side, and the most points for it.
_REACH, _POINTS = 6.0, 4096


def chance(sizes: Sizes, optimiser: Optimiser, earlier: int, later: int) -> Floats:
    """The probability that entries are other bf16 numbers after a step than after one before.

    Args:
        sizes: |w| of the init, any shape, float32, finite.
        optimiser: the run's.
        earlier, later: after which of its steps; 0 is the init.

    Returns float64 in [0, 1] in the shape of `sizes`.
    """
    rates = optimiser.rates(later)
    cut = earlier * optimiser.updates_per_step
    kept = 1 - rates * optimiser.weight_decay
    weights = rates * np.append(np.cumprod(kept[::-1])[::-1][1:], 1.0)
    before, after = np.prod(kept[:cut]), np.prod(kept)
    # Of x as the later step has it, decayed; of m; and of both together.
    old = variance_of(weights[:cut].tolist(), optimiser.betas)
    new = variance_of([0.0] * cut + weights[cut:].tolist(), optimiser.betas)
    both = variance_of(weights.tolist(), optimiser.betas)
    if not new:
        return np.zeros(sizes.shape)
    slope = (both - old - new) / 2 / old if old else 0.0
    rest = math.sqrt(max(new - slope**2 * old, 0.0)) or math.sqrt(new) * 1e-6
    spread = math.sqrt(old)
    points = min(int(4 * _REACH * spread / rest) + 2, _POINTS)
    places = np.linspace(-_REACH, _REACH, points) if old else np.zeros(1)
    shares = np.exp(-(places**2) / 2)
    every = numbers_of("BF16")
    edges = np.concatenate([[-np.inf], (every[1:] + every[:-1]) / 2, [np.inf]])
    exact = sizes.astype(np.float64)
    found = np.zeros(sizes.shape)
    for place, share in zip(places * spread, shares / shares.sum(), strict=True):
        cell = np.searchsorted(edges, exact * before + place * before / after, "right")
        mean = exact * after + place * (1 + slope)
        found += share * (ndtr((edges[cell - 1] - mean) / rest) + ndtr((mean - edges[cell]) / rest))
    return np.minimum(found, 1.0)


@dataclass
class Tally:
    """Entries of one step by their magnitude in the init.

    Attributes:
        n, changed: all entries, and those that the step changed, by magnitude (int64, 2^15).
        before: entries that the step before had changed; None at the first.
        again: entries that both changed.
    """

    n: Counts = field(default_factory=lambda: np.zeros(_MAGNITUDES, np.int64))
    changed: Counts = field(default_factory=lambda: np.zeros(_MAGNITUDES, np.int64))
    before: int | None = None
    again: int = 0

    def add(self, init: Bits, old: Bits, new: Bits, older: Bits | None) -> None:
        """Count a piece: bits in the init, before and after the step, and a step earlier."""
        moved = old != new
        size = init & 0x7FFF
        self.n += np.bincount(size, minlength=_MAGNITUDES)
        self.changed += np.bincount(size[moved], minlength=_MAGNITUDES)
        if older is not None:
            had = older != old
            self.before = (self.before or 0) + int(np.count_nonzero(had))
            self.again += int(np.count_nonzero(had & moved))


def judge(tally: Tally, optimiser: Optimiser, earlier: int, later: int) -> dict[str, Any]:
    """How well a step's changes were foreseen; equal probabilities count by their share.

    Returns `expected_share`, the mean probability; `recall`, of as many of the likeliest entries
    as really changed, which is their precision, too; `recall_of_twice` as many; the shares of all
    entries that hold 90 and 99 % of the changed ones (`share_for_90`, `share_for_99`); and for
    those that the step before changed, `again_recall` and `again_precision`. Ratios of nothing are
    None.
    """
    there = np.flatnonzero(tally.n)
    sizes = decode(there.astype(np.uint16), "BF16")
    there, sizes = there[np.isfinite(sizes)], sizes[np.isfinite(sizes)]
    n, changed = int(tally.n.sum()), int(tally.changed.sum())
    likely = chance(sizes, optimiser, earlier, later)
    levels, level = np.unique(-likely, return_inverse=True)
    chosen, hit = (
        np.append(0, np.cumsum(np.bincount(level, counts[there], levels.size)))
        for counts in (tally.n, tally.changed)
    )
    found: dict[str, Any] = {"expected_share": float(likely @ tally.n[there]) / n}
    for key, size in (("recall", changed), ("recall_of_twice", 2 * changed)):
        found[key] = float(np.interp(size, chosen, hit)) / changed if changed else None
    for percent in (90, 99):
        found[f"share_for_{percent}"] = (
            _needed(chosen, hit, changed * percent / 100) / n if changed else None
        )
    found["again_recall"] = tally.again / changed if changed and tally.before is not None else None
    found["again_precision"] = tally.again / tally.before if tally.before else None
    return found


def _needed(chosen: Floats, hit: Floats, wanted: float) -> float:
    """Entries to choose until so many are hit."""
    end = int(np.searchsorted(hit, wanted))
    if end >= hit.size:
        return float(chosen[-1])
    return float(np.interp(wanted, hit[end - 1 : end + 1], chosen[end - 1 : end + 1]))
