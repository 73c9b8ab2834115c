"""Proximal policy optimisation, with a critic."""

from typing import ClassVar, Literal

from pydantic import Field

from subnetworks.core.validation import Positive, Rate, Share
from subnetworks.training.runtime.job import Job
from subnetworks.training.settings import OnlineSettings


class PpoSettings(OnlineSettings):
    """PPO: advantages by generalised advantage estimation from a critic that starts as the init
    with a new value head.

    The critic has the policy's schedule, and is trained whole even where the policy is trained
    within a mask, unless `mask_critic` (its value head always is).
    """

    trains_another: ClassVar[bool] = True

    algorithm: Literal["ppo"] = "ppo"

    samples_per_prompt: Positive = Field(1, description="Answers sampled for each prompt.")
    gamma: Share = Field(1.0, description="What later rewards are discounted with.")
    lam: Share = Field(1.0, description="λ of generalised advantage estimation.")
    critic_learning_rate: Rate = Field(1e-5, description="The critic's, with the same schedule.")
    clip_value: Rate = Field(0.5, description="How far its predictions may move in one step.")
    mask_critic: bool = Field(False, description="Whether the critic keeps to the run's mask too.")

    @property
    def mask_beside(self) -> bool:
        """See `OnlineSettings.mask_beside`."""
        return self.mask_critic


SETTINGS = PpoSettings


def options(job: Job) -> dict[str, object]:
    """What PPO asks of verl."""
    from subnetworks.training.runtime.verl_options import engine, model, optimiser

    settings, tokens = job.settings, job.machine.tokens_at_once
    assert isinstance(settings, PpoSettings)
    return {
        "algorithm.adv_estimator": "gae",
        "trainer.v1.trainer_mode": "subnetworks",
        "algorithm.gamma": settings.gamma,
        "algorithm.lam": settings.lam,
        **model("critic.model", job),
        "critic.strategy": "fsdp2",
        "critic.fsdp.use_torch_compile": False,
        "+critic.fsdp.mixed_precision": job.mixed_precision,
        "critic.fsdp.seed": settings.seed,
        "critic.data_loader_seed": settings.seed,
        # Whole, whatever the policy's mask, unless the settings say otherwise.
        **optimiser("critic.optim", job, settings.critic_learning_rate, policy=False),
        "critic.ppo_micro_batch_size_per_gpu": job.sequences_at_once,
        **engine("critic.fsdp", job),
        "+critic.fsdp.use_dynamic_bsz": tokens is not None,
        **({} if tokens is None else {"+critic.fsdp.max_token_len_per_gpu": tokens}),
        **({} if tokens is None else {"+critic.fsdp.infer_max_token_len_per_gpu": tokens}),
        "+critic.fsdp.micro_batch_size_per_gpu": job.sequences_at_once,
        "+critic.fsdp.infer_micro_batch_size_per_gpu": job.sequences_at_once,
        "critic.cliprange_value": settings.clip_value,
        "critic.checkpoint.save_contents": ["model", "optimizer", "extra"],
    }
