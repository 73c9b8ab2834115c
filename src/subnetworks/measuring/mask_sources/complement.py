"""All that a mask leaves out."""

from subnetworks.core.validation import Name
from subnetworks.measuring.mask_making import OfOne, Request


class Complement(OfOne):
    """All that a mask leaves out."""

    complement: Name


SETTINGS = Complement


def make(request: Request) -> int:
    """See `subnetworks.measuring.mask_sources`."""
    from subnetworks.measuring.masks import Mask, combine

    masks = [Mask.open(path) for path in request.sources]
    return combine("complement", masks, request.output, lambda packed: ~packed[0])
