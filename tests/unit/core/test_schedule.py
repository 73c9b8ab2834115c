import math

import pytest

from subnetworks.core.schedule import factor


def test_warm_up_is_linear_and_never_zero():
    rates = [factor(step, 100, 10, "constant") for step in range(12)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:] == [1.0, 1.0]


def test_linear_falls_in_a_line_to_what_would_be_zero_after_the_end():
    rates = [factor(step, 10, 0, "linear") for step in range(10)]
    assert rates == pytest.approx([1 - step / 10 for step in range(10)])
    assert factor(10, 10, 0, "linear") == 0


def test_cosine_is_half_a_cosine_after_the_warm_up():
    for step in range(5, 25):
        expected = 0.5 * (1 + math.cos(math.pi * (step - 5) / 20))
        assert factor(step, 25, 5, "cosine") == pytest.approx(expected)
