"""The largest entries of each matrix's best approximation of a rank."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from subnetworks.core.errors import UserError
from subnetworks.core.validation import Positive
from subnetworks.measuring.mask_making import ByWeights, Chosen, Request

if TYPE_CHECKING:
    import numpy as np

    from subnetworks.checkpoints import Tensor
    from subnetworks.measuring.selections import Share


class ByRank(ByWeights):
    """The largest entries of each matrix's best approximation of a rank."""

    rank: Positive = Field(description="Of the approximation.")


class Principal(Chosen):
    """The largest entries of each matrix's best approximation of a rank."""

    memory: ClassVar[int] = 8000
    options: ClassVar[tuple[str, ...]] = ("like", "density", "rank")

    principal: ByRank


SETTINGS = Principal


def make(request: Request) -> int:
    """See `subnetworks.measuring.mask_sources`."""
    from subnetworks.measuring.selections import Share

    return principal(
        request.sources[0],
        request.output,
        Share.of_request(request),
        request.options["rank"],
        different_bases=request.different_bases,
    )


def principal(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    share: "Share",
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
    import numpy as np

    from subnetworks.checkpoints.numbers import decode
    from subnetworks.measuring import selections

    if rank < 1:
        raise UserError(f"principal: the rank must be at least 1, got {rank}")

    def choose(tensor: "Tensor") -> Iterator["np.ndarray"]:
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

    return selections.write(
        source, path, share, "principal", choose, different_bases, rank=str(rank)
    )


def _approximation(matrix: "np.ndarray", rank: int) -> "np.ndarray":
    import numpy as np

    from subnetworks.measuring.spectra.rotation import leading

    if min(matrix.shape) <= rank:
        return matrix.astype(np.float64)
    u, s, v, _ = leading(matrix, rank)
    return (u * s[:rank]) @ v.T


def _largest(matrix: "np.ndarray", count: int) -> "np.ndarray":
    """The `count` entries of largest magnitude, bool, flat."""
    import numpy as np

    size = np.abs(matrix).reshape(-1)
    if not count:
        return np.zeros(size.size, np.bool_)
    bound = np.partition(size, size.size - count)[size.size - count]
    chosen = size > bound
    chosen[np.flatnonzero(size == bound)[: count - int(chosen.sum())]] = True
    return chosen
