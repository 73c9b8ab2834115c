"""The policy's weights on their way to vLLM: in Ray's own shared memory, which on a CPU is all that
verl's sockets would lead to, and without vLLM in the training process."""

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import torch
from verl.workers.rollout.base import BaseRollout

_BUCKET_BYTES = 64 << 20

# Where weights go in a run of one process; Ray knows it otherwise.
receiver: Any = None


def _send() -> Callable[[Any], Awaitable[Any]]:
    if receiver is not None:
        return receiver.load_weights
    import ray

    return ray.get_actor(f"vllm_server_{os.environ['RANK']}_0").load_weights.remote


class WeightSender(BaseRollout):
    """One rank's side; its replica is the one that `subnetworks.training.rollout.server` started
    for it.
    """

    async def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], **_: Any) -> None:
        """Send (name, whole tensor) as the trainer sees them; every rank gathers alike."""
        send = _send()
        bucket: list[tuple[str, torch.Tensor]] = []
        for name, tensor in weights:
            bucket.append((name, tensor.detach()))
            if sum(part.nbytes for _, part in bucket) >= _BUCKET_BYTES:
                await send(bucket)
                bucket = []
        await send(bucket)

    async def resume(self, tags: list[str]) -> None:
        """vLLM keeps its memory."""

    async def release(self) -> None:
        """vLLM keeps its memory."""
