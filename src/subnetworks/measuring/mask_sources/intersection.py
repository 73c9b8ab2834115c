"""What all of several masks have."""

from functools import reduce

from subnetworks.measuring.mask_making import Names, OfSeveral, Request, combined


class Intersection(OfSeveral):
    """What all of several masks have."""

    intersection: Names


SETTINGS = Intersection


def make(request: Request) -> int:
    """See `subnetworks.measuring.mask_sources`."""
    import numpy as np

    return combined("intersection", request, lambda packed: reduce(np.bitwise_and, packed))
