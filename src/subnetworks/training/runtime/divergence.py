"""Whether a run has diverged: a number that is not finite, a loss or a distance that explodes."""

import math
from collections.abc import Mapping

from subnetworks.training.runtime.log import Row
from subnetworks.training.settings import OnlineSettings, Settings

_WORDS = {
    "loss": "loss",
    "grad_norm": "gradient's norm",
    "kl": "distance from the init (kl)",
    "critic_loss": "critic's loss",
    "reward_model_loss": "reward model's loss",
}
_REMEDY = {
    "critic_loss": "critic_learning_rate",
    "reward_model_loss": "reward_learning_rate",
}


def found(rows: Mapping[int, Row], settings: Settings | None = None) -> tuple[int, str] | None:
    """The first step at which a run has diverged, and the reason as half a sentence.

    A run has diverged if its loss, its gradient's norm, its distance from the init, or the loss of
    a model beside the policy is NaN or infinite. It also has, by the run's `max_divergence`, if the
    loss of a run that learns from texts exceeds that many times the first step's (or that number,
    if the first is below 1), or the distance from the init of an on-policy run that many nats a
    token.

    Args:
        rows: the log by step.
        settings: the run's; None to look for what is no finite number alone.
    """
    for step in sorted(rows):
        row = rows[step]
        for column, words in _WORDS.items():
            value = row.get(column)
            if value is not None and not math.isfinite(value):
                remedy = _REMEDY.get(column, "learning_rate")
                return step, (
                    f"the {words} of step {step} is {value}: the run diverged, or its init or data "
                    f"are damaged, and no checkpoint is made of it; lower its {remedy}"
                )
        if settings and (reason := _exploded(step, row, rows, settings)):
            return step, reason
    return None


def _exploded(step: int, row: Row, rows: Mapping[int, Row], settings: Settings) -> str | None:
    if settings.max_divergence is None:
        return None
    column, bound = "kl", settings.max_divergence
    if not isinstance(settings, OnlineSettings):
        first = rows.get(1, row)["loss"] or 0.0
        column, bound = "loss", bound * max(1.0, first)
    value = row.get(column)
    if value is None or value <= bound:
        return None
    return (
        f"the {_WORDS[column]} of step {step} is {value:.3g}, above {bound:.3g} (max_divergence "
        f"{settings.max_divergence:g}): the run diverged, and no checkpoint is made of it; lower "
        "its learning_rate, or raise max_divergence"
    )
