"""FP4 weights (OCP's E2M1, two to a byte) with a power of two for 32 of a row: MXFP4.

The low nibble is the first of both; scales are the bytes of exponents (E8M0). Three layouts:

- gpt-oss as transformers writes it, `NAME_blocks` (U8, …, rows, groups, 16) and `NAME_scales` (U8,
  …, rows, groups). The parameter NAME is (…, 32 groups, rows): transformers transposes each
  expert (`convert_moe_packed_tensors` in `transformers.integrations.mxfp4`), so an unquantised
  release has it that way round.
- gpt-oss as its authors write it, `NAME.blocks` and `NAME.scales`, not transposed.
- DeepSeek-V4's experts (`expert_dtype: fp4`), `NAME.weight` (I8, …, rows, columns / 2) and
  `NAME.scale` (E8M0, …, rows, columns / 32), not transposed: `Fp8Dequantize` of transformers.

NVFP4, with scales in FP8 and a further one, is refused.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from subnetworks.checkpoints.numbers import decode, encode
from subnetworks.checkpoints.quantised.settings import Settings
from subnetworks.checkpoints.quantised.weight import Weight, refuse, written
from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.storage import Tensor
from subnetworks.core import kernels

GROUP = 32
METHODS = (None, "mxfp4", "fp8", "unnamed")
_POSITIVE = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
_VALUES = np.array(_POSITIVE + [-value for value in _POSITIVE], np.float32)
# Both values of each byte, and their bits in E4M3, which has all of them, as one uint16.
_PAIRS = np.stack([_VALUES[np.arange(256) & 15], _VALUES[np.arange(256) >> 4]], axis=1)
_CODES = encode(_PAIRS.reshape(-1), "F8_E4M3").view(np.uint16)
# Bytes of transposed experts that are kept, of all checkpoints together.
_KEPT = 256 << 20
# Rows transposed at a time.
_BAND = 128


def find(checkpoint: Checkpoint, settings: Settings) -> Iterator[Weight]:
    """FP4 weights with scales.

    Raises:
        UserError: payload and scales do not fit each other.
    """
    for name, payload in checkpoint.tensors.items():
        for mark in ("_blocks", ".blocks"):
            stem = name.removesuffix(mark)
            key = f"{stem}{mark[0]}scales"
            scale = checkpoint.tensors.get(key)
            if stem != name and payload.dtype == "U8" and scale is not None:
                _check(payload, settings)
                if payload.shape != (*scale.shape, GROUP // 2) or scale.dtype != "U8":
                    raise _unfit(payload, scale)
                *outer, rows, groups = (1, 1, *scale.shape)[-max(len(scale.shape), 2) :]
                shape = (*outer, rows, GROUP * groups)
                yield _weight(stem, (name, key), payload, scale, shape, mark[0] == "_")
        stem = name.removesuffix(".weight")
        scale = checkpoint.tensors.get(f"{stem}.scale")
        if payload.dtype == "I8" and stem != name and scale and scale.dtype == "F8_E8M0":
            _check(payload, settings)
            shape = (*payload.shape[:-1], 2 * sum(payload.shape[-1:]))
            if (*scale.shape[:-1], GROUP * sum(scale.shape[-1:])) != shape:
                raise _unfit(payload, scale)
            yield _weight(name, (name, f"{stem}.scale"), payload, scale, shape, False)


def _check(payload: Tensor, settings: Settings) -> None:
    if settings.method not in METHODS:
        raise refuse(payload, f"of the scheme {settings.method!r}, which is not read here")


def _unfit(payload: Tensor, scale: Tensor) -> Exception:
    return refuse(
        scale,
        f"{written(scale.shape)} scales ({scale.dtype}) do not fit FP4 of "
        f"{written(payload.shape)} bytes, {GROUP} weights a scale",
    )


def _weight(
    name: str,
    stored: tuple[str, str],
    payload: Tensor,
    scale: Tensor,
    shape: tuple[int, ...],
    transposed: bool,
) -> Weight:
    reader = Reader(payload, scale)
    values = Tensor(name, "BF16", shape, reader, payload.source)
    codes = Tensor(payload.name, "F8_E4M3", shape, reader.codes, payload.source)
    if transposed:
        *outer, rows, columns = shape
        experts = _Transposed(values, math.prod(outer), rows, columns)
        values = replace(values, shape=(*outer, columns, rows), reader=experts)
    return Weight(name, values, codes, replace(scale, dtype="F8_E8M0"), stored)


@dataclass(frozen=True)
class Reader:
    """Reads bfloat16 weights of an FP4 payload and its scales, in the order of the payload."""

    payload: Tensor
    scale: Tensor

    def __call__(self, buffer: Any, offset: int) -> None:
        """Fill `buffer` from byte `offset` of the bfloat16 weights."""
        out = np.frombuffer(buffer, dtype=np.uint16)
        start = offset // 2
        first, last = start // GROUP, -(-(start + out.size) // GROUP)
        factors = decode(self.scale.raw(first, last), "F8_E8M0")
        packed = self.payload.raw(first * GROUP // 2, last * GROUP // 2)
        bits = multiplied(packed, factors)
        out[:] = bits[start - first * GROUP :][: out.size]

    def codes(self, buffer: Any, offset: int) -> None:
        """Fill `buffer` from entry `offset` of the payload, as E4M3."""
        out = np.frombuffer(buffer, dtype=np.uint8)
        packed = self.payload.raw(offset // 2, -(-(offset + out.size) // 2)).view(np.uint8)
        out[:] = _CODES.take(packed).view(np.uint8)[offset % 2 :][: out.size]


def multiplied(packed: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Bits of bfloat16 weights: whole groups of bytes (uint8) times their scales (float32)."""
    packed = packed.view(np.uint8)
    codes = _CODES.take(packed).view(np.uint8)
    out = np.empty(codes.size, np.uint16)
    scales = kernels.Scales((1, codes.size), (1, GROUP), False, factors, 0, e5m2=False)
    if kernels.dequantise(codes, 0, scales, out):
        return out
    values = _PAIRS[packed].reshape(-1, GROUP)
    with np.errstate(invalid="ignore", over="ignore"):
        return encode((values * factors[:, None]).reshape(-1), "BF16")


@dataclass
class _Expert:
    """One matrix, transposed once it is asked for."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    bits: np.ndarray | None = None


_experts: OrderedDict[tuple[object, int], _Expert] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class _Transposed:
    """Reads each matrix of a stack transposed; those read last are kept for the next pieces."""

    values: Tensor
    matrices: int
    rows: int
    columns: int
    key: object = field(default_factory=object)

    def __call__(self, buffer: Any, offset: int) -> None:
        out = np.frombuffer(buffer, dtype=np.uint16)
        size = self.rows * self.columns
        start, done = offset // 2, 0
        while done < out.size:
            matrix, place = divmod(start + done, size)
            count = min(out.size - done, size - place)
            out[done : done + count] = self._expert(matrix)[place : place + count]
            done += count

    def _expert(self, matrix: int) -> np.ndarray:
        size = self.rows * self.columns
        with _lock:
            expert = _experts.setdefault((self.key, matrix), _Expert())
            _experts.move_to_end((self.key, matrix))
            while len(_experts) > max(2, _KEPT // (2 * size)):
                _experts.popitem(last=False)
        with expert.lock:
            if expert.bits is None:
                bits = self.values.raw(matrix * size, (matrix + 1) * size)
                expert.bits = _transposed(bits.reshape(self.rows, self.columns))
            return expert.bits.reshape(-1)


def _transposed(bits: np.ndarray) -> np.ndarray:
    """A matrix turned over, in bands that stay in the cache: four times as fast as in one go."""
    out = np.empty(bits.shape[::-1], bits.dtype)
    for start in range(0, len(bits), _BAND):
        out[:, start : start + _BAND] = bits[start : start + _BAND].T
    return out
