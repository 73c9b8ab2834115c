"""Masks of entries that are chosen within each tensor of a checkpoint, by its weights for one.

As many as another mask has there, or a share of them. Those of lowest magnitude and the principal
ones are controls for the subnetwork that a run finds, as in "The Path Not Taken" (arXiv
2511.08567).
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from subnetworks import checkpoints
from subnetworks.checkpoints import Checkpoint, Tensor
from subnetworks.checkpoints.identity import digest, verify
from subnetworks.core.errors import UserError
from subnetworks.measuring import mask_origins, masks
from subnetworks.measuring.mask_making import Request
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.updates.pairing import match, parameters
from subnetworks.measuring.updates.ties import stand_in


@dataclass(frozen=True)
class Share:
    """How many entries are chosen in each tensor: as many as a mask has there, or `density` · n."""

    like: Mask | None = None
    density: float | None = None

    def __post_init__(self) -> None:
        if (self.like is None) == (self.density is None):
            raise UserError("needs either a mask to be as dense as, or a density")
        if self.density is not None and not 0 <= self.density <= 1:
            raise UserError(f"the density must lie between 0 and 1, got {self.density}")

    def __str__(self) -> str:
        return f"like {self.like.path.name}" if self.like else str(self.density)

    @classmethod
    def of_request(cls, request: Request) -> Self:
        """The share that a request's options `like` and `density` say."""
        like = request.options.get("like")
        return cls(Mask.open(like) if like else None, request.options.get("density"))

    def of(self, name: str, n: int) -> int:
        """Entries to choose of the `n` of a tensor (halves round up)."""
        if self.like is not None:
            return self.like.count(name)
        assert self.density is not None
        return math.floor(self.density * n + 0.5)

    def of_matrices(self, name: str, count: int, size: int) -> list[int]:
        """The same for each of the `count` matrices of `size` entries stacked in one tensor."""
        if self.like is not None and count > 1:
            return [int(part.sum()) for part in self.like.array(name).reshape(count, size)]
        if self.like is not None:
            return [self.like.count(name)]
        return [self.of(name, size)] * count


def lowest(keys: Callable[[], Iterable[np.ndarray]], width: int, wanted: int) -> tuple[int, int]:
    """The key of the last of the `wanted` lowest ones, and how many with that key are wanted.

    Exact, by counting 16 bits at a time, so that keys of 16 bits are gone through once.

    Args:
        keys: gives all keys in pieces, unsigned integers; called once or more.
        width: their bits.
        wanted: at most as many as there are keys.
    """
    if not wanted:
        return 0, 0
    prefix = 0
    for shift in range(max(width - 16, 0), -1, -16):
        counts = np.zeros(1 << 16, np.int64)
        for piece in keys():
            wide = piece.astype(np.uint64)
            if shift + 16 < width:
                wide = wide[wide >> np.uint64(shift + 16) == prefix]
            digits = (wide >> np.uint64(shift)) & np.uint64(0xFFFF)
            counts += np.bincount(digits.astype(np.int64), minlength=1 << 16)
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, wanted))
        wanted -= int(upto[digit] - counts[digit])
        prefix = prefix << 16 | digit
    return prefix, wanted


def write(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    share: Share,
    operation: str,
    choose: Callable[[Tensor], Iterator[np.ndarray]],
    different_bases: bool,
    **facts: str,
) -> int:
    """Write a mask; `choose` gives a tensor's bits (bool, flat) in pieces of whole bytes."""
    with checkpoints.open(source) as checkpoint:
        verify(checkpoint)
        before = digest(checkpoint)
        if share.like is not None:
            weights = checkpoint.source, before
            mask_origins.check([share.like], weights=weights, different_bases=different_bases)
        tensors = _parameters(checkpoint, share.like)
        metadata = {
            "operation": operation,
            "density": str(share),
            "before": before,
            **facts,
            "changed": str(sum(tensor.n for tensor in tensors)),
        }
        changed = 0
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        with masks.writing(path, shapes, metadata) as writer:
            for tensor in tensors:
                place = 0
                for bits in choose(tensor):
                    changed += int(np.count_nonzero(bits))
                    packed = np.packbits(bits, bitorder="little")
                    writer.write(tensor.name, packed, place)
                    place += packed.size
            if share.like is not None:
                share.like.confirm(changed)
            writer.finish({**metadata, "changed": str(changed)})
    return changed


def _parameters(checkpoint: Checkpoint, like: Mask | None) -> list[Tensor]:
    """The parameters that a measured mask would have, or exactly those of `like`."""
    if like is None:
        pairs = match(checkpoint, checkpoint).values
        return [replace(p.before, name=p.name) for p in pairs]
    found = parameters(checkpoint)
    for name in like.names:
        if name not in found and (tensor := stand_in(name, checkpoint, found)) is not None:
            found[name] = tensor
        if name not in found or found[name].shape != like.shape(name):
            raise UserError(
                f"{like.path}: parameter {name!r} is absent or of another shape in "
                f"{checkpoint.source}; a mask of the same model is needed"
            )
    return [replace(found[name], name=name) for name in like.names]
