"""What the first of several masks has, and none of the others."""

from subnetworks.measuring.mask_making import Names, OfSeveral, Request, combined


class Difference(OfSeveral):
    """What the first of several masks has, and none of the others."""

    difference: Names


SETTINGS = Difference


def make(request: Request) -> int:
    """See `subnetworks.measuring.mask_sources`."""
    import numpy as np

    return combined(
        "difference", request, lambda packed: packed[0] & ~np.bitwise_or.reduce(packed[1:])
    )
