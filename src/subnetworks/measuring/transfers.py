"""Transfers: how much of an update lies within the subnetworks of others, in entries and in mass.

The mass of an update is Σ |Δ|, its energy Σ Δ²; Δ as in `subnetworks.measuring.spectra` (in
bfloat16 where that is compared). Chance is what a mask would hold whose entries were placed
anywhere in their tensor, or anywhere in their tensor and power of two of |w|, the weights before.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subnetworks import checkpoints
from subnetworks.checkpoints.identity import digest
from subnetworks.checkpoints.numbers import decode, round_to
from subnetworks.core.errors import UserError
from subnetworks.core.progress import Progress
from subnetworks.measuring import mask_origins
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.updates.pairing import Match, Pair, match

# Entries read at a time; whole bytes of a mask.
_CHUNK = 1 << 19
_EXPONENTS = 256
_KINDS = ("changed", "mass", "energy")


def _zeros() -> np.ndarray:
    return np.zeros(_EXPONENTS)


@dataclass
class Part:
    """One tensor within one mask, by the exponent of |w| (256 bins each, float64).

    Attributes:
        n, inside: entries, and those in the mask.
        whole, held: of changed entries, mass and energy, all and what the mask holds.
    """

    n: np.ndarray = field(default_factory=_zeros)
    inside: np.ndarray = field(default_factory=_zeros)
    whole: dict[str, np.ndarray] = field(default_factory=lambda: {k: _zeros() for k in _KINDS})
    held: dict[str, np.ndarray] = field(default_factory=lambda: {k: _zeros() for k in _KINDS})


class Parts(list[list[Part]]):
    """The parts of each mask, and how much of the update they are (`match`)."""

    def __init__(self, matched: Match, masks: int, notes: list[str]) -> None:
        super().__init__([Part() for _ in matched.values] for _ in range(masks))
        self.match, self.notes = matched, [*matched.notes, *notes]


def within(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    masks: Sequence[str | os.PathLike[str]],
    *,
    common_rows: bool = False,
    allow_partial: bool = False,
    different_bases: bool = False,
) -> "Parts":
    """Follow an update through masks, one pass over both checkpoints for all of them.

    Returns, mask by mask, one part a tensor. Memory: some 30 MiB, whatever the checkpoints' size.
    `common_rows` and `allow_partial` are those of `subnetworks.measuring.updates.pairing.match`,
    `different_bases` is that of `subnetworks.measuring.mask_origins.check`.

    Raises:
        UserError: a mask lacks a parameter of the update, or has it in another shape.
    """
    opened = [Mask.open(path) for path in masks]
    with checkpoints.open(before) as first, checkpoints.open(after) as second:
        matched = match(first, second, common_rows=common_rows, allow_partial=allow_partial)
        pairs = matched.values
        notes = mask_origins.check(
            opened,
            weights=(first.source, digest(first)) if any(map(mask_origins.base, opened)) else None,
            different_bases=different_bases,
            different_rules=True,
        )
        for mask in opened:
            for p in pairs:
                if mask.shapes.get(p.name) != p.shape:
                    raise UserError(
                        f"{mask.path}: parameter {p.name!r} is absent or of another shape than in "
                        f"{first.source}; a mask of the same model is needed"
                    )
        found = Parts(matched, len(opened), notes)
        done = 0
        with Progress("transfers", sum(p.n for p in pairs)) as progress:
            for index, p in enumerate(pairs):
                for start in range(0, p.n, _CHUNK):
                    stop = min(start + _CHUNK, p.n)
                    _count(p, start, stop, opened, [parts[index] for parts in found])
                    done += stop - start
                    progress.update(done)
    return found


def _count(p: Pair, start: int, stop: int, masks: Sequence[Mask], parts: Sequence[Part]) -> None:
    x, y = (
        round_to(decode(side.raw(start, stop), side.dtype), p.dtype) for side in (p.before, p.after)
    )
    with np.errstate(invalid="ignore", over="ignore"):
        delta = round_to(y - x, p.dtype) if p.dtype == "BF16" else y - x
    if not np.isfinite(delta).all():
        raise UserError(
            f"{p.after.source}: tensor {p.name!r}: its update holds NaN or infinities, so it has "
            "no mass; `measure` says how many"
        )
    bins = (np.ascontiguousarray(x).view(np.uint32) >> 23 & 0xFF).astype(np.intp)
    size = np.abs(delta.astype(np.float64))
    kinds = {"changed": (size > 0).astype(np.float64), "mass": size, "energy": size * size}

    def binned(weights: np.ndarray) -> np.ndarray:
        return np.bincount(bins, weights=weights, minlength=_EXPONENTS)

    n = np.bincount(bins, minlength=_EXPONENTS)
    whole = {kind: binned(values) for kind, values in kinds.items()}
    for mask, part in zip(masks, parts, strict=True):
        packed = mask.packed(p.name, start // 8, (stop + 7) // 8)
        inside = np.unpackbits(packed, count=stop - start, bitorder="little").astype(np.float64)
        part.n += n
        part.inside += binned(inside)
        for kind, values in kinds.items():
            part.whole[kind] += whole[kind]
            part.held[kind] += binned(values * inside)


def summarise_mask(parts: Sequence[Part]) -> dict[str, Any]:
    """Shares of changed entries, mass and energy within a mask, and by chance; None of nothing."""
    n, inside = sum(p.n.sum() for p in parts), sum(p.inside.sum() for p in parts)
    summary: dict[str, Any] = {"n": int(n), "inside": int(inside)}
    for kind in _KINDS:
        whole = sum(float(p.whole[kind].sum()) for p in parts)
        tensors = magnitudes = 0.0
        for p in parts:
            size = p.n.sum()
            tensors += float(p.inside.sum() / size * p.whole[kind].sum()) if size else 0.0
            filled = p.n > 0
            shares = p.inside[filled] / p.n[filled]
            magnitudes += float(shares @ p.whole[kind][filled])
        held = sum(float(p.held[kind].sum()) for p in parts)
        summary[kind] = {
            "total": whole,
            "share": held / whole if whole else None,
            "chance": float(inside / n) if n else None,
            "chance_per_tensor": tensors / whole if whole else None,
            "chance_by_magnitude": magnitudes / whole if whole else None,
        }
    return summary


def summarise(before: str, after: str, masks: Sequence[str], found: Parts) -> dict[str, Any]:
    """The JSON summary: one entry a mask."""
    rows = [
        {"mask": mask, **summarise_mask(parts)} for mask, parts in zip(masks, found, strict=True)
    ]
    return {
        "before": before,
        "after": after,
        "compared_share": found.match.compared_share,
        "names": found.match.names,
        "notes": found.notes,
        "excluded": [{"name": e.name, "reason": e.reason} for e in found.match.excluded],
        "masks": rows,
    }
