"""Quantised weights: how each scheme is recognised and read, in one module a scheme.

A quantised weight is stored as a payload (codes of few bits) and scales, and represents the weights
that its own library makes of both: those are compared, and payload and scales beside them. Read
are FP8 (`fp8`) and FP4 with scales of a power of two (`fp4`); every other scheme is refused by name
(`refused`), never guessed, and no scale, zero point or table of codes ever counts as a weight.
Digests, deltas and copies are of what is stored.
"""

from dataclasses import dataclass, field

from subnetworks.checkpoints.quantised import fp4, fp8, refused
from subnetworks.checkpoints.quantised.settings import Settings
from subnetworks.checkpoints.quantised.weight import Weight
from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.storage import Tensor

__all__ = ["Reading", "Weight", "read"]


@dataclass(frozen=True)
class Reading:
    """What the stored tensors of a checkpoint are.

    Attributes:
        tensors: weights by the parameter's name, quantised ones dequantised on reading; everything
            else that is stored and is no part of a quantised weight, as it is.
        weights: the quantised weights among them.
        excluded: stored tensors that are no weights but go with quantisation, with the reason.
    """

    tensors: dict[str, Tensor]
    weights: tuple[Weight, ...] = ()
    excluded: dict[str, str] = field(default_factory=dict)


def read(checkpoint: Checkpoint) -> Reading:
    """Tell quantised weights from others; reads a few scales of each, no payload.

    Raises:
        UserError: a weight is quantised in a way that is not understood.
    """
    settings = Settings.of(checkpoint.config)
    found = [*fp8.find(checkpoint, settings), *fp4.find(checkpoint, settings)]
    by_payload = {weight.stored[0]: weight for weight in found}
    parts = {name for weight in found for name in weight.stored}
    excluded = refused.check(checkpoint, settings, parts)
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        if name in by_payload:
            tensors[by_payload[name].name] = by_payload[name].values
        elif name not in parts and name not in excluded:
            tensors[name] = tensor
    return Reading(tensors, tuple(found), excluded)
