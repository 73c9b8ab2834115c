"""What any of several masks has."""

from functools import reduce

from subnetworks.measuring.mask_making import Names, OfSeveral, Request, combined


class Union(OfSeveral):
    """What any of several masks has."""

    union: Names


SETTINGS = Union


def make(request: Request) -> int:
    """See `subnetworks.measuring.mask_sources`."""
    import numpy as np

    return combined("union", request, lambda packed: reduce(np.bitwise_or, packed))
