"""Kahneman-Tversky optimisation."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from subnetworks.core.validation import Above, AtLeastTwo, Rate
from subnetworks.training.settings import PreferenceSettings

if TYPE_CHECKING:
    from torch import Tensor

    from subnetworks.training.objectives.preferences import Losses


class KtoSettings(PreferenceSettings):
    """KTO: single answers, each desirable or not; `batch_size` counts answers."""

    answers: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = True

    algorithm: Literal["kto"] = "kto"

    # The reference point comes from prompts paired with other prompts' answers.
    batch_size: AtLeastTwo = Field(32, description="Answers of one step over all devices.")
    beta: Above = Field(0.1, description="How strongly the policy is held to the init.")
    desirable_weight: Rate = Field(1.0, description="λ_D, of the loss of desirable answers.")
    undesirable_weight: Rate = Field(1.0, description="λ_U, of the loss of undesirable ones.")


SETTINGS = KtoSettings


def loss(log_probs: "Tensor", data: Any, settings: KtoSettings) -> "Losses":
    """See `subnetworks.training.objectives.preferences`."""
    from subnetworks.training.objectives import losses, preferences

    return losses.kto(
        preferences.answers(log_probs, data, settings),
        data["reference"],
        data["desirable"],
        data["kl"],
        settings.beta,
        settings.desirable_weight,
        settings.undesirable_weight,
    )
