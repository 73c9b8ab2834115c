"""Masks: one bit an entry, packed, in a safetensors file that any reader opens.

The file holds one uint8 array a parameter: the entries in C order, eight to a byte, the first in
the lowest bit (`numpy.packbits(..., bitorder="little")`), ceil(n / 8) bytes, unused bits zero. Its
metadata (all strings) gives `format` (`subnetworks-mask-1`), `shapes` (JSON, name → shape), `n` and
`changed` (entries in all and set), and where the mask comes from: `rule`, `tolerance`, and the
digests of the checkpoints `before` and `after`, the dtypes they were `compared_as` and how much of
them was (`compared_share`), or `operation`, `sources` and `seed`.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType

import numpy as np

from subnetworks.checkpoints.formats.safetensors import read_tensors
from subnetworks.checkpoints.storage import Span, Tensor
from subnetworks.checkpoints.writing import header
from subnetworks.core.errors import UserError
from subnetworks.core.files import atomic_path

FORMAT = "subnetworks-mask-1"
Shapes = Mapping[str, Sequence[int]]
# Packed bytes handled at a time.
PIECE = 1 << 17


def packed_size(shape: Sequence[int]) -> int:
    """Bytes that the mask of a parameter of this shape takes."""
    return (math.prod(shape) + 7) // 8


class Mask:
    """A mask on disk, read parameter by parameter.

    Attributes:
        path: its file.
        metadata: the strings of its header (see the module's text).
        names: its parameters, in the order of the file.
    """

    def __init__(self, path: Path, metadata: dict[str, str], arrays: dict[str, Tensor]) -> None:
        self.path = path
        self.metadata = metadata
        self._arrays = arrays
        self._shapes: dict[str, tuple[int, ...]] = {
            name: tuple(shape) for name, shape in json.loads(metadata["shapes"]).items()
        }
        self.names = list(arrays)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Mask":
        """Open a mask; `UserError` if the file is damaged or is no mask."""
        file = Path(path)
        if not file.is_file():
            raise UserError(f"{file}: no such file; a mask is written by: measure … --mask {file}")
        _, arrays, metadata = read_tensors(file)
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"{file}: not a mask (no metadata format={FORMAT!r}); "
                "`measure BEFORE AFTER --mask FILE` writes one"
            )
        try:
            mask = cls(file, dict(metadata), arrays)
            sizes = {name: packed_size(shape) for name, shape in mask._shapes.items()}
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: damaged mask: no usable shapes; write it again") from error
        if sizes != {name: array.nbytes for name, array in arrays.items()}:
            raise UserError(f"{file}: damaged mask: shapes and arrays disagree; write it again")
        return mask

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self._shapes[name]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all parameters; not to be changed, and no copy: it is asked for each name."""
        return MappingProxyType(self._shapes)

    @property
    def n(self) -> int:
        """Entries in all."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    def packed(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Packed bytes start … stop of a parameter (uint8), all of them by default."""
        return self._arrays[name].raw(start, stop)

    def read_packed(self, name: str, buffer: np.ndarray, start: int) -> None:
        """Fill a uint8 buffer with a parameter's packed bytes from byte `start`."""
        self._arrays[name].read_into(buffer, start)

    def span(self, name: str) -> Span:
        """Where a parameter's packed bytes lie."""
        reader = self._arrays[name].reader
        assert isinstance(reader, Span)
        return reader

    def array(self, name: str) -> np.ndarray:
        """One parameter's mask: bool, in the parameter's shape (n bytes of memory)."""
        shape = self._shapes[name]
        bits = np.unpackbits(self.packed(name), count=math.prod(shape), bitorder="little")
        return bits.view(np.bool_).reshape(shape)

    def count(self, name: str) -> int:
        """Set entries of one parameter."""
        total = 0
        size = self._arrays[name].nbytes
        for start in range(0, size, PIECE):
            total += popcount(self.packed(name, start, min(start + PIECE, size)))
        return total

    def confirm(self, found: int) -> None:
        """Raise `UserError` unless `found` set entries are as many as were written."""
        written = self.metadata.get("changed", str(found))
        if written != str(found):
            raise UserError(
                f"{self.path}: {found} entries are set, its header says {written}: damaged since "
                "it was written; remove it and run again"
            )


def popcount(packed: np.ndarray) -> int:
    """Set bits of a uint8 array."""
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


class Writer:
    """Writes a mask piece by piece, in any order and from several threads."""

    # Room for the digits of counts that are known only at the end.
    _SLACK = 64

    def __init__(self, path: Path, shapes: Shapes, metadata: Mapping[str, str]) -> None:
        self._shapes = {name: list(shape) for name, shape in shapes.items()}
        sizes = {name: packed_size(shape) for name, shape in self._shapes.items()}
        self._entries = {name: ("U8", (size,), size) for name, size in sizes.items()}
        self._data = len(self._header(metadata)) + self._SLACK
        *begins, end = accumulate(sizes.values(), initial=self._data)
        self._offsets = dict(zip(sizes, begins, strict=True))
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.truncate(self._descriptor, end)

    def _header(self, metadata: Mapping[str, str], room: int = 0) -> bytes:
        n = sum(math.prod(shape) for shape in self._shapes.values())
        facts = {
            "format": FORMAT,
            "n": str(n),
            **{key: str(value) for key, value in metadata.items()},
            "shapes": json.dumps(self._shapes, separators=(",", ":")),
        }
        return header(self._entries, facts, room)

    def write(self, name: str, packed: np.ndarray, start: int = 0) -> None:
        """Write packed bytes of a parameter from byte `start`; bits past its end must be zero."""
        view = memoryview(np.ascontiguousarray(packed).data).cast("B")
        offset = self._offsets[name] + start
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done

    def flush(self) -> None:
        """Have the disk write what there is, so that the end need not wait for all of it."""
        os.fsync(self._descriptor)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header; `metadata` may differ from the one announced in its digits only."""
        written = self._header(metadata, self._data)
        assert len(written) == self._data, "the announced metadata was too short"
        os.pwrite(self._descriptor, written, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@contextmanager
def writing(
    path: str | os.PathLike[str], shapes: Shapes, metadata: Mapping[str, str]
) -> Iterator[Writer]:
    """A `Writer` whose file takes its name only if the block succeeds; call `finish` in it.

    `metadata` must have every key of the final one, with values at least as long.
    """
    with atomic_path(path) as temporary:
        writer = Writer(temporary, shapes, metadata)
        try:
            yield writer
        finally:
            writer.close()


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], **metadata: str) -> None:
    """Write a mask from boolean arrays in memory.

    Args:
        path: the file.
        arrays: name → bool array in the parameter's shape.
        metadata: facts to keep (`rule`, `before`, …).
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    changed = sum(int(np.count_nonzero(array)) for array in arrays.values())
    facts = {**metadata, "changed": str(changed)}
    with writing(path, shapes, facts) as writer:
        for name, array in arrays.items():
            bits = np.asarray(array, dtype=np.bool_).reshape(-1)
            writer.write(name, np.packbits(bits, bitorder="little"))
        writer.finish(facts)


def _same_parameters(masks: Sequence[Mask]) -> Mapping[str, tuple[int, ...]]:
    first = masks[0]
    for other in masks[1:]:
        if other.shapes != first.shapes:
            names = sorted(
                name
                for name in {*first.names, *other.names}
                if first.shapes.get(name) != other.shapes.get(name)
            )
            raise UserError(
                f"{other.path}: parameter {names[0]!r} is absent or of another shape in "
                f"{first.path}; masks of the same model are needed"
            )
    return first.shapes


def combine(
    operation: str,
    masks: Sequence[Mask],
    path: str | os.PathLike[str],
    merge: Callable[[Sequence[np.ndarray]], np.ndarray],
) -> int:
    """Write what is made of masks of one model bit by bit; needs a few hundred KiB at any size.

    Args:
        operation: what the new mask records as its operation.
        masks: the masks.
        path: the file to write.
        merge: makes the new packed bytes (uint8) of those of each mask, piece by piece.

    Returns the number of set entries.

    Raises:
        UserError: the masks are of different models.
    """
    shapes = _same_parameters(masks)
    metadata = derived(operation, masks)
    changed = 0
    read = [0] * len(masks)
    with writing(path, shapes, metadata) as writer:
        for name, shape in shapes.items():
            n, size = math.prod(shape), packed_size(shape)
            for start in range(0, size, PIECE):
                stop = min(start + PIECE, size)
                sources = [mask.packed(name, start, stop) for mask in masks]
                for index, source in enumerate(sources):
                    read[index] += popcount(source)
                bits = merge(sources)
                if stop == size and n % 8:
                    bits[-1] &= (1 << n % 8) - 1
                changed += popcount(bits)
                writer.write(name, bits, start)
        for mask, found in zip(masks, read, strict=True):
            mask.confirm(found)
        writer.finish({**metadata, "changed": str(changed)})
    return changed


def derived(operation: str, masks: Sequence[Mask], **facts: str) -> dict[str, str]:
    """Metadata of a mask made of others.

    What they all share of base and rule is kept; a random mask follows no rule.
    """
    kept = {"before": _shared(masks, "before")}
    keys = ("compared_share",) if operation == "random" else _RULE
    kept |= {key: value for key in keys if (value := _shared(masks, key))}
    return {
        "operation": operation,
        "sources": json.dumps([mask.path.name for mask in masks]),
        **kept,
        **facts,
        "changed": str(masks[0].n),
    }


_RULE = ("compared_share", "compared_as", "rule", "tolerance")


def _shared(masks: Sequence[Mask], key: str) -> str:
    """What all masks record under a key; empty if that is not one thing."""
    values = {mask.metadata.get(key, "") for mask in masks}
    return values.pop() if len(values) == 1 else ""


def generator(seed: int, name: str) -> "np.random.Generator":
    """What draws for a parameter: depends on a seed and the parameter's name only."""
    key = hashlib.sha256(name.encode()).digest()[:8]
    return np.random.default_rng([seed, int.from_bytes(key, "little")])
