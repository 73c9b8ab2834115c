"""Is one score higher than another? Differences and their uncertainty, paired if possible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars

_QUESTION = ("doc_id", "row", "gold")
"""What makes a question the same: its number, its row in the benchmark and its answer."""
DRAWS = 10_000
_SEED = 0


@dataclass(frozen=True)
class Difference:
    """A later score minus an earlier one, as shares of 1.

    `interval_95` is the paired bootstrap's, `p` two-sided; None where the answers to the single
    questions are not known.
    """

    value: float
    stderr: float | None
    interval_95: tuple[float, float] | None
    p: float | None
    paired: bool


def unpaired(later: dict[str, Any], earlier: dict[str, Any]) -> Difference:
    """The difference of two scores taken as independent."""
    errors = [score.get("stderr") for score in (later, earlier)]
    stderr = None if None in errors else math.hypot(*errors)  # type: ignore[arg-type]
    return Difference(later["score"] - earlier["score"], stderr, None, None, paired=False)


def paired(later: polars.DataFrame, earlier: polars.DataFrame) -> Difference | None:
    """The mean difference over the questions that both answered, its interval and its test.

    Args:
        later: answers, one row per question: `doc_id`, `row`, `gold` and `correct` (0-1).
        earlier: the same of the other checkpoint.

    Returns:
        None where the two do not hold the same questions, or there are fewer than two.
    """
    found = by_question(later, earlier)
    if found is None:
        return None
    return Difference(
        float(found.mean()),
        float(found.std(ddof=1)) / math.sqrt(len(found)),
        bootstrap_interval(found),
        randomisation_test(found),
        paired=True,
    )


def by_question(later: polars.DataFrame, earlier: polars.DataFrame) -> NDArray[np.float64] | None:
    """(questions,) differences, in the order of the benchmark; None as in `paired`."""
    columns = [*_QUESTION, "correct"]
    joined = later.select(columns).join(
        earlier.select(columns), on=_QUESTION, suffix="_earlier", validate="1:1"
    )
    if not later.height == earlier.height == joined.height >= 2:
        return None
    joined = joined.sort("doc_id")
    return (joined["correct"] - joined["correct_earlier"]).to_numpy()


def difference_of(
    later: dict[str, Any],
    earlier: dict[str, Any],
    later_answers: polars.DataFrame | None,
    earlier_answers: polars.DataFrame | None,
) -> Difference:
    """Paired by question if both kept their answers to the same questions, else unpaired."""
    if later_answers is not None and earlier_answers is not None:
        found = paired(later_answers, earlier_answers)
        if found is not None:
            return found
    return unpaired(later, earlier)


def sign_test(up: int, down: int) -> float:
    """Two-sided exact binomial test that `up` and `down` are equally likely (McNemar, 1947)."""
    n, fewer = up + down, min(up, down)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    return min(1.0, 2 * tail)


def randomisation_test(differences: NDArray[np.float64]) -> float:
    """Two-sided test that the signs of paired differences are a matter of chance.

    Where every question is right or wrong it is McNemar's exact test; where an answer counts by
    share (avg@k) the signs are drawn `DRAWS` times and the observed ones counted among them.

    Args:
        differences: (questions,) later minus earlier, each in [-1, 1].
    """
    if np.isin(differences, (-1, 0, 1)).all():
        return sign_test(int((differences > 0).sum()), int((differences < 0).sum()))
    moved = differences[differences != 0]
    signs = np.random.default_rng(_SEED).integers(0, 2, (DRAWS, len(moved)), dtype=np.int8)
    sums = (2 * signs - 1) @ moved
    extreme = (np.abs(sums) >= abs(moved.sum()) - 1e-9).sum()
    return float((extreme + 1) / (DRAWS + 1))


def bootstrap_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the mean difference, questions drawn with replacement.

    `DRAWS` draws from a fixed seed (Efron, 1979). Only so many different differences occur, so
    counts of them are drawn (multinomial) instead of questions: the same distribution, sooner.

    Args:
        differences: (questions,) later minus earlier.
    """
    values, counts = np.unique(differences, return_counts=True)
    n = len(differences)
    drawn = np.random.default_rng(_SEED).multinomial(n, counts / n, DRAWS)
    low, high = np.quantile(drawn @ values / n, (0.025, 0.975))
    return float(low), float(high)
