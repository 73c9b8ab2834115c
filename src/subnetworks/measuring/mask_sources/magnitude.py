"""The entries of lowest magnitude in each tensor."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from subnetworks.measuring.mask_making import ByWeights, Chosen, Request

if TYPE_CHECKING:
    import numpy as np

    from subnetworks.checkpoints import Tensor
    from subnetworks.measuring.scores import Scores
    from subnetworks.measuring.selections import Share

# Entries read at a time; whole bytes of a mask.
_CHUNK = 1 << 20


class Magnitude(Chosen):
    """The entries of lowest magnitude in each tensor."""

    magnitude: ByWeights


SETTINGS = Magnitude


def make(request: Request) -> int:
    """See `subnetworks.measuring.mask_sources`."""
    from subnetworks.measuring.selections import Share

    return magnitude(
        request.sources[0],
        request.output,
        Share.of_request(request),
        different_bases=request.different_bases,
    )


def scores(request: Request) -> "Scores":
    """1/|w|, so that the lowest magnitudes come first."""
    import numpy as np

    from subnetworks.measuring.scores import Values, of_weights

    def reciprocal(weights: Values) -> Values:
        with np.errstate(divide="ignore"):
            return np.nan_to_num(1 / np.abs(weights), nan=0.0, posinf=np.inf)

    return of_weights(request.sources[0], reciprocal)


def magnitude(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    share: "Share",
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

    import numpy as np

    from subnetworks.measuring import selections

    def choose(tensor: "Tensor") -> Iterator["np.ndarray"]:
        wanted = share.of(tensor.name, tensor.n)
        bound, ties = selections.lowest(
            lambda: (keys for _, keys in _keys(tensor)), 8 * tensor.itemsize, wanted
        )
        for _, keys in _keys(tensor):
            equal = np.flatnonzero(keys == bound)[:ties]
            ties -= equal.size
            chosen = keys < bound
            chosen[equal] = True
            yield chosen

    return selections.write(source, path, share, "magnitude", choose, different_bases)


def _keys(tensor: "Tensor") -> Iterator[tuple[int, "np.ndarray"]]:
    """Start and |w| of each chunk, as unsigned integers in the order of the magnitudes."""
    mask = (1 << (8 * tensor.itemsize - 1)) - 1
    for start in range(0, tensor.n, _CHUNK):
        bits = tensor.raw(start, min(start + _CHUNK, tensor.n))
        yield start, bits & bits.dtype.type(mask)
