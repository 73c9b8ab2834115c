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


SETTINGS = GrpoSettings


def options(job: Job) -> dict[str, object]:
    """What GRPO asks of verl."""
    return {"algorithm.adv_estimator": "grpo", "trainer.v1.trainer_mode": "subnetworks"}
