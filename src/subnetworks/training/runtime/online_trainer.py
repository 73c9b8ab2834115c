"""verl's PPO trainer with a step's data in one hand: sample all answers, score them, update.

verl's own loop hands every answer through a queue between a dozen processes, which on a small model
costs more than the training. Here the driver samples a step in one call, scores it, and passes the
same batch to verl's workers; models, losses, estimators, optimisers and checkpoints are verl's.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from tensordict import TensorDict
from verl.protocol import DataProto
from verl.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions
from verl.utils.tracking import Tracking
from verl.workers.engine_workers import TrainingWorkerConfig
from verl.workers.utils.losses import value_loss
from verl.workers.utils.padding import response_from_nested, response_to_nested

from subnetworks.core.files import write_text
from subnetworks.training.data import rewards
from subnetworks.training.data.checks import read_problems
from subnetworks.training.data.conversations import (
    OPENED,
    check_ends,
    end_tokens,
    epochs,
    load_tokenizer,
    opens_thinking,
)
from subnetworks.training.rollout.online_workers import CriticWorker
from subnetworks.training.rollout.sampling import Request, endings, requests
from subnetworks.training.runtime.stopping import Stop
from subnetworks.training.settings import due

Metrics = dict[str, Any]


@register_trainer("subnetworks")
class Trainer(PPOTrainerSync):
    """GRPO, RAFT++ and PPO.

    A run's settings are in verl's configuration, our own in its section `subnetworks`.
    """

    global_steps: int

    def _build_replay_buffer(self) -> None:
        """Nothing is buffered."""

    def _setup(self) -> None:
        """Start the workers and vLLM, side by side, and go on from a saved step if there is one."""
        config = self.config
        self.seed = config.data.seed
        self.samples = config.actor_rollout_ref.rollout.n
        path, template = config.actor_rollout_ref.model.path, config.subnetworks.chat_template
        self.tokenizer = load_tokenizer(path, template)
        data = config.data
        self.problems = read_problems(data.train_files, self.tokenizer, data.max_prompt_length)
        check_ends(self.tokenizer, path)
        self.ends = end_tokens(self.tokenizer, path)
        self.thinking = opens_thinking(self.tokenizer, self.problems[0][0])
        self.held_out = (
            read_problems(data.val_files, self.tokenizer, data.max_prompt_length)
            if config.subnetworks.validate_every
            else []
        )
        self.steps = config.subnetworks.steps
        self.order = epochs(len(self.problems), config.data.train_batch_size, self.steps, self.seed)
        self._init_resource_pool_mgr()
        self.place = place(config)(config, self.resource_pool_manager)
        self._start_workers()
        if self.use_critic:
            self.critic_wg.reset()
            self.critic_wg.set_loss_fn(partial(value_loss, config=self.critic_config))
        self.actor_rollout_wg.init_model()
        self.place.start_sampler(self.actor_rollout_wg)
        self._load_checkpoint()

    def _start_workers(self) -> None:
        config = self.config
        role = next(iter(set(self.role_worker_mapping) - {Role.Critic}))
        policy = {
            "config": config.actor_rollout_ref,
            "distillation_config": config.get("distillation"),
            "role": str(role),
        }
        classes = {str(role): (self.role_worker_mapping[role], policy)}
        critic = None
        if self.use_critic:
            critic = omega_conf_to_dataclass(config.critic)
            worker = TrainingWorkerConfig(
                model_type="value_model",
                model_config=critic.model,
                engine_config=critic.engine,
                optimizer_config=critic.optim,
                checkpoint_config=critic.checkpoint,
            )
            classes[str(Role.Critic)] = (CriticWorker, {"config": worker})
        groups = self.place.workers(role, classes)
        self.actor_rollout_wg = groups[str(role)]
        self.ref_policy_wg = self.actor_rollout_wg
        self.critic_wg = groups.get(str(Role.Critic))
        self.critic_config = critic

    def on_init_end(self) -> None:
        """The sampler starts with the policy's weights."""
        self.place.send_weights(self.global_steps)

    def on_step_end(self) -> None:
        """And has them after each step."""
        with marked_timer("update_weights", self.timing_raw):
            self.place.send_weights(self.global_steps)

    def fit(self) -> None:
        """All steps from the one after the last saved to the end, or until it is asked to stop."""
        config, config_own = self.config.trainer, self.config.subnetworks
        tracking = Tracking(config.project_name, config.experiment_name, config.logger)
        stop = Stop()
        for step in range(self.global_steps + 1, self.steps + 1):
            self.global_steps = step
            metrics: Metrics = {}
            timing: dict[str, float] = {}
            with marked_timer("step", timing):
                with marked_timer("gen", timing):
                    batch = self.sample(metrics)
                self.update(batch, metrics, timing)
                stopping = stop.agreed()
                if config.save_freq and (stopping or due(step, config.save_freq, self.steps)):
                    with marked_timer("save_checkpoint", timing):
                        self._save_checkpoint()
                if due(step, config_own.validate_every, self.steps):
                    with marked_timer("validate", timing):
                        metrics |= self.validated()
                if step < self.steps and not stopping:
                    self.timing_raw = timing
                    self.on_step_end()
            metrics |= {f"timing_s/{name}": seconds for name, seconds in timing.items()}
            beside = (timing.get(name, 0.0) for name in ("validate", "save_checkpoint"))
            metrics["seconds"] = timing["step"] - sum(beside)
            tracking.log(data=metrics, step=step)
            if stopping:
                break
        tracking.finish(exit_code=0)

    def sample(self, metrics: Metrics) -> TensorDict:
        """Answers to this step's problems, scored: sequences in order, a problem's side by side."""
        own = self.config.subnetworks
        problems = [self.problems[row] for row in self.order[self.global_steps - 1]]
        prompts = [ids for ids, _ in problems]
        asked = requests(prompts, self.samples, self.seed, self.global_steps, self.ends)
        answers, texts, ends = self.answered(asked)
        truths = [truth for _, truth in problems for _ in range(self.samples)]
        reward = rewards.read(own.reward)
        scores, right = rewards.score(reward, texts, truths, self.seed, self.global_steps, ends)
        metrics["critic/score/mean"] = float(numpy.mean(scores))
        metrics["accuracy"] = float(numpy.mean(right))
        metrics["cut"] = float(numpy.mean([end.cut for end in ends]))
        metrics["response_length/mean"] = float(numpy.mean([len(ids) for ids in answers]))
        batch = as_batch([request.prompt for request in asked], answers, scores, self.samples)
        return self._balanced(batch)

    def validated(self) -> Metrics:
        """The share of right answers to the problems held out, and the number of these.

        One answer each, sampled as in training, from the same seeds at every step. The sampler has
        the weights sent anew before it goes on, so that nothing is left in its cache.
        """
        prompts = [ids for ids, _ in self.held_out]
        self.place.send_weights(self.global_steps)
        # No step of training has the number 0.
        _, texts, ends = self.answered(requests(prompts, 1, self.seed, 0, self.ends))
        truths = [truth for _, truth in self.held_out]
        reward = rewards.read(self.config.subnetworks.reward)
        _, right = rewards.score(reward, texts, truths, self.seed, 0, ends)
        return {"validation/accuracy": float(numpy.mean(right)), "validation/examples": len(right)}

    def answered(
        self, asked: Sequence[Request]
    ) -> tuple[list[list[int]], list[str], list[rewards.Ending]]:
        """Tokens, texts and endings of the answers to requests."""
        rollout = self.config.actor_rollout_ref.rollout
        answers = self.place.answers(asked, rollout.temperature)
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        if self.thinking:
            texts = [OPENED + text for text in texts]
        return answers, texts, endings(answers, self.ends, rollout.response_length)

    def _balanced(self, batch: TensorDict) -> TensorDict:
        """The batch in an order that gives every rank about as many tokens."""
        ranks = self.actor_rollout_wg.world_size
        if ranks == 1:
            return batch
        lengths = batch["input_ids"].offsets().diff().tolist()
        parts = get_seqlen_balanced_partitions(lengths, k_partitions=ranks, equal_size=True)
        return tu.index_select_tensor_dict(batch, [index for part in parts for index in part])

    def update(self, batch: TensorDict, metrics: Metrics, timing: dict[str, float]) -> None:
        """One step of every model that is trained."""
        with marked_timer("old_log_prob", timing):
            output = self.asked(
                self.actor_rollout_wg.compute_log_prob, batch, calculate_entropy=True
            )
            for name, source in (("old_log_probs", "log_probs"), ("entropy", "entropy")):
                batch[name] = response_from_nested(output[source], batch["response_mask"])
        metrics["actor/entropy"] = batch["entropy"].values().mean().item()
        if self.use_reference_policy:
            with marked_timer("ref", timing):
                batch["ref_log_prob"] = self.of_init(batch)
        if self.use_critic:
            with marked_timer("values", timing):
                output = self.asked(self.critic_wg.infer_batch, batch)
                batch["values"] = response_from_nested(output["values"], batch["response_mask"])
        with marked_timer("adv", timing):
            self.advantages(batch, metrics)
        if self.use_critic:
            with marked_timer("update_critic", timing):
                self.trained(
                    self.critic_wg.train_mini_batch, batch, self.config.critic, "critic/", metrics
                )
        with marked_timer("update_actor", timing):
            actor = self.config.actor_rollout_ref.actor
            self.trained(self.actor_rollout_wg.update_actor, batch, actor, "actor/", metrics)

    def asked(self, method: Any, batch: TensorDict, **how: Any) -> TensorDict:
        """What a worker's forward pass gives for the batch."""
        settings = {
            "calculate_entropy": False,
            "compute_loss": False,
            "temperature": self.config.actor_rollout_ref.rollout.temperature,
        }
        names = ("input_ids", "position_ids", "loss_mask", "prompts", "responses", "response_mask")
        call = batch.select(*names)
        tu.assign_non_tensor(call, **settings | how)
        return result(method(call))

    def of_init(self, batch: TensorDict, **how: Any) -> torch.Tensor:
        """The answers' log-probabilities under the init: a reference policy of its own, or what is
        left of the policy without its adapters."""
        if self.config.actor_rollout_ref.model.lora_rank:
            method, how = self.actor_rollout_wg.compute_log_prob, how | {"no_lora_adapter": True}
        else:
            method = self.ref_policy_wg.compute_ref_log_prob
        output = self.asked(method, batch, **how)
        return response_from_nested(output["log_probs"], batch["response_mask"])

    def trained(
        self, method: Any, batch: TensorDict, section: Any, prefix: str, metrics: Metrics
    ) -> None:
        """A step's updates on the batch; what the worker measured goes into `metrics`."""
        updates = self.config.subnetworks.updates_per_step
        output = result(method(self.prepared(batch, section, updates)))
        metrics |= reduce_metrics(rename_dict(tu.get(output, "metrics"), prefix))

    def prepared(self, batch: TensorDict, section: Any, updates: int = 1, **how: Any) -> TensorDict:
        """The batch as a worker's `train_mini_batch` takes it, for so many updates."""
        settings = {
            "calculate_entropy": False,
            "global_batch_size": len(batch) // updates,
            "mini_batch_size": len(batch) // updates,
            "epochs": 1,
            "seed": section.data_loader_seed,
            "dataloader_kwargs": {"shuffle": False},
            "temperature": self.config.actor_rollout_ref.rollout.temperature,
        }
        call = batch.copy()
        tu.assign_non_tensor(call, **settings | how)
        return call

    def advantages(self, batch: TensorDict, metrics: Metrics) -> None:
        """Add advantages and returns, by verl's estimators."""
        config = self.config.algorithm
        data = self.padded(batch)
        if config.use_kl_in_reward:
            data, measured = apply_kl_penalty(data, self.kl_ctrl_in_reward, config.kl_penalty)
            metrics |= measured
        data = compute_advantage(
            data,
            adv_estimator=config.adv_estimator,
            gamma=config.gamma,
            lam=config.lam,
            num_repeat=self.samples,
            norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo,
            config=config,
        )
        for name in ("advantages", "returns"):
            batch[name] = response_to_nested(data.batch[name], batch["response_mask"])

    def padded(self, batch: TensorDict) -> DataProto:
        """The batch's answers as verl's estimators take them: padded on the right."""
        names = ("response_mask", "rm_scores", "old_log_probs", "ref_log_prob", "values")
        padded = batch.select(*(name for name in names if name in batch)).to_padded_tensor()
        padded["token_level_scores"] = padded["token_level_rewards"] = padded["rm_scores"]
        groups = numpy.array(batch["group"].tolist(), dtype=object)
        return DataProto(batch=padded, non_tensor_batch={"uid": groups})

    @property
    def models(self) -> dict[str, Any]:
        """The worker groups whose state is saved, by the name of their folder."""
        return {"actor": self.actor_rollout_wg} | (
            {"critic": self.critic_wg} if self.use_critic else {}
        )

    def _save_checkpoint(self) -> None:
        """Save every model, then the mark that all are there."""
        root = Path(self.config.trainer.default_local_dir)
        folder = root / f"global_step_{self.global_steps}"
        keep = self.config.trainer.max_actor_ckpt_to_keep
        for name, group in self.models.items():
            group.save_checkpoint(
                str(folder / name), None, self.global_steps, max_ckpt_to_keep=keep
            )
        torch.save({"step": self.global_steps}, folder / "data.pt")
        write_text(root / "latest_checkpointed_iteration.txt", str(self.global_steps))

    def _load_checkpoint(self) -> None:
        """Go on from the saved step that the run was given; the data's order needs no state."""
        self.global_steps = 0
        if self.config.trainer.resume_mode != "disable":
            folder = Path(self.config.trainer.resume_from_path)
            self.global_steps = int(folder.name.rpartition("_")[2])
            for name, group in self.models.items():
                group.load_checkpoint(str(folder / name))


def place(config: Any) -> type:
    """Where the models lie: in this process, or in Ray's."""
    if config.subnetworks.one_process:
        from subnetworks.training.rollout.one_process import OneProcess

        return OneProcess
    from subnetworks.training.rollout.cluster import Cluster

    return Cluster


def as_batch(
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    scores: Sequence[float],
    samples: int,
) -> TensorDict:
    """verl's batch of sequences without padding.

    The `samples` answers to one prompt are side by side; `group` is their prompt's number.
    `rm_scores` has an answer's score at its last token.
    """

    def nested(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)

    lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    ends = [
        torch.tensor([0.0] * (len(answer) - 1) + [value])
        for answer, value in zip(answers, scores, strict=True)
    ]
    learnt = [torch.ones(len(answer), dtype=torch.int64) for answer in answers]
    return tu.get_tensordict(
        {
            "prompts": nested([torch.tensor(prompt) for prompt in prompts]),
            "responses": nested([torch.tensor(answer) for answer in answers]),
            "response_mask": nested(learnt),
            "loss_mask": nested(learnt),
            "input_ids": nested(
                [torch.tensor(p + a) for p, a in zip(prompts, answers, strict=True)]
            ),
            "position_ids": nested([torch.arange(length) for length in lengths]),
            "rm_scores": nested(ends),
            "group": torch.arange(len(prompts)) // samples,
            "score": torch.tensor(scores),
        }
    )


def result(output: Any) -> TensorDict:
    """What a worker gave, waited for where it was asked without waiting."""
    return output.get() if hasattr(output, "futures") else output
