"""Intervals hold what they promise, equivalence keeps its level: by simulation, against scipy."""

import math

import numpy as np
import pytest

stats = pytest.importorskip("scipy.stats")

from subnetworks.artefacts.statistics import (  # noqa: E402
    Mean,
    holm,
    over_seeds,
    over_seeds_and_questions,
    over_steps,
    student,
)

DRAWS = 400


def plausible(hits: int, share: float) -> bool:
    """Whether so many of DRAWS may come of that share (exact, one in 10,000 at each side)."""
    return bool(stats.binomtest(hits, DRAWS, share).pvalue > 2e-4)


def holds(found: Mean, truth: float) -> bool:
    low, high = found.interval()
    return low <= truth <= high


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (9, 2.262), (30, 2.042)]
)
def test_students_quantile(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=5e-4)
    assert student(math.inf) == pytest.approx(stats.norm.isf(0.025))


def test_the_interval_over_seeds_is_scipys() -> None:
    values = [51.2, 50.4, 52.9]
    found, theirs = over_seeds(values), stats.ttest_1samp(values, 0)
    assert found.freedom == 2
    assert found.interval() == pytest.approx(tuple(theirs.confidence_interval()))
    assert found.p == pytest.approx(theirs.pvalue)
    with pytest.raises(ValueError, match="no spread over 1 value"):
        over_seeds([1.0])


def test_equivalence_is_two_one_sided_tests() -> None:
    values = np.array([0.4, -0.2, 0.9, 0.3, -0.5])
    found = over_seeds(list(values))
    above = stats.ttest_1samp(values, -2, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 2, alternative="less").pvalue
    assert found.p_equivalent(2) == pytest.approx(max(above, below))
    assert found.standing(2) == "equivalent" and found.standing(0.5) == "undecided"
    assert over_seeds([-5.0, -5.1, -4.9]).standing(2) == "worse"
    assert over_seeds([5.0, 5.1, 4.9]).standing(2) == "better"
    # Not to differ is not to be equivalent.
    assert over_seeds([-9.0, 0.0, 9.0]).standing(2) == "undecided"
    assert over_seeds([0.0, 0.0]).standing(2) == "equivalent"


def test_intervals_over_seeds_cover() -> None:
    rng = np.random.default_rng(0)
    hits = sum(holds(over_seeds(list(rng.normal(7, 3, 3))), 7) for _ in range(DRAWS))
    assert plausible(hits, 0.95)


@pytest.mark.parametrize("n", [3, 5])
def test_pairs_of_seeds_are_not_taken_for_independent(n: int) -> None:
    rng = np.random.default_rng(n)
    hits = naive = 0
    for _ in range(DRAWS):
        own = rng.normal(0, 1, n)
        pairs = [7 + own[i] + own[(i + 1) % n] for i in range(n)]
        hits += holds(over_seeds(pairs, in_pairs=True), 7)
        naive += holds(over_seeds(pairs), 7)
    assert plausible(hits, 0.95) and not plausible(naive, 0.95)
    with pytest.raises(ValueError, match="no spread over 2 values"):
        over_seeds([1.0, 2.0], in_pairs=True)


@pytest.mark.parametrize(("of_seeds", "of_questions"), [(0.02, 0.2), (0.0, 0.2), (0.05, 0.0)])
def test_intervals_over_seeds_and_questions_cover(of_seeds: float, of_questions: float) -> None:
    """Never too little; a little too much where one of the two has no spread of its own."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(DRAWS):
        table = 0.6 + rng.normal(0, of_seeds, (3, 1)) + rng.normal(0, of_questions, (1, 100))
        table = table + rng.normal(0, 0.3, (3, 100))
        hits += holds(over_seeds_and_questions(table), 0.6)
    assert plausible(hits, 0.95) or hits / DRAWS > 0.95


def test_one_training_has_the_error_of_its_questions_only() -> None:
    values = np.array([1.0, 0, 1, 1, 0, 1])
    found = over_seeds_and_questions(values)
    assert (found.value, found.freedom) == (pytest.approx(2 / 3), 5)
    assert found.stderr == pytest.approx(stats.sem(values))
    # More trainings that all do the same tell nothing more of the questions.
    same = over_seeds_and_questions(np.tile(values, (3, 1)))
    assert same.stderr == pytest.approx(stats.sem(values))


def test_equivalence_keeps_its_level() -> None:
    """Where the truth is the margin itself, one in twenty is called equivalent, not more."""
    rng = np.random.default_rng(4)
    found = [over_seeds(list(rng.normal(2, 0.3, 3))).standing(2) for _ in range(DRAWS)]
    assert plausible(found.count("equivalent"), 0.05)


def test_the_mean_of_a_series_is_as_uncertain_as_its_blocks() -> None:
    values = ([0.0] * 16 + [1.0] * 16) * 2
    found = over_steps(values)
    # Block means 0, 1, 0, 1: standard deviation √(1/3), of four, with three degrees of freedom.
    assert (found.value, found.freedom) == (0.5, 3)
    assert found.stderr == pytest.approx((1 / 3) ** 0.5 / 2)
    assert over_steps([1.0, 2.0, 3.0]).interval() == (-math.inf, math.inf)


def test_holm() -> None:
    # p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm") in R is 0.04 0.06 0.06 0.06; statsmodels 0.15.0's
    # multipletests(…, method="holm") gives the same.
    found = holm([0.03, None, 0.01, 0.04, 0.02])
    assert found.pop(1) is None
    assert found == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
