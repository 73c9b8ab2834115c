"""As many entries at random as a mask has."""

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from subnetworks.core.validation import Name
from subnetworks.measuring.mask_making import OfOne, Request

if TYPE_CHECKING:
    from numpy.random import Generator

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

    from subnetworks.measuring import masks

    counts = {name: mask.count(name) for name in mask.names}
    changed = sum(counts.values())
    mask.confirm(changed)
    if not per_tensor:
        counts = _scatter(changed, {n: math.prod(s) for n, s in mask.shapes.items()}, seed)
    facts = {"seed": str(seed), "density": "per tensor" if per_tensor else "in all"}
    metadata = masks.derived("random", [mask], **facts)
    with masks.writing(path, mask.shapes, metadata) as writer:
        for name, shape in mask.shapes.items():
            remaining, wanted, start = math.prod(shape), counts[name], 0
            generator = masks.generator(seed, name)
            while remaining:
                size = min(remaining, 8 * masks.PIECE)
                here = _hypergeometric(generator, wanted, remaining, size)
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


def _scatter(changed: int, sizes: Mapping[str, int], seed: int) -> dict[str, int]:
    """How many of `changed` fall on each parameter if each entry is as likely as any other."""
    from subnetworks.measuring import masks

    generator = masks.generator(seed, "")
    remaining, wanted, counts = sum(sizes.values()), changed, {}
    for name, size in sizes.items():
        counts[name] = _hypergeometric(generator, wanted, remaining, size)
        remaining, wanted = remaining - size, wanted - counts[name]
    return counts


def _hypergeometric(generator: "Generator", wanted: int, total: int, drawn: int) -> int:
    """How many of `wanted` marked among `total` are in a random `drawn`.

    Beyond 10⁹ entries, NumPy's limit, the normal approximation (relative error below 1e-4).
    """
    if total < 1_000_000_000:
        return int(generator.hypergeometric(wanted, total - wanted, drawn))
    share = wanted / total
    spread = math.sqrt(drawn * share * (1 - share) * (total - drawn) / max(total - 1, 1))
    value = round(generator.normal(drawn * share, spread))
    return min(max(value, drawn - (total - wanted), 0), wanted, drawn)
