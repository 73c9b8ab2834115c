"""What each preference algorithm makes of the log-probabilities of a micro-batch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from subnetworks.training import losses
from subnetworks.training.settings import (
    DpoSettings,
    KtoSettings,
    OrpoSettings,
    PreferenceSettings,
    SimpoSettings,
)

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


def _dpo(log_probs: Tensor, data: Any, settings: PreferenceSettings) -> Losses:
    assert isinstance(settings, DpoSettings)
    chosen, rejected = answers(log_probs, data, settings).reshape(-1, 2).unbind(1)
    reference = data["reference"].reshape(-1, 2)
    return losses.dpo(chosen, rejected, reference[:, 0], reference[:, 1], settings.beta)


def _simpo(log_probs: Tensor, data: Any, settings: PreferenceSettings) -> Losses:
    assert isinstance(settings, SimpoSettings)
    chosen, rejected = answers(log_probs, data, settings).reshape(-1, 2).unbind(1)
    return losses.simpo(chosen, rejected, settings.beta, settings.gamma)


def _orpo(log_probs: Tensor, data: Any, settings: PreferenceSettings) -> Losses:
    """The imitated text is the whole chosen conversation, and every token of the step counts alike,
    as in TRL and in the authors' code."""
    assert isinstance(settings, OrpoSettings)
    chosen, rejected = answers(log_probs, data, settings).reshape(-1, 2).unbind(1)
    preference, ratio = losses.odds_ratio(chosen, rejected)
    texts = losses.text_log_probabilities(log_probs.values(), log_probs.offsets())
    imitation = -texts[0::2] * (data["examples"] / data["chosen_tokens"])
    return imitation + settings.odds_ratio_weight * preference, ratio


def _kto(log_probs: Tensor, data: Any, settings: PreferenceSettings) -> Losses:
    assert isinstance(settings, KtoSettings)
    return losses.kto(
        answers(log_probs, data, settings),
        data["reference"],
        data["desirable"],
        data["kl"],
        settings.beta,
        settings.desirable_weight,
        settings.undesirable_weight,
    )


OBJECTIVES: dict[str, Callable[[Tensor, Any, PreferenceSettings], Losses]] = {
    "dpo": _dpo,
    "orpo": _orpo,
    "kto": _kto,
    "simpo": _simpo,
}


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
    values, margins = OBJECTIVES[settings.algorithm](model_output["log_probs"], data, settings)
    examples = data["examples"]
    return values.sum() * data["dp_size"] / examples, {
        "accuracy": (margins > 0).sum().item() / examples,
        "margin": margins.detach().sum().item() / examples,
    }
