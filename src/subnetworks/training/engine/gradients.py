"""Gradients of a run's loss at its init, summed entry by entry over its first batches."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from subnetworks.training.engine.adamw import local


class Moments:
    """Sums of gradients and of their squares, float32, each rank's part of every parameter.

    Takes the place of an optimiser's step: the weights stay, so every batch's gradient is that at
    the init. After the last of the batches asked for, the first rank writes the file
    (`subnetworks.measuring.gradients`); those after it are left out.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], asked: dict[str, Any]) -> None:
        self.parameters = dict(parameters)
        self.batches, self.metadata = int(asked["batches"]), dict(asked["metadata"])
        self.file = Path(asked["file"])
        self.done = 0
        parts = {name: local(parameter.detach()) for name, parameter in self.parameters.items()}
        self.sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parts.items()}
        self.squares = {name: torch.zeros_like(value) for name, value in self.sums.items()}

    def add(self) -> float:
        """Add the gradients that there are; returns their norm over all entries and ranks."""
        squared = torch.zeros((), dtype=torch.float64)
        wanted = self.done < self.batches
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            gradient = local(parameter.grad).float()
            square = gradient.square()
            if wanted:
                self.sums[name] += gradient
                self.squares[name] += square
            squared += square.sum(dtype=torch.float64).cpu()
        self.done += 1
        if self.done == self.batches:
            self._write()
        return self._norm(squared)

    def _norm(self, squared: Tensor) -> float:
        device = next(iter(self.sums.values())).device
        if torch.distributed.get_world_size() > 1:
            squared = squared.to(device)
            torch.distributed.all_reduce(squared)
        return math.sqrt(float(squared))

    def _write(self) -> None:
        from subnetworks.measuring import gradients

        # Joined on all ranks, one at a time; copied to main memory on the first alone.
        values = (
            self._whole(name, part)
            for parts in (self.sums, self.squares)
            for name, part in parts.items()
        )
        if torch.distributed.get_rank():
            for _ in values:
                pass
            return
        shapes = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        copied = (value.cpu().numpy() for value in values)
        gradients.write(self.file, shapes, copied, self.batches, self.metadata)

    def _whole(self, name: str, part: Tensor) -> Tensor:
        """All of a parameter, of which this rank has a part."""
        parameter = self.parameters[name]
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            part = DTensor.from_local(
                part, mesh, placements, shape=parameter.shape, stride=parameter.stride()
            ).full_tensor()
        return part
