"""How draws fall on parts, also of more entries than NumPy's own generators take."""

import math

import numpy as np
import pytest

from subnetworks.measuring import draws


@pytest.mark.parametrize("unit", [1_000, 1_000_000_000])
def test_what_is_scattered_falls_on_parts_by_their_size_and_is_all_there(unit):
    sizes = {"a": 2 * unit, "none": 0, "b": unit, "c": unit}
    total, wanted = 4 * unit, unit
    off = []
    for seed in range(200):
        found = draws.scattered(np.random.default_rng(seed), wanted, sizes)
        assert list(found) == list(sizes)
        assert sum(found.values()) == wanted
        assert all(0 <= found[name] <= size for name, size in sizes.items())
        size = sizes["c"]
        spread = math.sqrt(size * 0.25 * 0.75 * (total - size) / (total - 1))
        off.append((found["c"] - wanted * size / total) / spread)
    assert abs(np.mean(off)) < 5 / math.sqrt(200)
    assert 0.75 < np.std(off) < 1.25  # five standard errors


@pytest.mark.parametrize("wanted", [0, 3_000_000_000])
def test_nothing_and_everything_need_no_luck(wanted):
    sizes = {"a": 1_000_000_000, "b": 2_000_000_000}
    found = draws.scattered(np.random.default_rng(0), wanted, sizes)
    assert found == {name: size if wanted else 0 for name, size in sizes.items()}
