"""AdamW on bf16 weights and moments without a float32 master, whole or within a mask.

A step smaller than half the gap between neighbouring bf16 numbers is lost when the weight is
rounded to nearest. Here it is not: either what rounding took away is kept in bf16 and added to the
next step (Kahan's compensated summation), or the weight is rounded up or down at random, so that it
is right on average. Both after Zamirai et al., Revisiting BFloat16 Training (arXiv 2010.06192). A
step is computed in float32, from and to moments in bf16, which are rounded to nearest.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from subnetworks.training.engine.adamw import CompactAdamW, Inside, local, step


class KahanAdamW(CompactAdamW):
    """Keeps what rounding takes from every weight, in bf16 (`compensation` in the state).

    Weight and compensation together have about 16 significant bits.
    """

    def _advance(
        self, w: Tensor, g: Tensor, state: dict[str, Any], piece: slice, group: dict[str, Any]
    ) -> None:
        if "compensation" not in state:
            state["compensation"] = torch.zeros_like(state["exp_avg"])
        lost = state["compensation"][piece]
        exact = w.float() + lost.float()
        _step_in_float32(exact, g, state, piece, group)
        w.copy_(exact)
        lost.copy_(exact - w.float())


class StochasticAdamW(CompactAdamW):
    """Rounds every weight to one of its two neighbours in bf16, the nearer the likelier.

    What is drawn depends on `seed`, the step, the parameter, the entry and this rank's part of it
    alone: a resumed run draws the same, and one within a mask draws for its entries what one
    without would.
    """

    def __init__(
        self, parameters: Iterable[Parameter], inside: Inside, *, seed: int = 0, **others: Any
    ) -> None:
        super().__init__(parameters, inside, **others)
        self._seed = seed
        every = (p for group in self.param_groups for p in group["params"])
        self._places = {parameter: place for place, parameter in enumerate(every)}
        self._drawn = torch.empty(0, dtype=torch.int32)

    def _update(self, parameter: Parameter, group: dict[str, Any]) -> None:
        done = int(self.state[parameter]["step"]) if self.state[parameter] else 0
        numbers = (self._seed, self._places[parameter], done, *_part(parameter))
        weight, indices = local(parameter), self._indices[parameter]
        drawn = _draw(numbers, weight.numel(), weight.device)
        self._drawn = drawn if indices is None else drawn.index_select(0, indices)
        super()._update(parameter, group)

    def _advance(
        self, w: Tensor, g: Tensor, state: dict[str, Any], piece: slice, group: dict[str, Any]
    ) -> None:
        exact = w.float()
        _step_in_float32(exact, g, state, piece, group)
        w.copy_(stochastically_rounded(exact, self._drawn[piece]))


ROUNDING: dict[str, type[KahanAdamW | StochasticAdamW]] = {
    "kahan": KahanAdamW,
    "stochastic_rounding": StochasticAdamW,
}
"""What `master_weights` may be that is no torch optimiser."""


def stochastically_rounded(values: Tensor, drawn: Tensor) -> Tensor:
    """Values in bf16, each rounded to one of its two neighbours there; what is bf16 already stays.

    Args:
        values: float32.
        drawn: int32 in [0, 2^16), uniform, of the same shape: a value is rounded away from zero
            if it adds up to 2^16 or more with the bits that bf16 does not have.
    """
    bits = values.view(torch.int32)
    rounded = ((bits + drawn) & -0x10000).view(torch.float32)
    # Of what is not finite the added bits would make something else.
    return torch.where(values.isfinite(), rounded, values).bfloat16()


def _step_in_float32(
    exact: Tensor, g: Tensor, state: dict[str, Any], piece: slice, group: dict[str, Any]
) -> None:
    first, second = state["exp_avg"][piece], state["exp_avg_sq"][piece]
    exp_avg, exp_avg_sq = first.float(), second.float()
    step(exact, g.float(), exp_avg, exp_avg_sq, state["step"], group)
    first.copy_(exp_avg)
    second.copy_(exp_avg_sq)


def _draw(numbers: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """Integers in [0, 2^16) that follow from some numbers."""
    (seed,) = np.random.SeedSequence(numbers).generate_state(1)
    generator = torch.Generator(device).manual_seed(int(seed))
    return torch.randint(1 << 16, (size,), dtype=torch.int32, device=device, generator=generator)


def _part(parameter: Parameter) -> tuple[int, ...]:
    """Which part of a sharded parameter this rank has; replicas of one part say the same."""
    if not isinstance(parameter, DTensor):
        return ()
    places = zip(parameter.device_mesh.get_coordinate() or (), parameter.placements, strict=True)
    return tuple(place for place, placement in places if placement.is_shard())
