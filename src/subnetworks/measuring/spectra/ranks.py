"""Ranks of one matrix from its Gram matrix: the exact one by inertia, gentler ones beside it."""

from dataclasses import dataclass

import numpy as np

from subnetworks.measuring.spectra.linear import Gram

EPS = float(np.finfo(np.float32).eps)
# How close to the threshold, relatively, a singular value makes the rank borderline: float32 SVD
# and exact arithmetic may then disagree.
BORDER = 1e-3
ENERGY = 0.99
TOLERANCES = (1e-6, 1e-5, 1e-4, 1e-3)


@dataclass(frozen=True)
class Ranks:
    """Ranks of one matrix, its smaller side being k.

    Attributes:
        rank: singular values above τ = σ_max · max(rows, columns) · eps₃₂.
        rank_low, rank_high: the same at τ·(1 ± 1e-3); if they differ, the rank is borderline.
        sigma_max: the largest singular value.
        stable_rank: ‖Δ‖²_F / σ_max².
        effective_rank: exp of the entropy of σ / Σσ.
        energy_rank_99: the fewest singular values that hold 99 % of ‖Δ‖²_F.
        ranks_at: singular values above 1e-6, …, 1e-3 of σ_max.

    `stable_rank`, `effective_rank`, `energy_rank_99` are None for a matrix that is 0; the last two
    and `ranks_at` where not all singular values were computed.
    """

    rank: int
    rank_low: int
    rank_high: int
    sigma_max: float
    stable_rank: float | None
    effective_rank: float | None
    energy_rank_99: int | None
    ranks_at: dict[float, int] | None


def ranks_of(gram: Gram, longer: int, *, spectrum: bool = True) -> Ranks:
    """All ranks, or without the `spectrum` those that need no more than the largest singular value.

    Args:
        gram: the Gram matrix.
        longer: max(rows, columns).
        spectrum: whether to compute all singular values. Without them the rank is counted by
            inertia, in about two thirds of the time.
    """
    trace = gram.trace()
    if trace == 0:
        return Ranks(0, 0, 0, 0.0, None, None, None, dict.fromkeys(TOLERANCES, 0))
    if spectrum:
        values = np.clip(gram.eigenvalues(), 0, None)
        largest = float(values[-1])
        low, rank, high = (int((values > t).sum()) for t in _thresholds(largest, longer))
        effective, energy = _from_spectrum(values)
        return Ranks(
            rank, low, high, float(np.sqrt(largest)), trace / largest, effective, energy,
            {t: int((values > largest * t * t).sum()) for t in TOLERANCES},
        )  # fmt: skip
    largest = gram.largest()
    # A square matrix of random entries has singular values below the threshold: no need to try.
    hopeful = longer > 1.1 * gram.size
    low, rank, high = _by_inertia(gram, *_thresholds(largest, longer), hopeful)
    return Ranks(rank, low, high, float(np.sqrt(largest)), trace / largest, None, None, None)


def _thresholds(largest: float, longer: int) -> tuple[float, float, float]:
    """τ² above, at, and below torch's threshold."""
    at = largest * (longer * EPS) ** 2
    return at * (1 + BORDER) ** 2, at, at * (1 - BORDER) ** 2


def _by_inertia(
    gram: Gram, upper: float, middle: float, lower: float, hopeful: bool
) -> tuple[int, int, int]:
    """Eigenvalues above three falling thresholds, with as few factorisations as can be.

    `hopeful`: try first whether all of them are, which one cheaper factorisation can tell.
    """
    if hopeful and gram.exceeds(upper):
        return gram.size, gram.size, gram.size
    fewest = gram.above(upper)
    most = gram.size if fewest == gram.size else gram.above(lower)
    return fewest, fewest if fewest == most else gram.above(middle), most


def _from_spectrum(values: np.ndarray) -> tuple[float, int]:
    """Effective rank and 99 %-energy rank of the eigenvalues (ascending, none negative)."""
    singular = np.sqrt(values)
    shares = singular / singular.sum()
    shares = shares[shares > 0]
    held = np.cumsum(values[::-1])
    energy = int(np.searchsorted(held, ENERGY * held[-1] * (1 - 1e-12))) + 1
    return float(np.exp(-(shares @ np.log(shares)))), energy
