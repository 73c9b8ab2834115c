"""FP8 weights with scales: which scales belong to which weight, and the weights they make."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.storage import Tensor
from subnetworks.errors import UserError
from subnetworks.numbers import decode, encode

_SCALES = ("_scale_inv", "_scale")


def _written(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def scale_of(checkpoint: Checkpoint, name: str) -> Tensor | None:
    """The scales of an FP8 weight, if it has any."""
    if checkpoint.tensors[name].dtype.startswith("F8_E") and checkpoint.tensors[name].shape:
        for suffix in _SCALES:
            if name + suffix in checkpoint.tensors:
                return checkpoint.tensors[name + suffix]
    return None


def scaled_by(checkpoint: Checkpoint, name: str) -> str | None:
    """The FP8 weight that this tensor scales, if it does."""
    for suffix in _SCALES:
        weight = name.removesuffix(suffix)
        stored = checkpoint.tensors.get(weight)
        if weight != name and stored is not None and stored.dtype.startswith("F8_E"):
            return weight
    return None


def dequantised(payload: Tensor, scale: Tensor, config: Mapping[str, Any]) -> Tensor:
    """An FP8 weight times its scales, as bfloat16 (DeepSeek-V3's own conversion), made on reading.

    Scales cover the whole tensor, its rows, or blocks (`weight_block_size`, by default 128 × 128).
    """
    block = (config.get("quantization_config") or {}).get("weight_block_size") or (128, 128)
    rows, columns = payload.shape[0], math.prod(payload.shape[1:])
    grid = (*scale.shape, 1, 1)[:2] if scale.n > 1 else (1, 1)
    steps = []
    for axis, (size, cells) in enumerate(zip((rows, columns), grid, strict=True)):
        step = size if cells == 1 else 1 if cells == size else int(block[axis])
        if cells != -(-size // step):
            raise UserError(
                f"{scale.source}: tensor {scale.name!r}: {_written(scale.shape)} scales do not fit "
                f"a weight of {_written(payload.shape)} in blocks of {block[0]}x{block[1]}"
            )
        steps.append(step)
    factors = decode(scale.raw(), scale.dtype).reshape(grid)

    def read(buffer: Any, offset: int) -> None:
        out = np.frombuffer(buffer, dtype=np.uint16)
        if not out.size:
            return
        start = offset // 2
        stop = start + out.size
        values = decode(payload.raw(start, stop), payload.dtype)
        # The scales of the rows touched, spread over columns: quicker than an index a weight.
        touched = np.arange(start // columns, -(-stop // columns))
        spread = np.repeat(factors[touched // steps[0]], steps[1], axis=1)[:, :columns].reshape(-1)
        first = start % columns
        values *= spread[first : first + out.size]
        out[:] = encode(values, "BF16")

    return replace(payload, dtype="BF16", reader=read)
