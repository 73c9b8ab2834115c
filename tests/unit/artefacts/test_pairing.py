"""Paired tests and intervals against scipy."""

import itertools

import numpy as np
import pytest

from subnetworks.artefacts import pairing


@pytest.mark.parametrize(("up", "down", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (1, 3, 10 / 16)])
def test_sign_test(up: int, down: int, p: float) -> None:
    assert pairing.sign_test(up, down) == pytest.approx(p)


@pytest.mark.parametrize(
    ("up", "down", "p"),
    [
        # statsmodels.stats.contingency_tables.mcnemar([[_, up], [down, _]], exact=True), 0.15.0;
        # the first pair is from Agresti, Categorical Data Analysis (1990), Table 10.1.
        (150, 86, 3.7159361395713866e-05),
        (121, 59, 4.4344492637551645e-06),
        (33, 21, 0.13367423536410522),
        (6, 0, 0.03125),
    ],
)
def test_mcnemar_agrees_with_statsmodels_and_scipy(up: int, down: int, p: float) -> None:
    differences = np.array([1.0] * up + [-1.0] * down + [0.0] * 500)
    assert pairing.randomisation_test(differences) == pytest.approx(p, rel=1e-9)
    stats = pytest.importorskip("scipy.stats")
    assert stats.binomtest(up, up + down).pvalue == pytest.approx(p, rel=1e-9)


def test_shares_are_tested_by_random_signs() -> None:
    rng = np.random.default_rng(3)
    differences = rng.integers(-2, 4, 12) / 4
    assert not np.isin(differences, (-1, 0, 1)).all()
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    sums = signs @ differences
    exact = (np.abs(sums) >= abs(differences.sum()) - 1e-9).mean()
    assert pairing.randomisation_test(differences) == pytest.approx(exact, abs=0.015)
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert exact == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize(("up", "down", "same"), [(150, 86, 264), (12, 9, 479), (30, 2, 68)])
def test_the_bootstrap_agrees_with_scipy(up: int, down: int, same: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    differences = np.array([1.0] * up + [-1.0] * down + [0.0] * same)
    theirs = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    # Both are random (quantiles of 10 000 draws scatter by about 3 % of the standard error) and
    # go by steps of one question.
    n = len(differences)
    scatter = 0.15 * differences.std() / np.sqrt(n) + 1.001 / n
    assert pairing.bootstrap_interval(differences) == pytest.approx(tuple(theirs), abs=scatter)
    assert pairing.bootstrap_interval(differences) == pairing.bootstrap_interval(differences)


def test_no_difference_has_no_width() -> None:
    assert pairing.bootstrap_interval(np.zeros(7)) == (0, 0)
    assert pairing.randomisation_test(np.zeros(7)) == 1
