"""Process reinforcement through implicit rewards."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from subnetworks.core.validation import Above, AtLeastTwo, Rate, wrong
from subnetworks.training.runtime.job import Job
from subnetworks.training.settings import OnlineSettings


class PrimeSettings(OnlineSettings):
    """PRIME: a reward model, trained along on the scores of the answers, gives a reward for every
    token (`subnetworks.training.objectives.process_rewards`).

    The reward model starts as the init, which is also its reference, has the policy's schedule, and
    is trained whole even where the policy is trained within a mask, unless `mask_reward_model`.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        **OnlineSettings.renamed,
        "reward_clip_gradient": "reward_max_grad_norm",
    }
    no_kl_in_reward: ClassVar[str] = "whose tokens' rewards are its reward model's"
    bounded_rewards: ClassVar[bool] = True
    trains_another: ClassVar[bool] = True
    keeps_another: ClassVar[bool] = True

    algorithm: Literal["prime"] = "prime"

    samples_per_prompt: AtLeastTwo = Field(4, description="Answers sampled for each prompt.")
    beta: Above = Field(0.05, description="The weight of the reward model's log-ratios.")
    reward_learning_rate: Rate = Field(1e-6, description="The reward model's.")
    reward_weight_decay: Rate = Field(0.0, description="The reward model's.")
    reward_max_grad_norm: Rate = Field(10.0, description="The reward model's; 0 is none.")
    mask_reward_model: bool = Field(
        False, description="Whether the reward model keeps to the run's mask too."
    )

    @property
    def mask_beside(self) -> bool:
        """See `OnlineSettings.mask_beside`."""
        return self.mask_reward_model

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        weights = [1.0] if isinstance(self.reward, str) else list(self.reward.values())
        if min(weights) < 0 or sum(weights) > 1:
            raise wrong(
                f"reward: weights {weights}: prime needs scores in [0, 1]: give weights of at "
                "least 0 that sum to 1 at most",
                "reward",
            )


SETTINGS = PrimeSettings


def register() -> None:
    """Make its trainer and its advantages known to verl."""
    from subnetworks.training.objectives import prime  # noqa: F401


def options(job: Job) -> dict[str, object]:
    """What PRIME asks of verl."""
    settings = job.settings
    assert isinstance(settings, PrimeSettings)
    section = "actor_rollout_ref.reward_model"
    return {
        "algorithm.adv_estimator": "prime",
        "critic.enable": False,
        "trainer.v1.trainer_mode": "subnetworks_prime",
        f"+{section}.beta": settings.beta,
        # Whole, whatever the policy's mask, unless the settings say otherwise.
        f"+{section}.optim.lr": settings.reward_learning_rate,
        f"+{section}.optim.weight_decay": settings.reward_weight_decay,
        f"+{section}.optim.clip_grad": settings.reward_max_grad_norm or 1e30,
        f"+{section}.optim.override_optimizer_config.subnetworks": job.engine_beside,
    }
