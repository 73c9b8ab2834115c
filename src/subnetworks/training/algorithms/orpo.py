"""Odds ratio preference optimisation."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from subnetworks.core.validation import Rate
from subnetworks.training.settings import PreferenceSettings

if TYPE_CHECKING:
    from torch import Tensor

    from subnetworks.training.objectives.preferences import Losses


class OrpoSettings(PreferenceSettings):
    """ORPO: imitate the chosen text, and widen its odds."""

    algorithm: Literal["orpo"] = "orpo"

    odds_ratio_weight: Rate = Field(0.1, description="λ in the paper.")

    @property
    def per_token(self) -> bool:
        """Odds are those of the mean token."""
        return True


SETTINGS = OrpoSettings


def loss(log_probs: "Tensor", data: Any, settings: OrpoSettings) -> "Losses":
    """The imitated text is the whole chosen conversation, and every token of the step counts alike,
    as in TRL and in the authors' code."""
    from subnetworks.training.objectives import losses, preferences

    chosen, rejected = preferences.pairs(log_probs, data, settings)
    preference, ratio = losses.odds_ratio(chosen, rejected)
    texts = losses.text_log_probabilities(log_probs.values(), log_probs.offsets())
    imitation = -texts[0::2] * (data["examples"] / data["chosen_tokens"])
    return imitation + settings.odds_ratio_weight * preference, ratio
