"""Trajectories: what became of every weight along a run, from its saved steps.

Definitions (Figures 2, 5, 6 and 7 of arXiv 2505.11711; Δ as in `subnetworks.measuring.updates`): an
entry is *changed* at a step if Δ ≠ 0 between the init and that step, *never* updated if it is
changed at no saved step, *cancelled* if it is changed at some saved step but not at the last, and
*final* if it is changed at the last. An update that is undone between two saved steps is not seen,
so `never` is an upper and `cancelled` a lower bound, the closer the more often steps are saved.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from subnetworks import checkpoints
from subnetworks.checkpoints import Tensor
from subnetworks.checkpoints.numbers import decode, round_to
from subnetworks.core.errors import UserError
from subnetworks.core.progress import Progress
from subnetworks.measuring.updates.coverage import Excluded
from subnetworks.measuring.updates.pairing import Pair, match
from subnetworks.measuring.updates.rules import PAPER, bf16_midpoint, parse

# Entries read at a time.
_CHUNK = 1 << 19


@dataclass
class Step:
    """Counts at one saved step.

    Attributes:
        step: its number.
        changed: entries with Δ ≠ 0 against the init.
        beyond: entries changed by the paper's rule (|Δ| > 1e-5 in bf16) against the init.
        moved: entries with Δ ≠ 0 against the saved step before (the init for the first).
        moved_beyond: the same by the paper's rule.
        outside: changed entries that the last step has as in the init.
    """

    step: int
    changed: int = 0
    beyond: int = 0
    moved: int = 0
    moved_beyond: int = 0
    outside: int = 0


@dataclass
class Trajectory:
    """All counts; `never`, `cancelled` and `final` add up to `n` entries."""

    n: int
    steps: list[Step]
    compared_share: float = 1.0
    excluded: list[Excluded] = field(default_factory=list)
    never: int = 0
    cancelled: int = 0
    final: int = 0


def saved(folder: str | os.PathLike[str]) -> tuple[str, list[tuple[int, str]]]:
    """The init of the trajectory in `folder`, and its steps with their deltas.

    Raises:
        UserError: there is no trajectory, or an empty one; or its steps are out of order, or not
            all of one base.
    """
    from subnetworks.checkpoints.deltas import base_of, metadata

    file = Path(folder) / "manifest.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["steps"]
        steps = [(int(row["step"]), str(file.parent / row["file"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: not the manifest of a trajectory; name the folder trajectory/ of a run with "
            "trajectory_every"
        ) from error
    if not steps:
        raise UserError(f"{folder}: an empty trajectory; give the run trajectory_every")
    bases = [metadata(Path(source)).get("base") for _, source in steps]
    for (_, source), base in zip(steps, bases, strict=True):
        if base != bases[0]:
            raise UserError(
                f"{source}: of a base with digest {base}, but {steps[0][1]} of {bases[0]}; steps "
                "of one run are needed: train the run again"
            )
    return base_of(steps[0][1]), steps


def check_order(steps: Sequence[tuple[int, str | os.PathLike[str]]]) -> None:
    """Raise `UserError` if a step comes after one that it does not follow."""
    for (step, source), (later, other) in pairwise(steps):
        if later <= step:
            raise UserError(
                f"{other}: step {later} comes after step {step} ({source}); give the steps of one "
                "run in their order"
            )


def analyse(
    init: str | os.PathLike[str], steps: Sequence[tuple[int, str | os.PathLike[str]]]
) -> Trajectory:
    """Follow every parameter through the steps.

    Each checkpoint is read once and the last twice, in pieces; memory does not grow with their
    number.

    Args:
        init: the checkpoint that the run started from.
        steps: step and checkpoint, in the order of the steps.

    Raises:
        UserError: a checkpoint that cannot be read, or that lacks a parameter of the init; or steps
            that are out of order.
    """
    check_order(steps)
    with ExitStack() as stack:
        first = stack.enter_context(checkpoints.open(init))
        others = [stack.enter_context(checkpoints.open(source)) for _, source in steps]
        matches = [match(first, other) for other in others]
        pairs = matches[-1].values
        known = [{p.name: p for p in matched.values} for matched in matches]
        result = Trajectory(
            sum(p.n for p in pairs),
            [Step(step) for step, _ in steps],
            min(matched.compared_share for matched in matches),
            list(dict.fromkeys(entry for matched in matches for entry in matched.excluded)),
        )
        bound = bf16_midpoint(parse(PAPER))
        done, total = 0, result.n * (len(others) + 2)
        with Progress("trajectory", total) as progress:
            for p in pairs:
                sides = [
                    _side(other.source, pairs_of.get(p.name), p)
                    for other, pairs_of in zip(others, known, strict=True)
                ]
                for start in range(0, p.n, _CHUNK):
                    stop = min(start + _CHUNK, p.n)
                    _count(result, p, sides, start, stop, bound)
                    done += (stop - start) * (len(others) + 2)
                    progress.update(done)
    return result


def _side(source: str, found: Pair | None, p: Pair) -> Tensor:
    if found is None or found.shape != p.shape:
        raise UserError(
            f"{source}: parameter {p.name!r} is absent or of another shape than in the init; steps "
            "of one run are needed"
        )
    return found.after


def _count(
    result: Trajectory, p: Pair, sides: Sequence[Tensor], start: int, stop: int, bound: np.float32
) -> None:
    def values(tensor: Tensor) -> np.ndarray:
        return round_to(decode(tensor.raw(start, stop), tensor.dtype), p.dtype)

    def differs(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, int]:
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other - one
        # NaN is neither 0 nor small.
        return ~(delta == 0), int(np.count_nonzero(~(np.abs(delta) <= bound)))

    before = values(p.before)
    final, _ = differs(before, values(sides[-1]))
    ever = np.zeros(stop - start, np.bool_)
    previous = before
    for counts, tensor in zip(result.steps, sides, strict=True):
        now = values(tensor)
        changed, beyond = differs(before, now)
        moved, moved_beyond = differs(previous, now)
        counts.changed += int(np.count_nonzero(changed))
        counts.beyond += beyond
        counts.moved += int(np.count_nonzero(moved))
        counts.moved_beyond += moved_beyond
        counts.outside += int(np.count_nonzero(changed & ~final))
        ever |= changed
        previous = now
    result.final += int(np.count_nonzero(final))
    result.cancelled += int(np.count_nonzero(ever & ~final))
    result.never += int(np.count_nonzero(~ever))


def summarise(found: Trajectory) -> dict[str, Any]:
    """The JSON summary: the three shares, and one row per step."""
    return {
        "n": found.n,
        "compared_share": found.compared_share,
        "excluded": [{"name": e.name, "reason": e.reason} for e in found.excluded],
        "rule": "changed: Δ ≠ 0; sparsity: |Δ| ≤ 1e-5 in bf16",
        **{key: getattr(found, key) for key in ("never", "cancelled", "final")},
        **{
            f"{key}_share": _share(getattr(found, key), found.n)
            for key in ("never", "cancelled", "final")
        },
        "steps": table(found),
    }


def table(found: Trajectory) -> list[dict[str, Any]]:
    """One flat row per step."""
    return [
        {
            "step": s.step,
            "n": found.n,
            "compared_share": found.compared_share,
            "changed": s.changed,
            "moved": s.moved,
            "outside_final": s.outside,
            "sparsity": _share(found.n - s.beyond, found.n),
            "sparsity_consecutive": _share(found.n - s.moved_beyond, found.n),
            "changed_share": _share(s.changed, found.n),
            "moved_share": _share(s.moved, found.n),
            "outside_final_share": _share(s.outside, found.n),
            "outside_final_share_of_changed": _share(s.outside, s.changed),
        }
        for s in found.steps
    ]


def _share(count: int, n: int) -> float | None:
    return count / n if n else None
