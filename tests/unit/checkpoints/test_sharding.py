"""Tensors joined from blocks: the same as the whole that was cut, in any part, in little memory."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subnetworks.checkpoints.formats.sharding import Chunk, join
from subnetworks.checkpoints.storage import Tensor
from subnetworks.core.errors import UserError


def stored(array: np.ndarray) -> Tensor:
    flat = np.ascontiguousarray(array).reshape(-1)

    def read(buffer: Any, offset: int) -> None:
        out = np.frombuffer(buffer, np.uint16)
        out[:] = flat[offset // 2 : offset // 2 + out.size]

    return Tensor("part", "BF16", array.shape, read, "made")


@st.composite
def cut(draw: st.DrawFn) -> tuple[np.ndarray, list[Chunk]]:
    """An array, and blocks of it by cuts along random axes, in any order, some of them empty."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    whole = np.arange(int(np.prod(shape)), dtype=np.uint16).reshape(shape)
    parts = [((0,) * whole.ndim, whole)]
    for _ in range(draw(st.integers(0, 8)) if whole.ndim else 0):
        offsets, array = parts.pop(draw(st.integers(0, len(parts) - 1)))
        axis = draw(st.integers(0, whole.ndim - 1))
        at = draw(st.integers(0, array.shape[axis]))
        first, second = np.split(array, [at], axis)
        moved = tuple(o + at if a == axis else o for a, o in enumerate(offsets))
        parts += [(offsets, first), (moved, second)]
    chunks = [Chunk(offsets, stored(array)) for offsets, array in parts]
    return whole, draw(st.permutations(chunks))


@settings(max_examples=150, deadline=None)
@given(cut(), st.data())
def test_any_part_of_any_cut(cut: tuple[np.ndarray, list[Chunk]], data: st.DataObject) -> None:
    whole, chunks = cut
    twice = [*chunks, *chunks[: data.draw(st.integers(0, len(chunks)))]]
    tensor = join("w", whole.shape, twice, "made")
    assert (tensor.name, tensor.shape, tensor.dtype) == ("w", whole.shape, "BF16")
    for _ in range(5):
        start = data.draw(st.integers(0, whole.size))
        stop = data.draw(st.integers(start, whole.size))
        assert (tensor.raw(start, stop) == whole.reshape(-1)[start:stop]).all()


def block(offsets: tuple[int, ...], shape: tuple[int, ...]) -> Chunk:
    return Chunk(offsets, stored(np.zeros(shape, np.uint16)))


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([block((0, 0), (2, 3)), block((3, 0), (1, 3))], "9 of its 12 entries"),
        ([block((0, 0), (3, 3)), block((2, 0), (2, 3))], "overlap"),
        ([block((0, 0), (4, 2)), block((0, 1), (4, 2))], "overlap"),
        ([block((0, 0), (4, 3)), block((4, 0), (1, 3))], "does not lie within"),
        ([block((0,), (12,))], "does not lie within"),
        ([], "no part"),
    ],
)
def test_what_does_not_make_up_the_whole_is_refused(chunks: list[Chunk], words: str) -> None:
    with pytest.raises(UserError, match=f"made: tensor 'w': .*{words}"):
        join("w", (4, 3), chunks, "made")


def test_reading_takes_little_memory() -> None:
    """80 MiB in four parts by columns, 1 MiB at a time, and at once into a buffer of its own."""

    def zeros(buffer: Any, offset: int) -> None:
        np.frombuffer(buffer, np.uint8)[:] = 0

    shape = (8192, 640)
    parts = [Chunk((0, 640 * k), Tensor("w", "F32", shape, zeros, "made")) for k in range(4)]
    whole = join("w", (8192, 2560), parts, "made")
    buffer = np.empty(whole.n, np.uint32)
    tracemalloc.start()
    for start in range(0, whole.n, 1 << 18):
        whole.raw(start, start + (1 << 18))
    whole.read_into(buffer.data, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20
