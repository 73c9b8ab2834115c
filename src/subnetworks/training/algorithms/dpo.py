"""Direct preference optimisation."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from subnetworks.core.validation import Above
from subnetworks.training.settings import PreferenceSettings

if TYPE_CHECKING:
    from torch import Tensor

    from subnetworks.training.objectives.preferences import Losses


class DpoSettings(PreferenceSettings):
    """DPO: the chosen answer is to lead the rejected one, compared with the init."""

    needs_reference: ClassVar[bool] = True

    algorithm: Literal["dpo"] = "dpo"

    beta: Above = Field(0.1, description="How strongly the policy is held to the init.")
    length_normalised: bool = Field(
        False, description="Whether log-probabilities are divided by the answers' lengths."
    )

    @property
    def per_token(self) -> bool:
        """As the run's own settings say."""
        return self.length_normalised


SETTINGS = DpoSettings


def loss(log_probs: "Tensor", data: Any, settings: DpoSettings) -> "Losses":
    """See `subnetworks.training.objectives.preferences`."""
    from subnetworks.training.objectives import losses, preferences

    chosen, rejected = preferences.pairs(log_probs, data, settings)
    reference = data["reference"].reshape(-1, 2)
    return losses.dpo(chosen, rejected, reference[:, 0], reference[:, 1], settings.beta)
