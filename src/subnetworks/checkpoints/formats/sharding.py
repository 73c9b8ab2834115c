"""Tensors that are stored in chunks, each a block of the whole: joined as they are read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subnetworks.checkpoints.storage import Tensor
from subnetworks.core.errors import UserError

# Entries that are put in place at a time: their positions take eight bytes each.
_PIECE = 1 << 17


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor: where it begins along each axis, and what it holds."""

    offsets: tuple[int, ...]
    tensor: Tensor

    @property
    def sizes(self) -> tuple[int, ...]:
        """How far it reaches along each axis."""
        return self.tensor.shape


def join(name: str, shape: tuple[int, ...], chunks: Sequence[Chunk], source: str) -> Tensor:
    """The tensor of shape `shape` that `chunks` make up.

    A flat range of it (C order) is read from those chunks that hold part of it, a contiguous piece
    of each; memory beyond the result: 4 MiB.

    Args:
        name: what it is called.
        shape: of the whole.
        chunks: its blocks; one that is stored several times is read from the first. Empty ones
            do not count.
        source: the file or folder that errors name.

    Raises:
        UserError: chunks differ in dtype, overlap, or leave part of the tensor out.
    """
    what = f"{source}: tensor {name!r}"
    dtypes = sorted({chunk.tensor.dtype for chunk in chunks})
    if len(dtypes) != 1:
        found = f"parts of several dtypes ({', '.join(dtypes)})" if dtypes else "no part of it"
        raise UserError(f"{what}: {found}; save the checkpoint again")
    for chunk in chunks:
        ends = [a + b for a, b in zip(chunk.offsets, chunk.sizes, strict=False)]
        if not len(chunk.offsets) == len(chunk.sizes) == len(shape) or any(
            end > size for end, size in zip(ends, shape, strict=True)
        ):
            raise UserError(
                f"{what}: a part of shape {list(chunk.sizes)} at {list(chunk.offsets)} does not "
                f"lie within its shape {list(shape)}; save the checkpoint again"
            )
    blocks = list({(c.offsets, c.sizes): c for c in reversed(chunks) if c.tensor.n}.values())
    blocks.sort(key=lambda chunk: chunk.offsets)
    _require_partition(what, shape, blocks)
    if not blocks:
        return replace(chunks[0].tensor, name=name, shape=shape, source=source)
    if len(blocks) == 1:
        return replace(blocks[0].tensor, name=name, shape=shape, source=source)
    dtype, itemsize = dtypes[0], blocks[0].tensor.itemsize
    return Tensor(name, dtype, shape, _reader(shape, blocks, itemsize), source)


def _require_partition(what: str, shape: tuple[int, ...], blocks: Sequence[Chunk]) -> None:
    """Every entry is in one block: none overlap, and together they have as many as the whole."""
    held, n = sum(block.tensor.n for block in blocks), math.prod(shape)
    if held < n:
        raise UserError(
            f"{what}: only {held} of its {n} entries are there; fetch the other ranks' files"
        )
    axes = len(blocks), len(shape)
    begins = np.array([block.offsets for block in blocks], np.int64).reshape(axes)
    ends = begins + np.array([block.sizes for block in blocks], np.int64).reshape(axes)
    # Split along the first axis, which is usual, each ends where the next begins.
    usual = shape and (ends[:-1, 0] <= begins[1:, 0]).all()
    for index in range(1, 1 if usual else len(blocks)):
        apart = (begins[:index] >= ends[index]) | (ends[:index] <= begins[index])
        if not apart.any(axis=1).all():
            raise UserError(
                f"{what}: parts overlap, as of two checkpoints in one folder; keep one of them"
            )
    if held != n:
        raise UserError(f"{what}: {held} entries stored for {n}; save the checkpoint again")


@dataclass(frozen=True)
class _Block:
    """A chunk and how its entries lie in the whole: runs of `run` contiguous ones."""

    tensor: Tensor
    # Of the outer axes, over which runs are spread: how many, and how far apart in the whole.
    counts: tuple[int, ...]
    strides: tuple[int, ...]
    run: int
    first: int
    last: int

    def position(self, index: Any) -> Any:
        """Flat position in the whole of the run of each index."""
        found = self.first
        for count, stride in zip(reversed(self.counts), reversed(self.strides), strict=True):
            found = found + index % count * stride
            index = index // count
        return found

    def before(self, position: int) -> int:
        """How many of its entries lie before a flat position in the whole."""
        if position <= self.first:
            return 0
        if position > self.last:
            return self.tensor.n
        rest, runs = position - self.first, 0
        for axis, (count, stride) in enumerate(zip(self.counts, self.strides, strict=True)):
            step = min(rest // stride, count)
            runs = runs + step * math.prod(self.counts[axis + 1 :])
            if step == count:
                return runs * self.run
            rest -= step * stride
        return runs * self.run + min(rest, self.run)


def _block(shape: tuple[int, ...], chunk: Chunk) -> _Block:
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first = sum(o * s for o, s in zip(chunk.offsets, strides, strict=True))
    last = first + sum((n - 1) * s for n, s in zip(chunk.sizes, strides, strict=True))
    inner = len(shape)
    while inner and chunk.sizes[inner - 1] == shape[inner - 1]:
        inner -= 1
    # The last axis that the chunk does not span is part of its runs.
    outer = max(inner - 1, 0)
    return _Block(
        chunk.tensor,
        chunk.sizes[:outer],
        tuple(strides[:outer]),
        math.prod(chunk.sizes[outer:]),
        first,
        last,
    )


def _reader(
    shape: tuple[int, ...], chunks: Sequence[Chunk], itemsize: int
) -> Callable[[Any, int], None]:
    blocks = [_block(shape, chunk) for chunk in chunks]
    firsts = np.array([block.first for block in blocks])
    lasts = np.array([block.last for block in blocks])

    def read(buffer: Any, offset: int) -> None:
        out = np.frombuffer(buffer, dtype=f"u{itemsize}")
        start = offset // itemsize
        stop = start + out.size
        for index in np.flatnonzero((firsts < stop) & (lasts >= start)):
            block = blocks[index]
            begin, end = block.before(start), block.before(stop)
            if begin == end:
                continue
            if not block.counts:
                at = block.first + begin - start
                block.tensor.read_into(out[at : at + end - begin].data, begin)
                continue
            for piece in range(begin, end, _PIECE):
                entries = np.arange(piece, min(piece + _PIECE, end))
                where = block.position(entries // block.run) + entries % block.run - start
                out[where] = block.tensor.raw(piece, int(entries[-1]) + 1)

    return read
