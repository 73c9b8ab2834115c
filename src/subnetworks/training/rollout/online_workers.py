"""The workers of models that train beside the policy: PPO's critic and PRIME's reward model.

Both are trained whole, whatever the policy's mask, unless they are set to keep to it.
"""

import os
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.single_controller.base.decorator import (
    Dispatch,
    make_nd_compute_dataproto_dispatch_fn,
    register,
)
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker, TrainingWorkerConfig
from verl.workers.utils.padding import no_padding_2_padding

# Registers the engines: a worker that is made of a finished configuration would not know of them.
from subnetworks.training.engine import masked as masked
from subnetworks.training.objectives import process_rewards


class CriticWorker(TrainingWorker):
    """verl's worker of one model, with our engines."""


class PrimeWorker(ActorRolloutRefWorker):
    """verl's worker of policy and reference, with a reward model."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Load all models."""
        super().init_model()
        own = self.config.reward_model
        actor = omega_conf_to_dataclass(self.config.actor)
        engine = deepcopy(actor.engine)
        micro = self.config.actor.ppo_micro_batch_size_per_gpu
        engine.use_dynamic_bsz = False
        engine.micro_batch_size_per_gpu = engine.infer_micro_batch_size_per_gpu = micro
        self.reward_model = TrainingWorker(
            TrainingWorkerConfig(
                model_type="language_model",
                # Trained whole, where the policy has adapters too.
                model_config=omega_conf_to_dataclass(
                    OmegaConf.merge(self.config.model, {"lora_rank": 0}),
                    dataclass_type=HFModelConfig,
                ),
                engine_config=engine,
                optimizer_config=omega_conf_to_dataclass(
                    OmegaConf.merge(self.config.actor.optim, own.optim)
                ),
                checkpoint_config=deepcopy(actor.checkpoint),
            )
        )
        self.reward_model.reset()
        self.reward_model.set_loss_fn(partial(loss, beta=own.beta))

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def update_reward_model(self, data: TensorDict) -> TensorDict:
        """One optimiser step of the reward model."""
        output = self.reward_model.train_mini_batch(data)
        return output.cpu() if output is not None else None

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def compute_reward_log_prob(self, data: TensorDict) -> TensorDict:
        """Log-probabilities under the reward model."""
        output = self.reward_model.infer_batch(data)
        return output.cpu() if output is not None else None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """Save the policy, and the reward model in a folder beside it."""
        super().save_checkpoint(local_path, *args, **kwargs)
        self.reward_model.save_checkpoint(_beside(local_path), *args, **kwargs)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """Load what `save_checkpoint` saved."""
        super().load_checkpoint(local_path, *args, **kwargs)
        self.reward_model.load_checkpoint(_beside(local_path), *args, **kwargs)


def _beside(path: str) -> str:
    return os.path.join(os.path.dirname(path), "reward_model")


def loss(
    model_output: Any, data: TensorDict, dp_group: Any = None, *, beta: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """The outcome loss of one micro-batch, scaled so that micro-batches and ranks add up to the
    mean (FSDP averages gradients over ranks, hence the factor `dp_size`)."""
    log_probs = no_padding_2_padding(model_output["log_probs"], data)
    padded = data.select("init_log_probs", "response_mask").to_padded_tensor()
    ratios = process_rewards.log_ratios(
        log_probs, padded["init_log_probs"], padded["response_mask"]
    )
    scores, answers = data["score"], data["global_batch_size"]
    losses = process_rewards.outcome_loss(ratios, scores, beta)
    right = process_rewards.right_side(ratios.detach(), scores)
    return losses.sum() * data["dp_size"] / answers, {"accuracy": right.sum().item() / answers}
