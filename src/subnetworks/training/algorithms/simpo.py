"""Simple preference optimisation."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from subnetworks.core.validation import Above, Rate
from subnetworks.training.settings import PreferenceSettings

if TYPE_CHECKING:
    from torch import Tensor

    from subnetworks.training.objectives.preferences import Losses


class SimpoSettings(PreferenceSettings):
    """SimPO: no reference, a margin between the answers."""

    title: ClassVar[str] = "SimPO"

    algorithm: Literal["simpo"] = "simpo"

    beta: Above = Field(2.0, description="What the mean log-probabilities are multiplied with.")
    gamma: Rate = Field(1.0, description="By how much the chosen answer is to lead.")

    @property
    def per_token(self) -> bool:
        """The reward is the mean token's."""
        return True


SETTINGS = SimpoSettings


def loss(log_probs: "Tensor", data: Any, settings: SimpoSettings) -> "Losses":
    """See `subnetworks.training.objectives.preferences`."""
    from subnetworks.training.objectives import losses, preferences

    chosen, rejected = preferences.pairs(log_probs, data, settings)
    return losses.simpo(chosen, rejected, settings.beta, settings.gamma)
