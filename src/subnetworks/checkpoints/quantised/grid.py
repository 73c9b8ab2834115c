"""Which scale belongs to which weight: scales lie in a grid over the weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subnetworks.checkpoints.quantised.settings import Block

# Sizes of blocks that are considered where no configuration says one: the powers of two, since
# other sizes would leave several possibilities for nearly every matrix.
_SIZES = [1 << k for k in range(3, 14)]


@dataclass(frozen=True)
class Grid:
    """Weights as (matrices, rows, columns), and how many of each axis share a scale.

    Attributes:
        shape: of the weights, in C order.
        steps: rows and columns a scale is for.
        shared: whether all matrices have the same scales.
    """

    shape: tuple[int, int, int]
    steps: tuple[int, int]
    shared: bool = False

    @property
    def cells(self) -> tuple[int, int]:
        """Scales of one matrix, along rows and columns."""
        _, rows, columns = self.shape
        return -(-rows // self.steps[0]), -(-columns // self.steps[1])

    def lines(self, start: int, stop: int) -> tuple[int, int]:
        """Which lines of the grid the weights start … stop (flat) need: first, and behind the last.

        A line is a row of scales; those of several matrices follow one another.
        """
        if self.shared:
            return 0, self.cells[0]
        _, rows, columns = self.shape

        def line(entry: int) -> int:
            matrix, row = divmod(entry // columns, rows)
            return matrix * self.cells[0] + row // self.steps[0]

        return line(start), line(stop - 1) + 1

    def spread(self, factors: np.ndarray, first: int, start: int, stop: int) -> np.ndarray:
        """The scale of each of the weights start … stop, from the lines from `first` on."""
        _, rows, columns = self.shape
        touched = np.arange(start // columns, -(-stop // columns))
        matrix, row = np.divmod(touched, rows)
        line = row // self.steps[0] + (0 if self.shared else matrix * self.cells[0]) - first
        # Spread over columns: quicker than an index a weight.
        wide = np.repeat(factors[line], self.steps[1], axis=1)[:, :columns].reshape(-1)
        return wide[start % columns :][: stop - start]


def fit(weights: Sequence[int], scales: Sequence[int], blocks: Sequence[Block]) -> Grid | None:
    """The grid that scales of one shape form over weights of another; None if there is no one.

    One scale for all, one per row (`(rows,)` or `(rows, 1)`, for a stack of matrices a scale or a
    column of scales each), one a column (`(1, columns)`), or one a block of a configured size;
    where none is configured, of the one power of two that fits, if both axes are cut the same one.
    """
    cells = _aligned(weights, scales)
    if cells is None or 0 in weights:
        return None
    *outer, rows, columns = (1, 1, *weights)[-max(len(weights), 2) :]
    *outer_cells, row_cells, column_cells = (1, 1, *cells)[-max(len(cells), 2) :]
    if any(cell not in (1, size) for cell, size in zip(outer_cells, outer, strict=True)):
        return None
    found = set()
    if blocks:
        by_row = column_cells == 1 and row_cells in (1, rows)
        found |= {(_plain(rows, row_cells), columns)} if by_row else set()
        for step in blocks:
            if (-(-rows // step[0]), -(-columns // step[1])) == (row_cells, column_cells):
                found.add((min(step[0], rows), min(step[1], columns)))
    else:
        sizes = [_sizes(rows, row_cells), _sizes(columns, column_cells)]
        # Cut along both axes, blocks are square.
        both = row_cells not in (1, rows) and column_cells not in (1, columns)
        found |= {(r, c) for r in sizes[0] for c in sizes[1] if r == c or not both}
    if len(found) != 1:
        return None
    steps = found.pop()
    if all(c == s for c, s in zip(outer_cells, outer, strict=True)):
        return Grid((math.prod(outer), rows, columns), steps)
    if all(c == 1 for c in outer_cells):
        return Grid((math.prod(outer), rows, columns), steps, shared=True)
    # One scale for each of the first axis, whatever follows (convolutions).
    if all(c == 1 for c in cells[1:]):
        return Grid((1, weights[0], math.prod(weights[1:])), (1, math.prod(weights[1:])))
    return None


def _plain(size: int, cells: int) -> int:
    return 1 if cells == size else size


def _sizes(size: int, cells: int) -> list[int]:
    if cells in (1, size):
        return [_plain(size, cells)]
    return [step for step in _SIZES if -(-size // step) == cells]


def _aligned(weights: Sequence[int], scales: Sequence[int]) -> list[int] | None:
    """Scales along each axis of the weights."""
    if math.prod(scales) == 1:
        return [1] * len(weights)
    if len(scales) == len(weights):
        return list(scales)
    if tuple(scales) == tuple(weights[: len(scales)]):
        return [*scales, *[1] * (len(weights) - len(scales))]
    if len(weights) == 2 and len(scales) == 4 and scales[1] == scales[3] == 1:
        return [scales[0], scales[2]]  # ModelOpt's blocks
    return None
