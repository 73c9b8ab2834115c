"""The policy's weights on their way to vLLM: in Ray's own shared memory, which on a CPU is all that
verl's sockets would lead to, and without vLLM in the training process."""

import os
from collections.abc import Iterable
from typing import Any

import ray
import torch
from verl.workers.rollout.base import BaseRollout

_BUCKET_BYTES = 64 << 20


class WeightSender(BaseRollout):
    """One rank's side; its replica is the one that `subnetworks.training.server` started for it."""

    async def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], **_: Any) -> None:
        """Send (name, whole tensor) as the trainer sees them; every rank gathers alike."""
        server = ray.get_actor(f"vllm_server_{os.environ['RANK']}_0")
        bucket: list[tuple[str, torch.Tensor]] = []
        for name, tensor in weights:
            bucket.append((name, tensor.detach()))
            if sum(part.nbytes for _, part in bucket) >= _BUCKET_BYTES:
                await server.load_weights.remote(bucket)
                bucket = []
        await server.load_weights.remote(bucket)

    async def resume(self, tags: list[str]) -> None:
        """vLLM keeps its memory."""

    async def release(self) -> None:
        """vLLM keeps its memory."""
