"""An on-policy run on one CPU device in one process: verl's workers and vLLM's engine are called
instead of asked through Ray, and each package is imported once, not in each of a dozen processes.
"""

import asyncio
import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from tensordict import TensorDict

from subnetworks.training.engine.platform_cpu import weights
from subnetworks.training.rollout.answering import answer_all
from subnetworks.training.rollout.sampling import Request
from subnetworks.training.runtime.job import ALONE


def prepare(variables: Mapping[str, str]) -> None:
    """Make this process the only rank of its group; `variables` are those that verl gives its
    workers."""
    for name, value in (ALONE | dict(variables)).items():
        os.environ.setdefault(name, str(value))


class LocalGroup:
    """One of verl's workers with the face of a group of workers that has one member."""

    world_size = 1

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._worker, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            # A worker elsewhere would get a copy, and might change it.
            given = [arg.clone() if isinstance(arg, TensorDict) else arg for arg in args]
            found = method(*given, **kwargs)
            return asyncio.run(found) if inspect.iscoroutine(found) else found

        return call


class OneProcess:
    """See `subnetworks.training.rollout.cluster.Cluster`, whose face this has."""

    def __init__(self, config: Any, pools: Any) -> None:
        self.config = config

    def workers(self, pool: Any, classes: Mapping[str, tuple[Any, dict[str, Any]]]) -> Any:
        """The worker groups, by name, of (class, arguments)."""
        return {
            name: LocalGroup(getattr(cls, "__ray_actor_class__", cls)(**arguments))
            for name, (cls, arguments) in classes.items()
        }

    def start_sampler(self, policy: LocalGroup) -> None:
        """Start vLLM, which is sent the weights of `policy` from then on."""
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        model, rollout = self.config.actor_rollout_ref.model, self.config.actor_rollout_ref.rollout
        same = (
            "dtype load_format max_model_len max_num_seqs max_num_batched_tokens seed enforce_eager"
            " enable_chunked_prefill enable_prefix_caching logprobs_mode"
        ).split()
        arguments = EngineArgs(
            model=model.path,
            trust_remote_code=model.get("trust_remote_code", False),
            **{name: rollout[name] for name in same},
            **OmegaConf.to_container(rollout.engine_kwargs.vllm),
        )
        self._engine = LLMEngine.from_vllm_config(
            arguments.create_engine_config(), disable_log_stats=True
        )
        words = len(self._engine.get_tokenizer())
        self._engine.collective_rpc(
            "monkey_patch_model", kwargs={"vocab_size": words, "banned_token_ids": []}
        )
        self._policy = policy
        weights.receiver = self

    def answers(self, requests: Sequence[Request], temperature: float) -> list[list[int]]:
        """Tokens of the answer to each request, in order."""
        length = self.config.actor_rollout_ref.rollout.response_length
        return answer_all(self._engine, requests, temperature, length)

    def send_weights(self, step: int) -> None:
        """Send the policy's weights to vLLM."""
        self._policy.update_weights(global_steps=step, mode="naive")

    async def load_weights(self, named: list[tuple[str, Any]]) -> None:
        """Take (name, tensor) as the model's, and forget what older weights left in the cache."""
        self._engine.collective_rpc("load_named", args=(named,))
        self._engine.reset_prefix_cache()
