"""FP8 weights (OCP's E4M3 and E5M2) with scales, as several libraries write them.

The weight is the payload's value times its scale, in float32, rounded to bfloat16, in every layout
read here, whether the scale is called `scale` or `scale_inv`:

- DeepSeek-V3, `weight_scale_inv` (float32, blocks of `weight_block_size`): its conversion
  `inference/fp8_cast_bf16.py` multiplies; so does `Fp8Dequantize` of transformers, also for fused
  experts. The same scales are called `scale` in DeepSeek's own inference code and in DeepSeek-V4,
  which stores them as powers of two (E8M0).
- compressed-tensors, `weight_scale` by tensor, channel, group or block (`config_groups`):
  `(code - zero_point) * scale`; a zero point is refused.
- FBGEMM, `weight_scale` by row, for fused experts by column: `scale_b` of `torch._scaled_mm`,
  which multiplies.
- ModelOpt and AutoFP8, `weight_scale` by tensor, ModelOpt also by block (rows x 1 x columns x 1):
  the largest magnitude over the format's largest number, so to be multiplied.
- The OCP's microscaling formats (MX), a power of two for 32 weights of a row, given as E8M0 or as
  the bytes of their exponents (U8).

Transformer Engine has a `scale` that divides, beside a `scale_inv`: two scales of one weight are
refused, and so are scales so large that only a divisor can be meant.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subnetworks.checkpoints.numbers import decode, encode
from subnetworks.checkpoints.quantised.grid import Grid, fit
from subnetworks.checkpoints.quantised.settings import Settings
from subnetworks.checkpoints.quantised.weight import Weight, is_of_activations, refuse, written
from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.storage import Tensor
from subnetworks.core import kernels

PAYLOADS = ("F8_E4M3", "F8_E5M2")
# Schemes (`quant_method`) whose FP8 weights are read as described above; None: no configuration.
METHODS = (None, "fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "mxfp8", "unnamed")
_SCALES = ("F64", "F32", "F16", "BF16", "F8_E8M0")
_SUFFIXES = ("_scale_inv", "_scale", "_scales", ".scale_inv", ".scale", ".scales")
# What else a scheme may keep beside a weight, and the weights are then no mere products.
_FURTHER = ("_scale_2", "_global_scale", "_zero_point")
# Scales looked at when a checkpoint is opened, and above which median they cannot be factors: the
# largest weight of a block is some hundred times its scale.
_LOOKED_AT, _LARGEST = 4096, 16

# Codes read at a time: they stay in the second-level cache with what is made of them.
_PIECE = 1 << 17
_threads = threading.local()


def find(checkpoint: Checkpoint, settings: Settings) -> Iterator[Weight]:
    """FP8 weights with scales.

    Raises:
        UserError: an FP8 weight whose scales are missing or not understood.
    """
    payloads = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if tensor.dtype in PAYLOADS and tensor.n and "scale" not in name.rpartition(".")[2]
    }
    if not payloads:
        return
    if settings.method not in METHODS:
        first = next(iter(payloads.values()))
        raise refuse(first, f"FP8 of the scheme {settings.method!r}, which is not read here")
    scales = {name: _scale(checkpoint, name) for name in payloads}
    scaled = settings.method is not None or any(scales.values())
    modules = {name.rpartition(".")[0] for name in checkpoint.tensors if _is_scale(name)}
    for name, payload in payloads.items():
        if scale := scales[name]:
            yield _weight((name, scale), payload, checkpoint[scale], settings)
        elif scaled or name.rpartition(".")[0] in modules:
            raise refuse(payload, "FP8 without scales of a known name in a quantised checkpoint")


def _is_scale(name: str) -> bool:
    last = name.rpartition(".")[2]
    return "scale" in last and not is_of_activations(name)


def _scale(checkpoint: Checkpoint, name: str) -> str | None:
    """The name of an FP8 weight's scales, if it has any."""
    stem = name.removesuffix(".weight")
    names = [name + suffix for suffix in _SUFFIXES]
    names += [stem + suffix for suffix in _SUFFIXES if suffix[0] == "." and stem != name]
    found = [scale for scale in names if scale in checkpoint.tensors]
    if len(found) > 1:
        raise refuse(checkpoint[found[0]], f"and {found[1]!r} are both scales of one weight")
    for suffix in _FURTHER:
        if further := checkpoint.tensors.get(name + suffix):
            raise refuse(further, "beside FP8 and its scales, a scheme that is not read here")
    return found[0] if found else None


def _weight(stored: tuple[str, str], payload: Tensor, scale: Tensor, settings: Settings) -> Weight:
    # Bytes of exponents are E8M0 under another name.
    scale = replace(scale, dtype="F8_E8M0") if scale.dtype == "U8" else scale
    if scale.dtype not in _SCALES:
        raise refuse(scale, f"scales stored as {scale.dtype}, a scheme that is not read here")
    grid = fit(payload.shape, scale.shape, settings.blocks)
    if grid is None:
        said = " or ".join(written(block) for block in settings.blocks)
        raise refuse(
            scale,
            f"{written(scale.shape)} scales do not fit a weight of {written(payload.shape)} "
            + (f"in blocks of {said}, as config.json has it" if said else "in one way only"),
        )
    _check_direction(scale)
    return Weight(stored[0], dequantised(payload, scale, grid), payload, scale, stored)


def _check_direction(scale: Tensor) -> None:
    """Raise `UserError` where scales can only be meant to divide by."""
    values = np.abs(decode(scale.raw(0, min(scale.n, _LOOKED_AT)), scale.dtype))
    values = values[np.isfinite(values)]
    if values.size and np.median(values) > _LARGEST:
        raise refuse(
            scale,
            f"scales of {np.median(values):.3g}: too large to multiply by, so probably divisors",
        )


def dequantised(payload: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """An FP8 weight times its scales, as bfloat16, made on reading."""
    return replace(payload, dtype="BF16", reader=Reader(payload, scale, grid))


@dataclass(frozen=True)
class Reader:
    """Reads bfloat16 weights of an FP8 payload and its scales."""

    payload: Tensor
    scale: Tensor
    grid: Grid

    def __call__(self, buffer: Any, offset: int) -> None:
        """Fill `buffer` from byte `offset` of the bfloat16 weights."""
        out = np.frombuffer(buffer, dtype=np.uint16)
        start = offset // 2
        for begin in range(0, out.size, _PIECE):
            part = out[begin : begin + _PIECE]
            codes = _buffer()[: part.size]
            self.payload.read_into(codes, start + begin)
            self.make(codes, start + begin, part)

    def make(self, codes: np.ndarray, start: int, out: np.ndarray) -> None:
        """Fill `out` (uint16) with the weights of the payload's `codes` (uint8) from `start` on."""
        if not out.size:
            return
        scales = self.scales(start, start + out.size)
        if not kernels.dequantise(codes, start, scales, out):
            factors = scales.factors.reshape(-1, self.grid.cells[1])
            out[:] = multiplied(codes, self.payload.dtype, factors, self.grid, scales.first, start)

    def scales(self, start: int, stop: int) -> kernels.Scales:
        """The scales of the weights start … stop (flat)."""
        grid = self.grid
        first, last = grid.lines(start, stop)
        columns = grid.cells[1]
        factors = decode(self.scale.raw(first * columns, last * columns), self.scale.dtype)
        e5m2 = self.payload.dtype == "F8_E5M2"
        return kernels.Scales(grid.shape[1:], grid.steps, grid.shared, factors, first, e5m2)


def _buffer() -> np.ndarray:
    """Room for a piece of a payload, each thread's own."""
    if not hasattr(_threads, "buffer"):
        _threads.buffer = np.empty(_PIECE, np.uint8)
    found: np.ndarray = _threads.buffer
    return found


def multiplied(
    codes: np.ndarray, dtype: str, factors: np.ndarray, grid: Grid, first: int, start: int
) -> np.ndarray:
    """Bits of bfloat16 weights, without the kernels, which are checked by it.

    Args:
        codes: the payload from flat index `start` on (uint8), of `dtype`.
        factors: lines of the grid from `first` on (float32).
    """
    values = decode(codes, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        products = values * grid.spread(factors, first, start, start + codes.size)
    # Of two NaN the first, which processors see differently.
    return encode(np.where(np.isnan(values), values, products), "BF16")
