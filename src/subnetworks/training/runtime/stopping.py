"""A trainer that is asked to stop (SIGTERM) ends its step and saves, instead of losing it."""

import signal
from types import FrameType


class Stop:
    """Notes SIGTERM, which a cluster sends some seconds before it takes a machine away."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def agreed(self) -> bool:
        """Whether any rank was asked to; the same on every rank, at the price of a small sum."""
        import torch

        if not (torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
            return self._asked
        device = torch.accelerator.current_accelerator() or torch.device("cpu")
        flag = torch.tensor(int(self._asked), device=device)
        torch.distributed.all_reduce(flag)
        return bool(flag.item())
