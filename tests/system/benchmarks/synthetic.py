"""A synthetic pair of Llama checkpoints of any size, written streaming and from a seed."""

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

HIDDEN, MLP, KEYS, VOCABULARY = 2048, 8192, 512, 32000
# A pair too small for these sizes has them divided.
DIVISOR = 32
# Share of weights that move, by one representable value mostly, by two sometimes.
MOVED = 0.2
_PIECE = 1 << 22
Shapes = list[tuple[str, tuple[int, ...]]]


def layer(k: int, divisor: int = 1) -> Shapes:
    """The parameters of one layer."""
    stem = f"model.layers.{k}."
    hidden, mlp, keys = HIDDEN // divisor, MLP // divisor, KEYS // divisor
    return [
        (stem + "self_attn.q_proj.weight", (hidden, hidden)),
        (stem + "self_attn.k_proj.weight", (keys, hidden)),
        (stem + "self_attn.v_proj.weight", (keys, hidden)),
        (stem + "self_attn.o_proj.weight", (hidden, hidden)),
        (stem + "mlp.gate_proj.weight", (mlp, hidden)),
        (stem + "mlp.up_proj.weight", (mlp, hidden)),
        (stem + "mlp.down_proj.weight", (hidden, mlp)),
        (stem + "input_layernorm.weight", (hidden,)),
        (stem + "post_attention_layernorm.weight", (hidden,)),
    ]


def size(shapes: Shapes) -> int:
    """Parameters in all."""
    return sum(int(np.prod(shape)) for _, shape in shapes)


def block(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n bfloat16 weights (as bits) before and after."""
    rng = np.random.Generator(np.random.SFC64(seed))
    values = rng.standard_normal(n, dtype=np.float32) * np.float32(0.02)
    before = (values.view(np.uint32) >> 16).astype(np.uint16)
    step = np.zeros(256, np.int16)
    moving = round(256 * MOVED)
    step[:moving] = np.array([1, -1, 1, -1, 2, -2, 1, -1, 1, -1], np.int16)[np.arange(moving) % 10]
    moved = step[rng.integers(0, 256, n, dtype=np.uint8)]
    moved[(before & 0x7FFF) < 4] = 0
    return before, (before.view(np.int16) + moved).view(np.uint16)


def header(shapes: Shapes, dtypes: dict[str, tuple[str, int]] | None = None) -> bytes:
    """The header of a safetensors file; `dtypes` gives dtype and width of what is not bfloat16."""
    entries, position = {}, 0
    for name, shape in shapes:
        dtype, width = (dtypes or {}).get(name, ("BF16", 2))
        end = position + width * int(np.prod(shape))
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def save(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """A safetensors file of arrays, each with the format's name of its dtype."""
    shapes: Shapes = [(name, array.shape) for name, (_, array) in tensors.items()]
    dtypes = {name: (dtype, array.itemsize) for name, (dtype, array) in tensors.items()}
    with open(path, "wb") as file:
        file.write(header(shapes, dtypes))
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).data)


def tensors_in(folder: Path) -> int:
    """How many tensors a folder's files hold."""
    found = 0
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            found += len(json.loads(file.read(length)))
    return found


def _files(parameters: float) -> Iterator[Shapes]:
    divisor = 1 if parameters > 2 * VOCABULARY * HIDDEN else DIVISOR
    vocabulary, hidden = VOCABULARY // divisor, HIDDEN // divisor
    shapes: Shapes = [("model.embed_tokens.weight", (vocabulary, hidden))]
    shapes += [("lm_head.weight", (vocabulary, hidden)), ("model.norm.weight", (hidden,))]
    written = k = 0
    while written + size(shapes) < parameters:
        shapes += layer(k, divisor)
        k += 1
        if size(shapes) > 5e8:
            yield shapes
            written += size(shapes)
            shapes = []
    if shapes:
        yield shapes


def write_shapes(
    folder: Path, file: str, shapes: Shapes, seed: int, distinct: int | None = None
) -> int:
    """One file of `folder`/before and of `folder`/after; returns the next seed.

    With `distinct`, so many blocks of weights repeat, which is faster to write and read as any.
    """
    for side in ("before", "after"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    made = block if distinct is None else lambda key, n: _repeated(key % distinct, n)
    with (
        ThreadPoolExecutor() as pool,
        open(folder / "before" / file, "wb") as before,
        open(folder / "after" / file, "wb") as after,
    ):
        for side in (before, after):
            side.write(header(shapes))
        for _, shape in shapes:
            n = int(np.prod(shape))
            sizes = [min(_PIECE, n - start) for start in range(0, n, _PIECE)]
            seeds = range(seed, seed + len(sizes))
            seed += len(sizes)
            for first, second in pool.map(made, seeds, sizes):
                before.write(first.data)
                after.write(second.data)
    return seed


@lru_cache
def _whole(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return block(seed, _PIECE)


def _repeated(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    before, after = _whole(seed)
    return before[:n], after[:n]


def write_pair(folder: Path, parameters: float, distinct: int | None = None) -> int:
    """Write `folder`/before and `folder`/after; returns how many parameters each has."""
    total, seed = 0, 0
    for k, shapes in enumerate(_files(parameters)):
        seed = write_shapes(folder, f"model-{k:05d}.safetensors", shapes, seed, distinct)
        total += size(shapes)
    return total


@lru_cache
def _fp8(seed: int) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    """A matrix before and after: codes and scales as DeepSeek-V3 has them, and bfloat16."""
    from subnetworks.checkpoints.numbers import encode
    from subnetworks.checkpoints.quantised import fp8
    from subnetworks.checkpoints.quantised.grid import Grid

    rows, columns, size = 2048, 4096, 128
    grid = Grid((1, rows, columns), (size, size))
    found = []
    for bits in block(seed, rows * columns):
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        cells = values.reshape(rows // size, size, columns // size, size)
        scales = (np.abs(cells).max((1, 3)) / np.float32(448)).astype(np.float32)
        codes = encode((cells / scales[:, None, :, None]).reshape(-1), "F8_E4M3")
        plain = fp8.multiplied(codes, "F8_E4M3", scales, grid, 0, 0)
        found.append((codes.reshape(rows, columns), scales, plain.reshape(rows, columns)))
    return tuple(found)


def write_fp8_pair(folder: Path, layers: int, distinct: int = 2, plain: bool = False) -> int:
    """Write `folder`/before and `folder`/after in FP8, with a float32 scale a block of 128 × 128.

    With `plain` also `folder`/plain before and `folder`/plain after, the same in bfloat16.
    """
    n = 0
    for k in range(layers):
        name = f"model.layers.{k}.mlp.up_proj.weight"
        for side, (codes, scales, bits) in zip(
            ("before", "after"), _fp8(k % distinct), strict=True
        ):
            kinds = {side: {name: ("F8_E4M3", codes), name + "_scale_inv": ("F32", scales)}}
            if plain:
                kinds[f"plain {side}"] = {name: ("BF16", bits)}
            for place, tensors in kinds.items():
                (folder / place).mkdir(parents=True, exist_ok=True)
                save(folder / place / f"model-{k:05d}.safetensors", tensors)
        n += codes.size
    return n
