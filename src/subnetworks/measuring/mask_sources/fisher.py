"""The entries of the largest mean squared gradient at a run's init."""

from typing import TYPE_CHECKING, ClassVar

from subnetworks.measuring.mask_making import OfGradients, Predicted, Request

if TYPE_CHECKING:
    from subnetworks.measuring.scores import Scores


class Fisher(Predicted):
    """The entries of the largest mean squared gradient at a run's init.

    The diagonal of the empirical Fisher information, of whole batches.
    """

    made_of: ClassVar[str] = "file of gradients"
    reads: ClassVar[tuple[str, ...]] = ("gradients",)

    fisher: OfGradients


SETTINGS = Fisher


def scores(request: Request) -> "Scores":
    """The scores by which it is made."""
    from subnetworks.measuring.scores import of_gradients

    return of_gradients(request.sources[0], "square")
