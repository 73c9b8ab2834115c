"""What each preference algorithm makes of the log-probabilities of a micro-batch."""

from typing import Any

from torch import Tensor

from subnetworks.training.algorithms import MODULES
from subnetworks.training.objectives import losses
from subnetworks.training.settings import PreferenceSettings

Losses = tuple[Tensor, Tensor]
"""Loss and margin of each example, shape (examples,); a margin above 0 is a preference learnt."""


def answers(log_probs: Tensor, data: Any, settings: PreferenceSettings) -> Tensor:
    """Log-probability of each sequence's answer, float32, shape (sequences,).

    Args:
        log_probs: jagged, shape (sequences, tokens); entry t scores the token t + 1.
        data: verl's batch with `loss_mask`.
    """
    return losses.answer_log_probabilities(
        log_probs.values(),
        data["loss_mask"].values(),
        log_probs.offsets(),
        mean=settings.per_token,
    )


def pairs(log_probs: Tensor, data: Any, settings: PreferenceSettings) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the chosen and of the rejected answers, each of shape (examples,); both
    arguments as for `answers`, chosen and rejected by turns."""
    chosen, rejected = answers(log_probs, data, settings).reshape(-1, 2).unbind(1)
    return chosen, rejected


def loss(
    model_output: Any, data: Any, dp_group: Any = None, *, settings: PreferenceSettings
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one micro-batch, scaled so that micro-batches and ranks add up to the mean.

    FSDP averages gradients over ranks, hence the factor `dp_size`.

    Args:
        model_output: `log_probs`, jagged, shape (sequences, tokens).
        data: `loss_mask`, and for the whole step `examples`, their number; as the algorithm needs
            them `reference` and `desirable`, shape (sequences,), `kl`, and `chosen_tokens`, the
            number of tokens that the step's chosen conversations give to predict.
    """
    values, margins = MODULES[settings.algorithm].loss(model_output["log_probs"], data, settings)
    examples = data["examples"]
    return values.sum() * data["dp_size"] / examples, {
        "accuracy": (margins > 0).sum().item() / examples,
        "margin": margins.detach().sum().item() / examples,
    }
