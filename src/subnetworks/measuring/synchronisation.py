"""Weight synchronisation: what a trainer would send to its sampler after each saved step of a run.

The weights are compared as bf16, bit for bit: what is sent must give the sampler the trainer's
weights exactly. Bytes are those of patches that were really made (`subnetworks.measuring.patches`).
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from subnetworks import checkpoints
from subnetworks.checkpoints import Tensor
from subnetworks.checkpoints.deltas import is_delta
from subnetworks.checkpoints.numbers import decode, encode
from subnetworks.core.errors import UserError
from subnetworks.core.files import step_file
from subnetworks.core.progress import Progress
from subnetworks.measuring import foresight, trajectories
from subnetworks.measuring.null_model import Optimiser
from subnetworks.measuring.patches import ENCODINGS, LEVEL, PIECE, Bits
from subnetworks.measuring.updates.coverage import Kind
from subnetworks.measuring.updates.pairing import Match, match

_ITEMSIZE = 2
# The number at the end of a saved step's name: step_000012.safetensors, checkpoint-12.
_NUMBER = re.compile(r"(?:^|[^0-9])(\d+)$")
# What steps of one run do not differ in.
_UNLIKE = (Kind.BEFORE, Kind.AFTER, Kind.SHAPES, Kind.ROWS)

Steps = list[tuple[int, str]]
Row = dict[str, Any]


@dataclass
class Patch:
    """From one saved step to another.

    Attributes:
        since: the number of the earlier step; 0 is the init.
        changed: entries whose bf16 bits differ.
        sizes: bytes of the patch in each encoding.
    """

    since: int
    changed: int = 0
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENCODINGS, 0))


@dataclass
class Step:
    """What is sent after a step.

    Attributes:
        step: its number.
        n: entries compared.
        compared_share: of the entries there are.
        patch: since the saved step before.
        since_anchor: since the last anchor.
        is_anchor: whether a whole copy is sent for it, which later steps are compared with.
        foreseen: how well the null model foresaw what the patch changes, as `foresight.judge` has
            it; None where it was not asked.
    """

    step: int
    n: int
    compared_share: float
    patch: Patch
    since_anchor: Patch
    is_anchor: bool = False
    foreseen: Row | None = None


def saved(folder: str | os.PathLike[str], init: str | None = None) -> tuple[str, int, Steps]:
    """The checkpoint that a run's first patch is for, its step, and the saved steps after it.

    Args:
        folder: a run's trajectory, its manifest and deltas; or a folder with one checkpoint a step,
            whose names end in the step's number.
        init: what the run started from; by default the base of the deltas, or the first of the
            checkpoints.

    Raises:
        UserError: there are no steps, or two of one number; or the trajectory is unfinished, for
            its manifest is written at the run's end.
    """
    place = Path(folder)
    if (place / "manifest.json").exists():
        base, steps = trajectories.saved(place)
        if init is not None:
            steps = [(step, f"delta:{file}@{init}") for step, file in steps]
        return init or base, 0, steps
    steps = _numbered(place)
    for step, source in steps:
        # Both, since deltas of one's own may be a folder's checkpoints as well.
        if Path(source) == step_file(place, step) and is_delta(Path(source)):
            raise UserError(
                f"{source}: a delta of an unfinished trajectory: {place / 'manifest.json'} is "
                "missing, which a run writes at its end; train the run to its end"
            )
    start = 0
    if init is None and steps:
        (start, init), *steps = steps
    if init is None or not steps:
        raise UserError(
            f"{folder}: no steps of a run: needs the trajectory that a run with trajectory_every "
            "keeps, or at least two checkpoints whose names end in their step's number"
        )
    return init, start, steps


def _numbered(folder: Path) -> Steps:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = []
    for path in sorted(folder.iterdir()):
        if number := _NUMBER.search(path.stem if path.suffix == ".safetensors" else path.name):
            found.append((int(number[1]), str(path)))
    found.sort()
    for (step, one), (other, another) in pairwise(found):
        if step == other:
            raise UserError(f"{one} and {another}: both step {step}; keep one of them there")
    return found


def follow(
    init: str,
    start: int,
    steps: Sequence[tuple[int, str]],
    anchor_every: int | None = None,
    optimiser: Optimiser | None = None,
) -> list[Step]:
    """Encode what changed at every saved step, since the one before and since the last anchor.

    Memory: some arrays of `PIECE` entries, however large tensors are and however many the steps.

    Args:
        init: what the first patch is for, the first anchor.
        start: its step.
        steps: step and checkpoint, in the order of the steps.
        anchor_every: after so many saved steps a whole copy is sent, and is the anchor; never by
            default.
        optimiser: the run's, to ask the null model which entries each step changes.

    Raises:
        UserError: a checkpoint that cannot be read, or of other parameters than the first; steps
            that are out of order, or more than the optimiser's.
    """
    trajectories.check_order([(start, init), *steps])
    if optimiser is not None and (start or steps[-1][0] > optimiser.steps):
        raise UserError(
            f"{init}: step {start}, and {steps[-1][1]}: step {steps[-1][0]}; with --settings the "
            f"steps of one run from its init on are needed, {optimiser.steps} by its settings"
        )
    found: list[Step] = []
    anchor, previous = (start, init), (start, init)
    progress = Progress("synchronising", len(steps), "step")
    for number in progress:
        step, source = steps[number]
        with checkpoints.open(previous[1]) as before, checkpoints.open(source) as after:
            matched = _alike(before, after)
            patch = _patch(previous[0], matched)
        since_anchor = patch
        if anchor != previous:
            with checkpoints.open(anchor[1]) as before, checkpoints.open(source) as after:
                since_anchor = _patch(anchor[0], _alike(before, after))
        is_anchor = anchor_every is not None and (number + 1) % anchor_every == 0
        n = sum(p.n for p in matched.values)
        foreseen = None
        if optimiser is not None:
            tally = _tally(init, source, [file for _, file in ((0, init), *steps)][: number + 1])
            foreseen = foresight.judge(tally, optimiser, previous[0], step)
        found.append(
            Step(step, n, matched.compared_share, patch, since_anchor, is_anchor, foreseen)
        )
        previous = step, source
        anchor = previous if is_anchor else anchor
    return found


def _alike(before: checkpoints.Checkpoint, after: checkpoints.Checkpoint) -> Match:
    """What of two steps is compared: every parameter, since what one lacks cannot be sent."""
    matched = match(before, after)
    for one in matched.excluded:
        if one.kind in _UNLIKE:
            raise UserError(
                f"{before.source} and {after.source}: {one.name!r}: {one.reason}; steps of one run "
                "are needed"
            )
    return matched


def pieces(*tensors: Tensor) -> Iterator[tuple[Bits, ...]]:
    """The bf16 bits of tensors of one shape, flat, a piece at a time."""
    for begin in range(0, tensors[0].n, PIECE):
        end = min(begin + PIECE, tensors[0].n)
        yield tuple(_bits(tensor, begin, end) for tensor in tensors)


def _bits(tensor: Tensor, begin: int, end: int) -> Bits:
    raw = tensor.raw(begin, end).reshape(-1)
    return raw if tensor.dtype == "BF16" else encode(decode(raw, tensor.dtype), "BF16")


def _patch(since: int, matched: Match) -> Patch:
    found = Patch(since)
    for pair in matched.values:
        for old, new in pieces(pair.before, pair.after):
            if not (changed := int(np.count_nonzero(old != new))):
                continue
            found.changed += changed
            for name, encoding in ENCODINGS.items():
                found.sizes[name] += len(encoding.encode(old, new))
    return found


def _tally(init: str, after: str, earlier: Sequence[str]) -> foresight.Tally:
    """Count what a step changes by the init's magnitudes; `earlier` ends with the step before."""
    tally = foresight.Tally()
    with ExitStack() as stack:
        first, *others = (
            stack.enter_context(checkpoints.open(source)) for source in (init, after, *earlier[-2:])
        )
        sides = [{p.name: p.after for p in match(first, other).values} for other in others]
        for pair in match(first, first).values:
            tensors = (pair.before, *(side[pair.name] for side in sides))
            for weights, new, *before in pieces(*tensors):
                old, older = before[-1], before[0] if len(before) > 1 else None
                tally.add(weights, old, new, older)
    return tally


def summarise(steps: Sequence[Step]) -> Row:
    """The JSON summary: one row per step, and the means over all steps.

    Shares are of all entries. `sent` is what all steps take together, in bytes: patches since the
    step before, and at anchors a whole copy instead.
    """
    n = steps[0].n
    whole = _ITEMSIZE * n
    rows = [
        {
            "step": one.step,
            "is_anchor": one.is_anchor,
            **_row(one.patch, n),
            "since_anchor": _row(one.since_anchor, n),
            "foreseen": one.foreseen,
        }
        for one in steps
    ]
    changed = [one.patch.changed / n for one in steps]
    return {
        "n": n,
        "compared_share": min(one.compared_share for one in steps),
        "whole_bytes": whole,
        "zstd_level": LEVEL,
        "changed_share": {
            "mean": float(np.mean(changed)),
            "least": min(changed),
            "most": max(changed),
        },
        "bytes": {
            name: float(np.mean([one.patch.sizes[name] for one in steps])) for name in ENCODINGS
        },
        "foreseen": _foreseen(steps),
        "sent": {
            "whole": whole * len(steps),
            **{
                name: sum(whole if one.is_anchor else one.patch.sizes[name] for one in steps)
                for name in ENCODINGS
            },
        },
        "steps": rows,
    }


def _foreseen(steps: Sequence[Step]) -> Row | None:
    """Means over the steps that have each number; None where the null model was not asked."""
    rows = [one.foreseen for one in steps if one.foreseen is not None]
    known = {key: [row[key] for row in rows if row[key] is not None] for key in (rows or [{}])[0]}
    means = {key: float(np.mean(values)) if values else None for key, values in known.items()}
    return means or None


def _row(patch: Patch, n: int) -> Row:
    return {
        "since": patch.since,
        "changed": patch.changed,
        "changed_share": patch.changed / n,
        "bytes": dict(patch.sizes),
    }


def table(steps: Sequence[Step]) -> list[Row]:
    """One flat row per step."""
    return [
        {
            "step": one.step,
            "is_anchor": one.is_anchor,
            "n": one.n,
            "whole_bytes": _ITEMSIZE * one.n,
            **{
                f"{prefix}{key}": value
                for prefix, patch in (("", one.patch), ("anchor_", one.since_anchor))
                for key, value in (
                    ("since", patch.since),
                    ("changed", patch.changed),
                    ("changed_share", patch.changed / one.n),
                    *((f"{name}_bytes", size) for name, size in patch.sizes.items()),
                )
            },
            **(one.foreseen or {}),
        }
        for one in steps
    ]
