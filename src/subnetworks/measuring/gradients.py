"""Gradients of a run's loss at its init: their sums over batches, and those of their squares.

A safetensors file that any reader opens: for every parameter two float32 arrays in its shape,
`sum.NAME` and `square.NAME`. Its metadata gives `format` (`subnetworks-gradients-1`), `batches`,
`before` (the init's digest), and `settings` (the run's, as JSON).
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from subnetworks.checkpoints.formats.safetensors import read_tensors
from subnetworks.checkpoints.storage import Tensor
from subnetworks.checkpoints.writing import header
from subnetworks.core.errors import UserError
from subnetworks.core.files import atomic_path

FORMAT = "subnetworks-gradients-1"
_SUM, _SQUARE = "sum.", "square."
Values = NDArray[np.float32]


def write(
    path: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]],
    values: Iterable[Values],
    batches: int,
    metadata: Mapping[str, str],
) -> None:
    """Write a file of gradients, atomically.

    Args:
        path: the file.
        shapes: of all parameters.
        values: float32, in the order of `shapes`: all sums, then all sums of squares. Taken one at
            a time, so that they need not be held together.
        batches: how many gradients were summed.
        metadata: `before` and `settings`.
    """
    entries = {
        f"{kind}{name}": ("F32", shape, 4 * math.prod(shape))
        for kind in (_SUM, _SQUARE)
        for name, shape in shapes.items()
    }
    facts = {"format": FORMAT, "batches": str(batches), **metadata}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(header(entries, facts))
        for value in values:
            file.write(np.ascontiguousarray(value, dtype="<f4").data)


class Gradients:
    """A file of gradients, read parameter by parameter.

    Attributes:
        path: its file.
        names: its parameters, in the order of the file.
        batches: how many gradients were summed.
        before: the digest of the checkpoint they are at.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file; `UserError` if it is damaged or is no file of gradients."""
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; it is written by: subnetworks gradients")
        _, self._arrays, metadata = read_tensors(self.path)
        if metadata.get("format") != FORMAT:
            raise UserError(f"{self.path}: not a file of gradients (no format={FORMAT!r})")
        self.names = [n.removeprefix(_SUM) for n in self._arrays if n.startswith(_SUM)]
        self.batches, self.before = int(metadata["batches"]), metadata["before"]
        self.metadata = metadata

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self._arrays[_SUM + name].shape

    def mean(self, name: str, start: int = 0, stop: int | None = None) -> Values:
        """The mean gradient of entries start … stop, all by default, flat."""
        return self._read(_SUM + name, start, stop)

    def square(self, name: str, start: int = 0, stop: int | None = None) -> Values:
        """The same of squared gradients: the diagonal of the empirical Fisher information, of
        batches."""
        return self._read(_SQUARE + name, start, stop)

    def signal(self, name: str, start: int = 0, stop: int | None = None) -> Values:
        """|mean| over standard deviation of each entry's gradients, flat.

        0 where both are; infinite where only the deviation is.

        Raises:
            UserError: there is one batch only, which has no deviation.
        """
        if self.batches < 2:
            raise UserError(f"{self.path}: of one batch, which has no deviation; use at least two")
        mean = np.abs(self.mean(name, start, stop)).astype(np.float64)
        variance = self.square(name, start, stop).astype(np.float64) - mean * mean
        # Rounding of sums in float32 may leave less than nothing.
        spread = np.sqrt(np.maximum(variance, 0) * self.batches / (self.batches - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(mean > 0, mean / spread, 0).astype(np.float32)

    def _read(self, key: str, start: int, stop: int | None) -> Values:
        tensor: Tensor = self._arrays[key]
        return tensor.raw(start, stop).view(np.float32) / np.float32(self.batches)
