"""As many entries at random as a mask has."""

import math
import os
from typing import TYPE_CHECKING

from subnetworks.core.validation import Name
from subnetworks.measuring.mask_making import OfOne, Request

if TYPE_CHECKING:
    from subnetworks.measuring.masks import Mask


class Random(OfOne):
    """As many entries at random, in every tensor, as a mask has."""

    random: Name


SETTINGS = Random


def make(request: Request) -> int:
    """See `subnetworks.measuring.mask_sources`."""
    from subnetworks.measuring.masks import Mask

    mask = Mask.open(request.sources[0])
    return randomise(mask, request.output, request.seed, per_tensor=not request.in_all)


def randomise(
    mask: "Mask", path: str | os.PathLike[str], seed: int, per_tensor: bool = True
) -> int:
    """Write a random mask with exactly as many set entries, drawn uniformly without replacement.

    Args:
        mask: the mask to imitate.
        path: the file to write.
        seed: of the draw; each parameter's draw depends on it and the parameter's name only.
        per_tensor: as many in each parameter as `mask` has there (default), or only in all.

    Returns the number of set entries.
    """
    import numpy as np

    from subnetworks.measuring import draws, masks

    counts = {name: mask.count(name) for name in mask.names}
    changed = sum(counts.values())
    mask.confirm(changed)
    if not per_tensor:
        sizes = {name: math.prod(shape) for name, shape in mask.shapes.items()}
        counts = draws.scattered(masks.generator(seed, ""), changed, sizes)
    facts = {"seed": str(seed), "density": "per tensor" if per_tensor else "in all"}
    metadata = masks.derived("random", [mask], **facts)
    with masks.writing(path, mask.shapes, metadata) as writer:
        for name, shape in mask.shapes.items():
            remaining, wanted, start = math.prod(shape), counts[name], 0
            generator = masks.generator(seed, name)
            while remaining:
                size = min(remaining, 8 * masks.PIECE)
                here = draws.marked(generator, wanted, remaining, size)
                bits = np.zeros(size, dtype=np.bool_)
                # The fewer of the two kinds are drawn.
                few = min(here, size - here)
                bits[generator.choice(size, few, replace=False, shuffle=False)] = True
                if few < here:
                    np.logical_not(bits, out=bits)
                writer.write(name, np.packbits(bits, bitorder="little"), start // 8)
                remaining, wanted, start = remaining - size, wanted - here, start + size
        writer.finish({**metadata, "changed": str(changed)})
    return changed
