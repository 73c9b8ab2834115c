"""Weights on their way from the trainer to vLLM, kept apart from other runs on the same machine.

verl names the socket through which weights reach vLLM after Ray's job number, and that is the same
in every private Ray: two runs side by side would take each other's weights. Here the socket lies in
the run's own folder (SUBNETWORKS_SOCKETS).
"""

import os
from typing import Any

from verl.workers.rollout.vllm_rollout import ServerAdapter as VllmAdapter
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


def private_socket(shared: str) -> str:
    """The address in the run's own folder that replaces one in the machine's."""
    folder = os.environ.get("SUBNETWORKS_SOCKETS")
    return f"ipc://{folder}/{os.path.basename(shared)}" if folder else shared


class ServerAdapter(VllmAdapter):
    """The trainer's side: sends weights."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.zmq_handle = private_socket(self.zmq_handle)


class WorkerExtension(vLLMColocateWorkerExtension):
    """vLLM's side: receives weights."""

    def _get_zmq_handle(self) -> str:
        return private_socket(super()._get_zmq_handle())
