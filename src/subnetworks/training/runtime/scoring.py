"""Forward passes over conversations by verl's worker that trains, shared among its ranks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from subnetworks.training.data.examples import Conversation

if TYPE_CHECKING:
    from torch import Tensor

Measure = Callable[["Tensor", Any, list[int]], "Tensor"]
"""From log-probabilities (jagged, shape (sequences, tokens); entry t scores the token t + 1), the
batch, and the examples' numbers to what is measured, float32, shape (examples, numbers)."""


class Scorer:
    """Measures examples under the weights as they are.

    Nothing random is drawn, so training goes on as if nothing had been asked.

    Args:
        worker: verl's `TrainingWorker`.
        meta: what its batches say of themselves.
        at_once: sequences in one forward pass on one device.
    """

    def __init__(self, worker: Any, meta: dict[str, Any], at_once: int) -> None:
        self.worker, self.meta, self.at_once = worker, meta, at_once
        self.rank = worker.engine.get_data_parallel_rank()
        self.ranks = worker.engine.get_data_parallel_size()

    def batch(self, sequences: Sequence[Conversation]) -> Any:
        """verl's batch of these conversations, in their order."""
        import torch
        from verl.utils import tensordict_utils as tu
        from verl.utils.dataset.dataset_utils import DatasetPadMode

        def nested(values: list[list[int]]) -> Any:
            tensors = [torch.tensor(value) for value in values]
            return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)

        return tu.get_tensordict(
            {
                "input_ids": nested([ids for ids, _ in sequences]),
                "loss_mask": nested([answer for _, answer in sequences]),
                "position_ids": nested([list(range(len(ids))) for ids, _ in sequences]),
            },
            self.meta | {"pad_mode": DatasetPadMode.NO_PADDING},
        )

    def each(
        self, examples: Sequence[Sequence[Conversation]], measure: Measure, numbers: int = 1
    ) -> "Tensor":
        """What is measured of each example; float32, shape (examples, numbers), on every rank.

        Args:
            examples: each of as many conversations.
            measure: called with some of them at a time.
            numbers: how many numbers that gives of each.
        """
        import torch
        from verl.utils import tensordict_utils as tu

        values = torch.zeros(len(examples), numbers)
        # Equal numbers of equal batches on every rank, because sharded weights are gathered by all
        # ranks together.
        size = self.at_once // len(examples[0]) * self.ranks
        for begin in range(0, len(examples), size):
            chunk = list(range(begin, min(begin + size, len(examples))))
            padded = chunk + chunk[:1] * (size - len(chunk))
            mine = padded[self.rank :: self.ranks]
            batch = self.batch([sequence for index in mine for sequence in examples[index]])
            tu.assign_non_tensor(batch, compute_loss=False)
            found = measure(self.worker.infer_batch(batch)["log_probs"], batch, mine)
            own = len(range(self.rank, len(chunk), self.ranks))
            values[mine[:own]] = found[:own].detach().float().cpu()
        if self.ranks > 1:
            # Each example is measured by one rank; elsewhere it is 0.
            device = self.worker.device_name
            values = values.to(device)
            torch.distributed.all_reduce(values)
        return values.cpu()
