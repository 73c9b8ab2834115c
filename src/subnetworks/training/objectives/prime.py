"""PRIME's trainer: in each step the reward model is first trained on the step's answers, then asked
for their process rewards (`subnetworks.training.objectives.process_rewards`)."""

from typing import Any

import ray
import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, register_adv_est
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import register_trainer
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested, response_to_nested

from subnetworks.core.errors import UserError
from subnetworks.training.objectives import process_rewards
from subnetworks.training.rollout.online_workers import PrimeWorker
from subnetworks.training.runtime.log import flat
from subnetworks.training.runtime.online_trainer import Metrics, Trainer, result


@register_adv_est("prime")
def estimate(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    process: torch.Tensor,
    groups: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """PRIME's advantages and returns as one of verl's estimators."""
    outcome = token_level_rewards.sum(1)
    return process_rewards.advantages(process, outcome, response_mask, groups)


@register_trainer("subnetworks_prime")
class PrimeTrainer(Trainer):
    """The trainer with a reward model that starts as the init, as does its reference."""

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        # The reference always, where it is a model of its own: it is the reward model's too.
        adapters = self.config.actor_rollout_ref.model.lora_rank
        role = Role.ActorRollout if adapters else Role.ActorRolloutRef
        self.role_worker_mapping = {role: ray.remote(PrimeWorker)}
        self.mapping[role] = self.resource_pool_manager.mapping[role] = "global_pool"

    def advantages(self, batch: TensorDict, metrics: Metrics) -> None:
        """Train the reward model, then add what its rewards and the scores make of the answers."""
        beta, mask = self.config.actor_rollout_ref.reward_model.beta, batch["response_mask"]
        workers = self.actor_rollout_wg
        batch["init_log_probs"] = self.of_init(batch, temperature=1.0)
        self._train_reward_model(batch, metrics)
        output = self.asked(workers.compute_reward_log_prob, batch, temperature=1.0)
        batch["reward_log_probs"] = response_from_nested(output["log_probs"], mask)

        names = ("response_mask", "rm_scores", "init_log_probs", "reward_log_probs")
        padded = batch.select(*names).to_padded_tensor()
        ratios = process_rewards.log_ratios(
            padded["reward_log_probs"], padded["init_log_probs"], padded["response_mask"]
        )
        found = get_adv_estimator_fn("prime")(
            token_level_rewards=padded["rm_scores"],
            response_mask=padded["response_mask"],
            process=process_rewards.process_rewards(ratios, padded["response_mask"], beta),
            groups=batch["group"],
            config=self.config.algorithm,
        )
        for name, values in zip(("advantages", "returns"), found, strict=True):
            batch[name] = response_to_nested(values, mask)

    def _train_reward_model(self, batch: TensorDict, metrics: Metrics) -> None:
        """One step; loss and accuracy are those before it, on answers it has not seen.

        Raises:
            UserError: a score is no outcome between 0 and 1.
        """
        if not ((batch["score"] >= 0) & (batch["score"] <= 1)).all():
            raise UserError("reward: prime needs scores in [0, 1]")
        call = self.prepared(batch, self.config.actor_rollout_ref.actor, temperature=1.0)
        measured = tu.get(result(self.actor_rollout_wg.update_reward_model(call)), "metrics")
        metrics["reward_model/loss"] = flat(measured["loss"])[0]
        metrics["reward_model/accuracy"] = sum(flat(measured["accuracy"]))
        above = (batch["score"] > 0.5).float().mean().item()
        metrics["reward_model/majority"] = max(above, 1 - above)
