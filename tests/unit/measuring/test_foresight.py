"""Which entries a step changes, foreseen: against torch's AdamW on noise, and counts by force."""

import math

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("scipy")
pytest.importorskip("torch")

from test_null_model import DECAYING, DPO, GRPO, UPDATES, trained, weights

from subnetworks.checkpoints.numbers import encode
from subnetworks.measuring.foresight import Tally, chance, judge
from subnetworks.measuring.null_model import Optimiser, probability_of_change

N = 60_000


def chances(start, optimiser, earlier, later):
    """Of every weight; only magnitudes that differ are integrated for."""
    sizes, place = np.unique(np.abs(start), return_inverse=True)
    return chance(sizes, optimiser, earlier, later)[place]


@pytest.mark.parametrize(
    ("optimiser", "earlier", "later"),
    [(GRPO, 59, 60), (DPO, 50, 60), (DECAYING, 20, 21), (UPDATES, 10, 11)],
)
def test_as_many_entries_change_as_torch_changes(optimiser, earlier, later):
    start = weights()
    ends = [encode(trained(start, optimiser, steps=step), "BF16") for step in (earlier, later)]
    found = ends[0] != ends[1]
    expected = chances(start, optimiser, earlier, later)
    # By the power of two of |w|, since the steps of bf16 are of it, and in all.
    exponents = np.frexp(np.abs(start))[1]
    for exponent in (*range(-14, 1), None):
        here = exponents == exponent if exponent is not None else np.ones(N, np.bool_)
        error = math.sqrt((expected[here] * (1 - expected[here])).sum()) / here.sum()
        off = abs(found[here].mean() - expected[here].mean())
        # 2 % of what is expected, since a step is not quite normal.
        assert off < 4 * error + 0.001 + 0.02 * expected[here].mean(), exponent
    assert found.mean() > 0.002


def test_from_the_init_on_it_is_the_null_model():
    start = weights(n=3000)
    of_all = probability_of_change(start, GRPO, step=5)
    assert np.allclose(chance(np.abs(start), GRPO, 0, 5), of_all, atol=1e-12)


def test_a_step_at_no_learning_rate_changes_nothing():
    start = weights(n=2500)
    done = Optimiser(learning_rate=0.0, steps=4)
    assert not chance(np.abs(start), done, 1, 2).any()


def test_recall_and_precision_are_those_of_the_likeliest_entries():
    """By force: the entries sorted by their probability, those of one probability at random."""
    rng = np.random.default_rng(0)
    init = encode(weights(n=4000), "BF16")
    older = init ^ (rng.random(4000) < 0.1)
    old = older ^ (rng.random(4000) < 0.2)
    likely = chances(weights(n=4000), GRPO, 6, 7)
    new = old ^ (rng.random(4000) < 0.3 * likely + 0.05)
    tally = Tally()
    for piece in (slice(0, 1500), slice(1500, None)):
        tally.add(init[piece], old[piece], new[piece], older[piece])
    found = judge(tally, GRPO, 6, 7)
    changed, had = old != new, older != old
    count = int(changed.sum())
    assert found["expected_share"] == pytest.approx(likely.mean())
    recalls, needed = [], []
    for _ in range(200):
        order = np.lexsort((rng.random(4000), -likely))
        hit = np.cumsum(changed[order])
        recalls.append((hit[count - 1] / count, hit[2 * count - 1] / count))
        needed.append([np.searchsorted(hit, share * count) + 1 for share in (0.9, 0.99)])
    assert found["recall"] == pytest.approx(np.mean(recalls, 0)[0], abs=0.002)
    assert found["recall_of_twice"] == pytest.approx(np.mean(recalls, 0)[1], abs=0.002)
    needed = np.mean(needed, 0) / 4000
    assert found["share_for_90"] == pytest.approx(needed[0], abs=0.002)
    assert found["share_for_99"] == pytest.approx(needed[1], abs=0.002)
    assert found["again_recall"] == (changed & had).sum() / count
    assert found["again_precision"] == (changed & had).sum() / had.sum()


def test_where_nothing_changes_there_is_no_recall():
    bits = encode(weights(n=2500), "BF16")
    tally = Tally()
    tally.add(bits, bits, bits, None)
    found = judge(tally, GRPO, 0, 1)
    assert {key for key, value in found.items() if value is None} == set(found) - {"expected_share"}
