"""A quantised weight, and what its modules share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from subnetworks.checkpoints.storage import Tensor
from subnetworks.core.errors import UserError

REMEDY = "dequantise it with the library that wrote it, or compare the unquantised releases"

# Scales of what flows through a layer or its cache, not of weights.
_OF_ACTIVATIONS = re.compile(
    r"(?:^|[._])(?:input|output|activation|act|q|k|v|kv|prob|prob_output|attn_output)"
    r"_(?:global_)?(?:scale|zero_point)(?:_ub|_inv)?$"
)


@dataclass(frozen=True)
class Weight:
    """A quantised weight.

    Attributes:
        name: the parameter's.
        values: the weights, bfloat16, made on reading.
        payload: their codes, one entry a weight.
        scales: what they are multiplied by.
        stored: what the checkpoint calls both, the payload first.
    """

    name: str
    values: Tensor
    payload: Tensor
    scales: Tensor
    stored: tuple[str, ...]


def written(shape: Sequence[int]) -> str:
    """A shape as people write it."""
    return "x".join(map(str, shape)) or "scalar"


def refuse(tensor: Tensor, why: str) -> UserError:
    """The error for a tensor that cannot be read as weights."""
    return UserError(f"{tensor.source}: tensor {tensor.name!r}: {why}; {REMEDY}")


def is_of_activations(name: str) -> bool:
    """Whether, in a quantised checkpoint, this is a scale of activations."""
    return bool(_OF_ACTIVATIONS.search(name))
