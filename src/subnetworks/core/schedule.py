"""The learning rate over a run, one formula for every algorithm."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]
FIRST_BATCHES = 16
"""How many of a run's first batches are looked at before it is made, unless a number is given."""


def warmup_of(ratio: float, steps: int) -> int:
    """How many steps a share of all steps is, to the nearest one."""
    return round(ratio * steps)


def factor(step: int, steps: int, warmup: int, schedule: Schedule) -> float:
    """Share of the peak learning rate that the optimiser step number `step` (from 0) takes.

    Linear warm-up reaches the peak at step `warmup` - 1, so no step has rate 0; then constant, or
    falling in a line or half a cosine towards 0, which the step after the last would have.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
