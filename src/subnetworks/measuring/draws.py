"""How many of the entries that are drawn fall on each part."""

import math
from collections.abc import Mapping

from numpy.random import Generator

LIMIT = 1_000_000_000
"""Entries from which on NumPy does not draw from a hypergeometric distribution."""


def marked(generator: Generator, wanted: int, total: int, drawn: int) -> int:
    """How many of `wanted` marked among `total` are in a random `drawn`.

    From 10⁹ entries on, the normal approximation (relative error below 1e-4).
    """
    if total < LIMIT:
        return int(generator.hypergeometric(wanted, total - wanted, drawn))
    share = wanted / total
    spread = math.sqrt(drawn * share * (1 - share) * (total - drawn) / max(total - 1, 1))
    value = round(generator.normal(drawn * share, spread))
    return min(max(value, drawn - (total - wanted), 0), wanted, drawn)


def scattered(generator: Generator, wanted: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many of `wanted` fall on each part if each entry is as likely as any other."""
    remaining, counts = sum(sizes.values()), {}
    for name, size in sizes.items():
        counts[name] = marked(generator, wanted, remaining, size)
        remaining, wanted = remaining - size, wanted - counts[name]
    return counts
