"""How far a mean can be trusted: over trainings, over questions, over steps; and equivalence.

A score's error over the questions is not its spread over trainings: what is claimed of an algorithm
rests on the second. Student's quantiles are those of scipy.special, which loads in half the time of
scipy.stats, where one is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.05
Standing = Literal["equivalent", "better", "worse", "undecided"]


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error and the degrees of freedom of that.

    Attributes:
        value, stderr: in the unit of what was averaged.
        freedom: may be infinite (a normal law) or a fraction (Satterthwaite's).
    """

    value: float
    stderr: float
    freedom: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends of the interval that misses the truth in a share `level` of all cases."""
        half = student(self.freedom, level) * self.stderr
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """Two-sided, of the hypothesis that the truth is 0."""
        return min(1.0, 2 * self._beyond(abs(self.value)))

    @property
    def p_above(self) -> float:
        """One-sided, of the hypothesis that the truth is 0 or less."""
        return self._beyond(self.value)

    def p_equivalent(self, margin: float) -> float:
        """Of the hypothesis that the truth is `margin` or more from 0 (TOST; Schuirmann, 1987)."""
        return self._beyond(margin - abs(self.value))

    def standing(self, margin: float, level: float = LEVEL) -> Standing:
        """Equivalent to 0 within a margin; else better or worse than it, or neither is shown."""
        if self.p_equivalent(margin) < level:
            return "equivalent"
        if self.p < level:
            return "better" if self.value > 0 else "worse"
        return "undecided"

    def _beyond(self, distance: float) -> float:
        """Probability that an estimate lies further than `distance` above the truth."""
        from scipy.special import stdtr

        if self.stderr == 0:
            return float(distance <= 0)
        return float(stdtr(self.freedom, -distance / self.stderr))


def student(freedom: float, level: float = LEVEL) -> float:
    """Student's two-sided quantile."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, level / 2))


def over_seeds(values: Sequence[float], *, in_pairs: bool = False) -> Mean:
    """The mean over trainings, on n − 1 degrees of freedom.

    Args:
        values: one a seed, at least two; or, `in_pairs`, one a pair of neighbouring seeds (the last
            and the first are one, too), at least three. Every training is in two of the pairs then:
            if all of their variance is the trainings' own, the mean's is 2 (n − 1) / (n (n − 2)) of
            theirs, on 2 (n − 2)² / (3 n − 8) degrees of freedom; it is less otherwise.
    """
    n = len(values)
    if n < (3 if in_pairs else 2):
        raise ValueError(f"no spread over {n} values")
    share, freedom = 1 / n, float(n - 1)
    if in_pairs:
        share, freedom = 2 * (n - 1) / (n * (n - 2)), 2 * (n - 2) ** 2 / (3 * n - 8)
    deviation = float(np.std(values, ddof=1))
    return Mean(math.fsum(values) / n, deviation * math.sqrt(share), freedom)


def over_seeds_and_questions(values: ArrayLike) -> Mean:
    """The mean of what several trainings do on the same questions, of both of which there are more.

    Trainings and questions are crossed random effects: the variance is estimated from the mean
    squares of a two-way layout and has Satterthwaite's (1946) degrees of freedom. A bootstrap of
    three seeds covers far less than it promises (tests/system/benchmarks/intervals.py). One
    training alone has the questions' error only.

    Args:
        values: (seeds, questions) scores or differences of scores.
    """
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    seeds, questions = table.shape
    mean = float(table.mean())
    if questions < 2:
        raise ValueError("no spread over a single question")
    if seeds == 1:
        return Mean(mean, float(table.std(ddof=1)) / math.sqrt(questions), questions - 1)
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns[None, :] + mean
    freedoms = (seeds - 1, questions - 1, (seeds - 1) * (questions - 1))
    parts = (
        rows.var(ddof=1) / seeds,
        columns.var(ddof=1) / questions,
        float((rest**2).sum()) / freedoms[2] / table.size,
    )
    # The rest is in both of the others; where there is nothing else, it must not cancel them.
    variance = parts[0] + parts[1] - parts[2]
    largest = int(parts[1] > parts[0])
    if variance <= parts[largest]:
        return Mean(mean, math.sqrt(parts[largest]), freedoms[largest])
    inverse = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    freedom = max(variance**2 / inverse, min(freedoms[:2]))
    return Mean(mean, math.sqrt(variance), freedom)


def over_steps(values: Sequence[float]) -> Mean:
    """The mean of consecutive values, by batch means.

    Neighbours are alike, so that their own scatter says too little of the mean's: it is taken over
    means of few blocks (Schmeiser, 1982), some cube root of n, long enough to forget each other.
    Infinite for fewer than four values.
    """
    n = len(values)
    blocks = max(2, round(n ** (1 / 3)))
    if n < 4:
        return Mean(math.fsum(values) / n, math.inf, 1)
    means = [part.mean() for part in np.split(np.asarray(values), _edges(n, blocks))]
    stderr = float(np.std(means, ddof=1)) / math.sqrt(blocks)
    return Mean(math.fsum(values) / n, stderr, blocks - 1)


def _edges(n: int, blocks: int) -> list[int]:
    return [n * block // blocks for block in range(1, blocks)]


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number (Holm, 1979), in the same order; None stays None."""
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[i] = highest
    return corrected
