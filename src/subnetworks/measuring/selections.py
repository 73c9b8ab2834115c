"""Masks chosen by a checkpoint's own weights: its smallest entries, or its principal ones.

Both are controls for the subnetwork that a run finds: "The Path Not Taken" (arXiv 2511.08567)
compares it with the entries of lowest magnitude and with the principal ones. Both choose within
each tensor, as many entries as another mask has there, or a share of them.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from subnetworks import checkpoints
from subnetworks.checkpoints import Checkpoint, Tensor
from subnetworks.checkpoints.identity import digest, verify
from subnetworks.checkpoints.numbers import decode
from subnetworks.core.errors import UserError
from subnetworks.measuring import mask_origins, masks
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.updates.pairing import match, parameters
from subnetworks.measuring.updates.ties import stand_in

# Entries read at a time; whole bytes of a mask.
_CHUNK = 1 << 20


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


def magnitude(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    share: Share,
    *,
    different_bases: bool = False,
) -> int:
    """Write the mask of the entries with the lowest |w| in each tensor.

    Exact, by counting magnitudes (16 bits at a time, so bf16 takes one pass); of equal magnitudes
    those first in C order are taken. ±0 are equal, NaN are above all. Memory: some 20 MiB.

    Args:
        source: the checkpoint, as `checkpoints.open` takes it.
        path: the mask to write.
        share: how many entries of each tensor.
        different_bases: whether `share.like` may be of an update that starts from other weights.

    Returns the number of set entries.
    """

    def choose(tensor: Tensor) -> Iterator[np.ndarray]:
        wanted = share.of(tensor.name, tensor.n)
        bound, ties = _threshold(tensor, wanted)
        for _, keys in _keys(tensor):
            equal = np.flatnonzero(keys == bound)[:ties]
            ties -= equal.size
            chosen = keys < bound
            chosen[equal] = True
            yield chosen

    return _write(source, path, share, "magnitude", choose, different_bases)


def _keys(tensor: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """Start and |w| of each chunk, as unsigned integers in the order of the magnitudes."""
    mask = (1 << (8 * tensor.itemsize - 1)) - 1
    for start in range(0, tensor.n, _CHUNK):
        bits = tensor.raw(start, min(start + _CHUNK, tensor.n))
        yield start, bits & bits.dtype.type(mask)


def _threshold(tensor: Tensor, wanted: int) -> tuple[int, int]:
    """The key of the last of the `wanted` lowest entries, and how many with that key are wanted."""
    if not wanted:
        return 0, 0
    prefix = 0
    for shift in range(max(8 * tensor.itemsize - 16, 0), -1, -16):
        counts = np.zeros(1 << 16, np.int64)
        for _, keys in _keys(tensor):
            wide = keys.astype(np.uint64)
            if shift + 16 < 8 * tensor.itemsize:
                wide = wide[wide >> np.uint64(shift + 16) == prefix]
            digits = (wide >> np.uint64(shift)) & np.uint64(0xFFFF)
            counts += np.bincount(digits.astype(np.int64), minlength=1 << 16)
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, wanted))
        wanted -= int(upto[digit] - counts[digit])
        prefix = prefix << 16 | digit
    return prefix, wanted


def principal(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    share: Share,
    rank: int,
    *,
    different_bases: bool = False,
) -> int:
    """Write the mask of each matrix's principal entries: the largest of |W⁽ᵏ⁾|, k = `rank`.

    W⁽ᵏ⁾ is the matrix's best approximation of rank k, from an exact singular value decomposition up
    to a smaller side of 2048, beyond by randomised subspace iteration (`spectra.rotation`). A stack
    of matrices is taken apart; a vector is its own approximation. Of equal entries those first in C
    order are taken. Memory: one tensor and its decomposition, in float64.

    Returns the number of set entries.

    Raises:
        UserError: a matrix holds NaN or infinities.
    """
    if rank < 1:
        raise UserError(f"principal: the rank must be at least 1, got {rank}")

    def choose(tensor: Tensor) -> Iterator[np.ndarray]:
        values = decode(tensor.raw(), tensor.dtype)
        if not np.isfinite(values).all():
            raise UserError(
                f"{tensor.source}: tensor {tensor.name!r} holds NaN or infinities: it has no "
                "singular values"
            )
        rows, columns = tensor.shape[-2:] if len(tensor.shape) > 1 else (1, tensor.n)
        stack = values.reshape(-1, rows, columns)
        counts = share.of_matrices(tensor.name, len(stack), rows * columns)
        chosen = [
            _largest(_approximation(matrix, rank), count)
            for matrix, count in zip(stack, counts, strict=True)
        ]
        yield np.concatenate(chosen) if chosen else np.zeros(0, np.bool_)

    return _write(source, path, share, "principal", choose, different_bases, rank=str(rank))


def _approximation(matrix: np.ndarray, rank: int) -> np.ndarray:
    from subnetworks.measuring.spectra.rotation import leading

    if min(matrix.shape) <= rank:
        return matrix.astype(np.float64)
    u, s, v, _ = leading(matrix, rank)
    return (u * s[:rank]) @ v.T


def _largest(matrix: np.ndarray, count: int) -> np.ndarray:
    """The `count` entries of largest magnitude, bool, flat."""
    size = np.abs(matrix).reshape(-1)
    if not count:
        return np.zeros(size.size, np.bool_)
    bound = np.partition(size, size.size - count)[size.size - count]
    chosen = size > bound
    chosen[np.flatnonzero(size == bound)[: count - int(chosen.sum())]] = True
    return chosen


def _write(
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
        amount = f"like {share.like.path.name}" if share.like else str(share.density)
        metadata = {
            "operation": operation,
            "density": amount,
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


def early(delta: str | os.PathLike[str], path: str | os.PathLike[str]) -> int:
    """Write the mask of what had changed (Δ ≠ 0) when a step of a trajectory was reached.

    Args:
        delta: the step's delta, as `checkpoints.open` takes it; it is compared with its base.
        path: the mask to write.

    Returns the number of set entries.
    """
    from subnetworks.checkpoints.deltas import base_of
    from subnetworks.measuring import updates

    updates.measure(base_of(delta), delta, mask=path)
    return int(Mask.open(path).metadata["changed"])
