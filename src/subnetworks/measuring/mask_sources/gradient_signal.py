"""The entries whose gradients at a run's init agree most from batch to batch."""

from typing import TYPE_CHECKING, ClassVar

from subnetworks.measuring.mask_making import OfGradients, Predicted, Request

if TYPE_CHECKING:
    from subnetworks.measuring.scores import Scores


class GradientSignal(Predicted):
    """The entries whose gradients at a run's init agree most from batch to batch.

    By |mean| over standard deviation.
    """

    made_of: ClassVar[str] = "file of gradients"
    reads: ClassVar[tuple[str, ...]] = ("gradients",)

    gradient_signal: OfGradients


SETTINGS = GradientSignal


def scores(request: Request) -> "Scores":
    """The scores by which it is made."""
    from subnetworks.measuring.scores import of_gradients

    return of_gradients(request.sources[0], "signal")
