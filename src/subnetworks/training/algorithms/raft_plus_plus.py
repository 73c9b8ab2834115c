"""RAFT++: rejection sampling from the policy itself, step by step."""

from typing import ClassVar, Literal

from subnetworks.training.runtime.job import Job
from subnetworks.training.settings import OnlineSettings


class RaftPlusPlusSettings(OnlineSettings):
    """RAFT++: only right answers are learnt from, with importance ratio and clipping
    (`subnetworks.training.objectives.raft`). Its authors make four updates a step.
    """

    title: ClassVar[str] = "RAFT++"
    no_kl_in_reward: ClassVar[str] = "which only tells right answers from wrong ones"

    algorithm: Literal["raft_plus_plus"] = "raft_plus_plus"


SETTINGS = RaftPlusPlusSettings


def register() -> None:
    """Make its advantages known to verl."""
    from subnetworks.training.objectives import raft  # noqa: F401


def options(job: Job) -> dict[str, object]:
    """What RAFT++ asks of verl."""
    return {
        "algorithm.adv_estimator": "raft++",
        "critic.enable": False,
        "trainer.v1.trainer_mode": "subnetworks",
    }
