"""Masks of the entries with the highest scores, where every entry has one before training."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from subnetworks import checkpoints
from subnetworks.checkpoints.identity import digest, verify
from subnetworks.checkpoints.numbers import decode
from subnetworks.core.errors import UserError
from subnetworks.measuring import draws, mask_origins, masks
from subnetworks.measuring.mask_making import Request
from subnetworks.measuring.selections import Share, lowest
from subnetworks.measuring.updates.pairing import match

Values = NDArray[np.float32]
# Entries worked on at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Scores:
    """A score of every entry: the higher, the sooner it is chosen.

    Attributes:
        shapes: of all parameters.
        of: gives a parameter's scores, flat, at least 0, not NaN.
        before: the digest of the checkpoint that they are drawn on.
        origin: the file they come from, for messages.
    """

    shapes: Mapping[str, tuple[int, ...]]
    of: Callable[[str], Values]
    before: str
    origin: str

    def times(self, other: "Scores") -> "Scores":
        """The product with other scores of the same checkpoint."""
        if (self.before, self.shapes) != (other.before, other.shapes):
            raise UserError(f"{self.origin} and {other.origin}: of different checkpoints")

        def product(name: str) -> Values:
            with np.errstate(invalid="ignore", over="ignore"):
                return np.nan_to_num(self.of(name) * other.of(name), nan=0.0, posinf=np.inf)

        return Scores(self.shapes, product, self.before, self.origin)


def make(operation: str, request: Request, scores: Scores, **facts: str) -> int:
    """Write the mask of the highest scores, as many as `request` asks for.

    In each tensor, or (`in_all`) over all of them. Of equal scores those are taken that the seed
    draws. Memory: 13 bytes an entry of the largest tensor, and 8 more of each that has the last
    score taken.

    Args:
        operation: the source, which the mask records with `facts`.
        request: its options `like` or `density`, its seed, its output.
        scores: of every entry.

    Returns the number of set entries.

    Raises:
        UserError: the mask to be as dense as is of another checkpoint.
    """
    share = Share.of_request(request)
    if share.like is not None:
        mask_origins.check(
            [share.like],
            weights=(scores.origin, scores.before),
            different_bases=request.different_bases,
        )
        if dict(share.like.shapes) != dict(scores.shapes):
            raise UserError(f"{share.like.path}: not of the same tensors as {scores.origin}")
    sizes = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in scores.shapes.items()}
    wanted = {name: share.of(name, size) for name, size in sizes.items()}
    metadata = {
        "operation": operation,
        "density": str(share),
        "over": "all" if request.in_all else "each tensor",
        "seed": str(request.seed),
        "before": scores.before,
        **facts,
        "changed": str(sum(sizes.values())),
    }
    chosen = _over_all if request.in_all else _in_each
    changed = 0
    with masks.writing(request.output, scores.shapes, metadata) as writer:
        for name, bits in chosen(scores, wanted, request.seed):
            changed += int(np.count_nonzero(bits))
            writer.write(name, np.packbits(bits, bitorder="little"))
        if share.like is not None:
            share.like.confirm(sum(wanted.values()))
        writer.finish({**metadata, "changed": str(changed)})
    return changed


def keys(scores: Values) -> NDArray[np.uint32]:
    """Whole numbers in the opposite order of scores that are at least 0."""
    # A float32 that is not negative has the order of its bits; adding 0 makes -0 to 0.
    found = (scores + np.float32(0)).view(np.uint32)
    return np.subtract(np.uint32(0xFFFFFFFF), found, out=found)


def _pieces(n: int) -> Iterator[slice]:
    for start in range(0, n, _PIECE):
        yield slice(start, min(start + _PIECE, n))


def _cut(found: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    return (found[piece] for piece in _pieces(found.size))


def _filled(n: int, score: Callable[[int, int], Values]) -> Values:
    """Scores of n entries; `score` gives those from one entry to another."""
    whole = np.empty(n, np.float32)
    for piece in _pieces(n):
        whole[piece] = score(piece.start, piece.stop)
    return whole


Bits = NDArray[np.bool_]


def _in_each(scores: Scores, wanted: Mapping[str, int], seed: int) -> Iterator[tuple[str, Bits]]:
    for name in scores.shapes:
        found = keys(scores.of(name))
        bound, ties = lowest(partial(_cut, found), 32, wanted[name])
        if not wanted[name]:
            yield name, np.zeros(found.size, np.bool_)
            continue
        yield name, _up_to(found, bound, ties, seed, name)


def _over_all(scores: Scores, wanted: Mapping[str, int], seed: int) -> Iterator[tuple[str, Bits]]:
    total = sum(wanted.values())
    if not total:
        yield from ((name, np.zeros(keys(scores.of(name)).size, np.bool_)) for name in wanted)
        return

    def every() -> Iterator[NDArray[np.uint32]]:
        for name in scores.shapes:
            yield from _cut(keys(scores.of(name)))

    bound, ties = lowest(every, 32, total)
    equal = {name: int(np.count_nonzero(keys(scores.of(name)) == bound)) for name in scores.shapes}
    generator = masks.generator(seed, "")
    if sum(equal.values()) < draws.LIMIT:
        counts = list(equal.values())
        drawn = generator.multivariate_hypergeometric(counts, ties, method="marginals")
        shares = dict(zip(equal, drawn.tolist(), strict=True))
    else:
        shares = draws.scattered(generator, ties, equal)
    for name, part in shares.items():
        yield name, _up_to(keys(scores.of(name)), bound, part, seed, name)


def _up_to(found: NDArray[np.uint32], bound: int, ties: int, seed: int, name: str) -> Bits:
    """All keys below a bound, and as many of those at it, drawn by the seed."""
    chosen: Bits = found < bound
    equal = np.flatnonzero(found == bound)
    drawn = masks.generator(seed, name).choice(equal, ties, replace=False, shuffle=False)
    chosen[drawn] = True
    return chosen


def of_gradients(path: str | os.PathLike[str], kind: str) -> Scores:
    """Scores from a file of gradients: their mean `square`, or their `signal`."""
    from subnetworks.measuring.gradients import Gradients

    opened = Gradients(path)
    shapes = {name: opened.shape(name) for name in opened.names}

    def of(name: str) -> Values:
        return _filled(math.prod(shapes[name]), partial(getattr(opened, kind), name))

    return Scores(shapes, of, opened.before, str(opened.path))


def of_weights(source: str | os.PathLike[str], score: Callable[[Values], Values]) -> Scores:
    """Scores of a checkpoint's parameters; `score` gives them of some weights, float32, flat."""
    checkpoint = checkpoints.open(source)
    verify(checkpoint)
    tensors = {pair.name: pair.before for pair in match(checkpoint, checkpoint).values}

    def of(name: str) -> Values:
        tensor = tensors[name]
        return _filled(
            tensor.n, lambda start, stop: score(decode(tensor.raw(start, stop), tensor.dtype))
        )

    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Scores(shapes, of, digest(checkpoint), checkpoint.source)
