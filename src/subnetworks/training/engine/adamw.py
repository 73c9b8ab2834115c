"""AdamW within a mask, in two forms that agree to the bit: dense, and compact in memory.

Both keep every entry outside the mask as it is: gradients are set to zero there before they are
clipped (Conjecture 1: m ⊙ ∇L just before the update), and decoupled weight decay, which would move
entries without a gradient, is applied inside only. With a mask of ones either is
`torch.optim.AdamW`. The arithmetic is torch's own, in the flavour it takes by default: one tensor
at a time on a CPU, many at a time (foreach) on CUDA.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim.adamw import adamw

# Entries updated at a time: on a CPU all that a step touches then fits the second-level cache.
_CHUNK = {"cpu": 1 << 16}
_CHUNK_ELSEWHERE = 1 << 24
_INT32 = 1 << 31

Inside = Iterable[tuple[Parameter, Tensor | None]]
"""Each parameter's mask: bool, in the shape of this rank's part; None where all is trained. Taken
one at a time, so that all of them need not be held together."""


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class DenseAdamW(torch.optim.AdamW):
    """Two moments for every entry; those outside the mask stay zero.

    Args:
        parameters: what is trained.
        inside: their masks.
        others: as for `torch.optim.AdamW`.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        inside: Inside,
        *,
        weight_decay: float = 1e-2,
        **others: Any,
    ) -> None:
        super().__init__(parameters, weight_decay=0.0, **others)
        self._weight_decay = weight_decay
        self._outside = {parameter: None if mask is None else ~mask for parameter, mask in inside}
        # Not before: a step that is skipped, for its gradient is not finite, decays nothing.
        self.register_step_pre_hook(lambda *_: self._decay())

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients to zero outside the mask."""
        for parameter, outside in self._outside.items():
            if parameter.grad is not None and outside is not None:
                # Not a product: 0 · inf is nan, and an overflow outside would poison the norm.
                local(parameter.grad).masked_fill_(outside, 0.0)

    @torch.no_grad()
    def _decay(self) -> None:
        if not self._weight_decay:
            return
        for group in self.param_groups:
            shrink = 1 - group["lr"] * self._weight_decay
            for parameter in group["params"]:
                if parameter.grad is not None:
                    weight, outside = local(parameter), self._outside[parameter]
                    if outside is None:
                        weight.mul_(shrink)
                    else:
                        weight.copy_(torch.where(outside, weight, weight * shrink))


class CompactAdamW(torch.optim.Optimizer):
    """Two moments for the entries inside the mask alone.

    A parameter's `exp_avg` and `exp_avg_sq` have one dimension: the masked-in entries of this
    rank's part in C order, as the flat indices (int32 where they fit) that are kept beside them,
    though not in `state_dict`: the mask gives them again.

    Args:
        parameters: what is trained; their local parts must be contiguous.
        inside: their masks.
        lr, betas, eps, weight_decay: as for `torch.optim.AdamW`.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        inside: Inside,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self._indices = {parameter: _indices(mask) for parameter, mask in inside}

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients to zero outside the mask."""
        for parameter, indices in self._indices.items():
            if parameter.grad is not None and indices is not None:
                flat = local(parameter.grad).view(-1)
                kept = flat.index_select(0, indices)
                flat.zero_()
                for piece in _pieces(kept):
                    flat.scatter_(0, indices[piece].long(), kept[piece])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step; parameters without a gradient are left alone."""
        assert closure is None, "a closure's gradients would not be masked"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Parameter, group: dict[str, Any]) -> None:
        weight, gradient = local(parameter).view(-1), local(parameter.grad).view(-1)
        indices = self._indices[parameter]
        state = self.state[parameter]
        if not state:
            size = weight.numel() if indices is None else indices.numel()
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = weight.new_zeros(size)
            state["exp_avg_sq"] = weight.new_zeros(size)
        for piece in _pieces(state["exp_avg"]):
            if indices is None:
                w, g = weight[piece], gradient[piece]
            else:
                w = weight.index_select(0, indices[piece])
                g = gradient.index_select(0, indices[piece])
            self._advance(w, g, state, piece, group)
            if indices is not None:
                weight.scatter_(0, indices[piece].long(), w)
        state["step"] += 1

    def _advance(
        self, w: Tensor, g: Tensor, state: dict[str, Any], piece: slice, group: dict[str, Any]
    ) -> None:
        """One step of some entries `w` by their gradients `g`, in place; `piece` are their moments'
        places in the state."""
        step(w, g, state["exp_avg"][piece], state["exp_avg_sq"][piece], state["step"], group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a run within the same mask, over as many ranks.

        Raises:
            ValueError: it has moments for another number of entries.
        """
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            indices = self._indices[parameter]
            size = local(parameter).numel() if indices is None else indices.numel()
            if state["exp_avg"].numel() != size:
                raise ValueError(
                    f"the saved optimiser has moments for {state['exp_avg'].numel()} entries of a "
                    f"parameter of which the mask has {size}: it is another mask's"
                )


def step(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    done: Tensor,
    group: dict[str, Any],
) -> None:
    """torch's AdamW on tensors of one shape, in place, after so many steps `done`."""
    beta1, beta2 = group["betas"]
    adamw(
        [weight],
        [gradient],
        [exp_avg],
        [exp_avg_sq],
        [],
        [done.clone()],
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


FORMS: dict[str, type[DenseAdamW | CompactAdamW]] = {"compact": CompactAdamW, "dense": DenseAdamW}


def _indices(mask: Tensor | None) -> Tensor | None:
    """Flat indices of the set entries; None for all of them."""
    if mask is None or bool(mask.all()):
        return None
    indices = mask.reshape(-1).nonzero().view(-1)
    return indices.int() if mask.numel() < _INT32 else indices


def _pieces(values: Tensor) -> Iterable[slice]:
    chunk = _CHUNK.get(values.device.type, _CHUNK_ELSEWHERE)
    return [slice(start, start + chunk) for start in range(0, values.numel(), chunk)]
