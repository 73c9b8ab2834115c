"""vLLM's worker on a CPU, able to take new weights while it serves."""

from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


def _plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """Keeps plain linear weights: vLLM's CPU back end packs them and drops the parameter, and a
    packed weight cannot be loaded again."""

    def __new__(cls, **kwargs: Any) -> Any:
        import vllm.model_executor.layers.utils as layers

        layers.dispatch_cpu_unquantized_gemm = _plain_linear
        return super().__new__(cls, **kwargs)

    def load_named(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        """Take these tensors as the model's."""
        self.model_runner.model.load_weights(weights)
