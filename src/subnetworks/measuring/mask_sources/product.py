"""The entries of the largest product of several scores."""

import json
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from subnetworks.core.errors import UserError
from subnetworks.measuring import mask_sources
from subnetworks.measuring.mask_making import OfGradients, Predicted, Request

if TYPE_CHECKING:
    from subnetworks.measuring.scores import Scores


class Factors(OfGradients):
    """Scores of a run's start that are multiplied."""

    of: Annotated[list[Literal["fisher", "gradient_signal", "predicted"]], Field(min_length=2)] = (
        Field(description="The sources whose scores are multiplied.")
    )


class Product(Predicted):
    """The entries of the largest product of several scores."""

    reads: ClassVar[tuple[str, ...]] = ("gradients", "init")
    options: ClassVar[tuple[str, ...]] = ("like", "density", "of")

    product: Factors

    def settings(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Predicted.settings`."""
        return {"of": self.product.of}


SETTINGS = Product


def scores(request: Request) -> "Scores":
    """The scores by which it is made: of a file of gradients and the checkpoint they are at."""
    from subnetworks.measuring.gradients import Gradients
    from subnetworks.measuring.mask_sources import predicted

    if len(request.sources) != 2:
        raise UserError(
            f"product: needs a file of gradients and a checkpoint, got {len(request.sources)}"
        )
    gradients, checkpoint = request.sources
    settings = json.loads(Gradients(gradients).metadata["settings"])
    factors = [
        predicted.of_checkpoint(checkpoint, settings)
        if name == "predicted"
        else mask_sources.load(name).scores(request)
        for name in request.options["of"]
    ]
    return reduce(lambda first, other: first.times(other), factors)


def make(request: Request) -> int:
    """See `subnetworks.measuring.mask_sources`."""
    from subnetworks.measuring import scores as by_scores

    of = " ".join(request.options["of"])
    return by_scores.make("product", request, scores(request), of=of)
