"""Log-probabilities of tokens from logits, without a copy of the vocabulary for each of them."""

from typing import Any

import torch
from torch import Tensor

# Numbers of one part of the logits in float32: 8 MiB, which a core's cache nearly holds. For other
# devices, which would wait for every call, 32 times as many.
_AT_ONCE = 1 << 21
_ELSEWHERE = 32


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        chosen = torch.empty(len(rows), dtype=torch.float32, device=logits.device)
        normaliser = torch.empty_like(chosen)
        for part in _parts(logits, rows):
            values = logits[rows[part]].float()
            normaliser[part] = values.logsumexp(-1)
            chosen[part] = values.gather(-1, labels[part, None]).squeeze(-1)
        ctx.save_for_backward(logits, rows, labels, normaliser)
        return chosen - normaliser

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        """The gradient of each row is g·(one-hot of its label − softmax)."""
        (gradient,) = gradients
        logits, rows, labels, normaliser = ctx.saved_tensors
        found = torch.zeros_like(logits)
        for part in _parts(logits, rows):
            values = logits[rows[part]].float()
            values.sub_(normaliser[part, None]).exp_().mul_(-gradient[part, None])
            values.scatter_add_(-1, labels[part, None], gradient[part, None])
            found[rows[part]] = values.to(found.dtype)
        return found, None, None


def log_probabilities(logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """The log-probability of a label after each of some rows, in float32, shape (n,).

    The same numbers as `logits.float()`, its logsumexp and what it has for the label, and the same
    gradient; but the logits are held once, in their own precision, and their gradient once.

    Args:
        logits: shape (rows, vocabulary), bfloat16 or float32.
        rows: which are meant, each once; int64, shape (n,).
        labels: one for each, int64, shape (n,).
    """
    with torch.autocast(logits.device.type, enabled=False):
        result: Tensor = _LogProbabilities.apply(logits, rows, labels)
        return result


@torch.no_grad()
def entropies(logits: Tensor, rows: Tensor) -> Tensor:
    """The entropy in nats of the distribution that each of some rows gives, float32, shape (n,);
    arguments as for `log_probabilities`. It has no gradient."""
    found = torch.empty(len(rows), dtype=torch.float32, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        for part in _parts(logits, rows):
            values = logits[rows[part]].float()
            found[part] = values.logsumexp(-1) - (values.softmax(-1) * values).sum(-1)
    return found


def _parts(logits: Tensor, rows: Tensor) -> list[slice]:
    at_once = _AT_ONCE * (1 if logits.device.type == "cpu" else _ELSEWHERE)
    size = max(1, at_once // logits.shape[-1])
    return [slice(start, start + size) for start in range(0, len(rows), size)]
