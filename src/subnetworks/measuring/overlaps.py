"""Overlaps: do two updates change the same entries, more than chance would have it?

For masks I1, I2 (Section 6 of the paper): o1 = |I1 ∩ I2| / |I1|, o2 = |I1 ∩ I2| / |I2|, Jaccard =
|I1 ∩ I2| / |I1 ∪ I2|. Chance is what two independent masks of the same density give, the density
being taken in all (the paper's), in each tensor, or in each tensor's bins of |w| by powers of two:
bfloat16 rounding alone makes small weights change and large ones not.
"""

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from subnetworks import checkpoints
from subnetworks.checkpoints.identity import digest, verify
from subnetworks.checkpoints.numbers import decode
from subnetworks.checkpoints.tensors import place
from subnetworks.core import kernels
from subnetworks.core.errors import UserError
from subnetworks.core.threads import share_out
from subnetworks.measuring import mask_origins
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.updates import coverage
from subnetworks.measuring.updates.coverage import Excluded, Kind
from subnetworks.measuring.updates.pairing import parameters
from subnetworks.measuring.updates.ties import stand_in

Row = dict[str, Any]
# Packed bytes a worker reads at a time, and takes at a time.
_PIECE = 1 << 17
_TASK = 1 << 22
_EXPONENTS = 256


@dataclass
class Shared:
    """Two masks within one tensor: entries, set in the first, in the second, in both."""

    name: str
    n: int
    first: int = 0
    second: int = 0
    both: int = 0
    bins: Any = None  # the same four by the exponent of |w|: int64, 4 × 256

    @property
    def expected(self) -> float:
        """Entries in both if the masks were independent within the tensor."""
        return self.first * self.second / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """Variance of that number (hypergeometric)."""
        return _variance(self.n, self.first, self.second)


def _variance(n: int, first: int, second: int) -> float:
    if n < 2:
        return 0.0
    return first * second / n * ((n - first) / n) * ((n - second) / (n - 1))


@dataclass
class Overlap:
    """Masks compared: two by two, and how many entries are in at least k of them."""

    masks: list[str]
    pairs: dict[tuple[int, int], list[Shared]]
    consensus: list[int]
    excluded: list[Excluded] = field(default_factory=list)
    origins: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def compared_share(self) -> float:
        """Entries that all masks have, of those of all masks together."""
        return coverage.share(sum(s.n for s in self.pairs[0, 1]), self.excluded)


def compare(
    masks: Sequence[str | os.PathLike[str]],
    magnitude: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    *,
    allow_partial: bool = False,
    different_bases: bool = False,
    different_rules: bool = False,
) -> Overlap:
    """Compare two or more masks of the same model.

    Args:
        masks: mask files.
        magnitude: the checkpoint the updates start from; with it, chance matched by |w|.
        threads: workers; all cores by default.
        allow_partial: compare what the masks share, also where that is less than 99 % of all
            entries or leaves out a matrix within a layer.
        different_bases, different_rules: see `subnetworks.measuring.mask_origins.check`.

    Raises:
        UserError: fewer than two masks, or no or too few parameters in common; weights of another
            model; or masks of different bases or rules.
    """
    if len(masks) < 2:
        raise UserError("overlap: needs at least two masks")
    opened = [Mask.open(path) for path in masks]
    notes = mask_origins.check(
        opened, different_bases=different_bases, different_rules=different_rules
    )
    names, excluded = _common(opened, allow_partial)
    result = Overlap(
        [os.fspath(path) for path in masks],
        {
            pair: [Shared(name, math.prod(opened[0].shape(name))) for name in names]
            for pair in combinations(range(len(opened)), 2)
        },
        [0] * (len(opened) + 1),
        excluded,
        [mask_origins.summarise(mask) for mask in opened],
        notes,
    )
    kernels.prepare()
    _count(opened, names, result, threads)
    _confirm(opened, names, result)
    if magnitude is not None:
        _count_by_magnitude(opened, names, result, magnitude, threads, different_bases)
    return result


def _confirm(masks: Sequence[Mask], names: Sequence[str], result: Overlap) -> None:
    """Every mask that was read whole has as many set entries as were once written."""
    for (i, j), shares in result.pairs.items():
        for index, side in ((i, "first"), (j, "second")):
            if len(masks[index].names) == len(names):
                masks[index].confirm(sum(getattr(shared, side) for shared in shares))


def _common(masks: Sequence[Mask], allow_partial: bool) -> tuple[list[str], list[Excluded]]:
    names: list[str] = []
    excluded: list[Excluded] = []
    for name in dict.fromkeys(name for mask in masks for name in mask.names):
        holders = [mask for mask in masks if name in mask.shapes]
        if len(holders) < len(masks):
            reason = f"only in {', '.join(str(mask.path) for mask in holders)}"
            kind = Kind.BEFORE
        elif len({mask.shape(name) for mask in masks}) > 1:
            reason, kind = "shapes differ", Kind.SHAPES
        else:
            names.append(name)
            continue
        shape = max((mask.shape(name) for mask in holders), key=math.prod)
        excluded.append(Excluded(name, reason, kind, shape))
    if not names:
        raise UserError(
            f"{masks[0].path} and {masks[1].path}: no parameter in common; "
            "compare masks of one model"
        )
    compared = sum(math.prod(masks[0].shape(name)) for name in names)
    if not allow_partial and coverage.is_partial(compared, excluded):
        largest = max(excluded, key=lambda entry: entry.n)
        more = f" and {len(excluded) - 1} more" if len(excluded) > 1 else ""
        raise UserError(
            f"{' and '.join(str(mask.path) for mask in masks)}: only "
            f"{coverage.share(compared, excluded):.2%} of their entries are in all of them; left "
            f"out are {largest.name!r}{more} ({largest.reason}); compare masks of one model, or "
            "what they share alone (--allow-partial)"
        )
    return names, excluded


def _count(
    masks: Sequence[Mask], names: Sequence[str], result: Overlap, threads: int | None
) -> None:
    jobs = []
    for index, name in enumerate(names):
        size = (math.prod(masks[0].shape(name)) + 7) // 8
        jobs += [(index, name, s, min(s + _TASK, size)) for s in range(0, size, _TASK)]
    lock = threading.Lock()

    def run(job: tuple[int, str, int, int]) -> None:
        index, name, begin, end = job
        totals = {pair: np.zeros(3, np.int64) for pair in result.pairs}
        votes = np.zeros(len(masks) + 1, np.int64)
        buffers = [np.zeros(_PIECE, np.uint8) for _ in masks]
        if len(masks) == 2 and _stream(masks, name, begin, end, buffers, totals[0, 1]):
            begin = end
        for start in range(begin, end, _PIECE):
            size = min(_PIECE, end - start)
            words = []
            for mask, buffer in zip(masks, buffers, strict=True):
                buffer[size : -(-size // 8) * 8] = 0
                mask.read_packed(name, buffer[:size], start)
                words.append(buffer[: -(-size // 8) * 8].view(np.uint64))
            for (i, j), total in totals.items():
                kernels.count_masks(words[i], words[j], total)
            if len(masks) > 2:
                bits = sum(np.unpackbits(w.view(np.uint8)) for w in words)
                votes += np.bincount(bits, minlength=len(masks) + 1)
        with lock:
            for pair, total in totals.items():
                shared = result.pairs[pair][index]
                shared.first += int(total[0])
                shared.second += int(total[1])
                shared.both += int(total[2])
            for k in range(1, len(masks) + 1):
                result.consensus[k] += int(votes[k])

    share_out("comparing", jobs, lambda job: len(masks) * (job[3] - job[2]), lambda: run, threads)


def _stream(
    masks: Sequence[Mask], name: str, begin: int, end: int, buffers: list[np.ndarray], total: Any
) -> bool:
    """Count two masks' bytes at once, without Python; False, and nothing, if one cannot be read."""
    spans = [mask.span(name) for mask in masks]
    first, second = ((span.file.fileno(), span.begin + begin) for span in spans)
    counted = np.zeros(3, np.int64)
    whole = kernels.stream_masks(first, second, end - begin, buffers, counted) == end - begin
    if whole:
        total += counted
    return whole


def _count_by_magnitude(
    masks: Sequence[Mask],
    names: Sequence[str],
    result: Overlap,
    magnitude: str | os.PathLike[str],
    threads: int | None,
    different_bases: bool,
) -> None:
    with checkpoints.open(magnitude) as weights:
        verify(weights)
        if any(mask_origins.base(mask) for mask in masks):
            found = mask_origins.check(
                masks,
                weights=(os.fspath(magnitude), digest(weights)),
                different_bases=different_bases,
                different_rules=True,  # that was checked before
            )
            result.notes += [note for note in found if note not in result.notes]
        tensors = parameters(weights)
        jobs = []
        for index, name in enumerate(names):
            tensor = tensors.get(name)
            if tensor is None and (tensor := stand_in(name, weights, tensors)) is not None:
                tensors[name] = tensor
            if tensor is None or tensor.shape != masks[0].shape(name):
                raise UserError(
                    f"{magnitude}: no weights of shape {masks[0].shape(name)} for {name!r}; "
                    "give the checkpoint that both updates start from"
                )
            for shared in (shares[index] for shares in result.pairs.values()):
                shared.bins = np.zeros((4, _EXPONENTS), np.int64)
            step = 8 * _PIECE
            jobs += [(index, name, s, min(s + step, tensor.n)) for s in range(0, tensor.n, step)]
        lock = threading.Lock()

        def run(job: tuple[int, str, int, int]) -> None:
            index, name, start, stop = job
            tensor = tensors[name]
            values = np.ascontiguousarray(decode(tensor.raw(start, stop), tensor.dtype)).view(
                np.uint32
            )
            packed = [mask.packed(name, start // 8, (stop + 7) // 8) for mask in masks]
            for (i, j), shares in result.pairs.items():
                table = np.zeros((4, _EXPONENTS), np.int64)
                kernels.count_masks_by_exponent(packed[i], packed[j], values, table)
                with lock:
                    shares[index].bins += table

        size = {name: tensors[name].itemsize for name in names}
        share_out(
            "by magnitude", jobs, lambda job: (job[3] - job[2]) * size[job[1]], lambda: run, threads
        )


def ratios(n: int, first: float, second: float, both: float) -> Row:
    """o1, o2 and Jaccard; None where nothing is set."""
    union = first + second - both
    return {
        "o1": both / first if first else None,
        "o2": both / second if second else None,
        "jaccard": both / union if union else None,
    }


def _z(shares: Sequence[Shared]) -> float | None:
    variance = sum(s.variance for s in shares)
    excess = sum(s.both for s in shares) - sum(s.expected for s in shares)
    return excess / math.sqrt(variance) if variance > 0 else None


def _by_magnitude(shares: Sequence[Shared]) -> tuple[float, float] | None:
    """Expected number in both and its variance, chance matched within tensors and bins of |w|."""
    expected = variance = 0.0
    for shared in shares:
        if shared.bins is None:
            return None
        for n, first, second, _ in shared.bins.T.tolist():
            if n:
                expected += first * second / n
                variance += _variance(n, first, second)
    return expected, variance


def summarise_pair(shares: Sequence[Shared]) -> Row:
    """Counts, ratios, the three chances and the z-scores of two masks over some tensors."""
    n = sum(s.n for s in shares)
    first, second = sum(s.first for s in shares), sum(s.second for s in shares)
    both = sum(s.both for s in shares)
    row: Row = {
        "n": n,
        "changed": [first, second],
        "intersection": both,
        "union": first + second - both,
        **ratios(n, first, second, both),
        "chance": ratios(n, first, second, first * second / n if n else 0),
        "chance_per_tensor": ratios(n, first, second, sum(s.expected for s in shares)),
    }
    row["z"] = _z(shares)
    if matched := _by_magnitude(shares):
        expected, variance = matched
        row["chance_by_magnitude"] = ratios(n, first, second, expected)
        row["z_by_magnitude"] = (both - expected) / math.sqrt(variance) if variance > 0 else None
    return row


def summarise(overlap: Overlap) -> Row:
    """The JSON summary: of two masks flat, of more under `pairs`, with `consensus`.

    `z` is the excess of the intersection over chance matched per tensor, in standard deviations of
    that chance; `z_by_magnitude` likewise. `consensus` maps k to the entries in at least k masks.
    """
    summary: Row = {"masks": overlap.masks}
    if len(overlap.masks) == 2:
        summary |= summarise_pair(overlap.pairs[0, 1])
    else:
        summary["n"] = sum(s.n for s in overlap.pairs[0, 1])
        summary["pairs"] = [
            {"masks": [overlap.masks[i], overlap.masks[j]], **summarise_pair(shares)}
            for (i, j), shares in overlap.pairs.items()
        ]
        summary["consensus"] = {
            str(k): sum(overlap.consensus[k:]) for k in range(1, len(overlap.masks) + 1)
        }
    summary["compared_share"] = overlap.compared_share
    summary["origins"] = overlap.origins
    summary["notes"] = overlap.notes
    summary["excluded"] = [{"name": e.name, "reason": e.reason} for e in overlap.excluded]
    return summary


def table(overlap: Overlap) -> list[Row]:
    """One flat row per tensor and pair of masks; `compared_share` is the same in every row."""
    rows = []
    share = overlap.compared_share
    for (i, j), shares in overlap.pairs.items():
        for shared in shares:
            where = place(shared.name)
            row = summarise_pair([shared])
            flat: Row = {
                "first": overlap.masks[i],
                "second": overlap.masks[j],
                "name": shared.name,
                "layer": where.layer,
                "matrix": where.matrix,
                "n": shared.n,
                "changed_1": shared.first,
                "changed_2": shared.second,
                "intersection": shared.both,
            }
            flat |= {key: row[key] for key in ("union", "o1", "o2", "jaccard")}
            flat |= {f"chance_{key}": value for key, value in row["chance"].items()}
            matched = row.get("chance_by_magnitude", {})
            flat |= {f"by_magnitude_{key}": matched.get(key) for key in ("o1", "o2", "jaccard")}
            flat |= {"z": row["z"], "z_by_magnitude": row.get("z_by_magnitude")}
            flat["compared_share"] = share
            rows.append(flat)
    return rows
