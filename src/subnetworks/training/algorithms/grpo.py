"""Group relative policy optimisation."""

from typing import Literal

from pydantic import Field

from subnetworks.core.validation import AtLeastTwo
from subnetworks.training.runtime.job import Job
from subnetworks.training.settings import OnlineSettings


class GrpoSettings(OnlineSettings):
    """GRPO: advantages within each prompt's samples."""

    algorithm: Literal["grpo"] = "grpo"

    samples_per_prompt: AtLeastTwo = Field(4, description="Answers sampled for each prompt.")
    loss_aggregation: Literal["token_mean", "sequence_mean", "dr_grpo"] = Field(
        "token_mean",
        description="What the loss is the mean of: all tokens of an update alike; each answer's "
        "mean, as in GRPO's paper; or (Dr. GRPO) each answer's sum over max_response_length, with "
        "advantages not divided by their standard deviation.",
    )


SETTINGS = GrpoSettings

_AGGREGATIONS = {
    "token_mean": "token-mean",
    "sequence_mean": "seq-mean-token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}


def options(job: Job) -> dict[str, object]:
    """What GRPO asks of verl."""
    settings = job.settings
    assert isinstance(settings, GrpoSettings)
    dr_grpo = settings.loss_aggregation == "dr_grpo"
    actor = "actor_rollout_ref.actor"
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": not dr_grpo,
        "trainer.v1.trainer_mode": "subnetworks",
        f"{actor}.loss_agg_mode": _AGGREGATIONS[settings.loss_aggregation],
        f"{actor}.loss_scale_factor": settings.max_response_length if dr_grpo else None,
    }
