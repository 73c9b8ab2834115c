"""Checkpoints made for tests: any dtype, any layout, written without the library under test."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# Stored as unsigned integers of the dtype's width.
WIDTH = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "U8": 1}
WIDTH |= {"F8_E8M0": 1, "I8": 1, "I32": 4, "U32": 4}
Stored = tuple[str, np.ndarray]


def bf16(values: np.ndarray) -> Stored:
    """Values cut to bfloat16 (not rounded: any bfloat16 will do)."""
    return "BF16", (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    )


def save(path: Path, tensors: Mapping[str, Stored]) -> None:
    """A safetensors file, straight from the format's description."""
    header: dict[str, object] = {}
    position = 0
    for name, (dtype, bits) in tensors.items():
        size = bits.size * WIDTH[dtype]
        header[name] = {
            "dtype": dtype,
            "shape": list(bits.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for dtype, bits in tensors.values():
            file.write(bits.astype(f"<u{WIDTH[dtype]}").tobytes())


def save_sharded(
    folder: Path, tensors: Mapping[str, Stored], cuts: Sequence[Sequence[str]], index: bool = True
) -> None:
    """One file a cut; with or without an index."""
    weight_map = {}
    for k, names in enumerate(cuts):
        file = f"model-{k + 1:05d}-of-{len(cuts):05d}.safetensors"
        save(folder / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)


def llama(
    rng: np.random.Generator, layers: int = 2, hidden: int = 24, vocabulary: int = 50
) -> dict[str, Stored]:
    """A small Llama in bfloat16, with sizes that are no multiples of anything."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for k in range(layers):
        stem = f"model.layers.{k}"
        for part in "qkvo":
            shapes[f"{stem}.self_attn.{part}_proj.weight"] = (hidden, hidden)
        for part in ("gate", "up"):
            shapes[f"{stem}.mlp.{part}_proj.weight"] = (3 * hidden + 1, hidden)
        shapes[f"{stem}.mlp.down_proj.weight"] = (hidden, 3 * hidden + 1)
        shapes[f"{stem}.input_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (vocabulary, hidden)
    return {name: bf16(rng.standard_normal(shape) * 0.02) for name, shape in shapes.items()}


def updated(
    tensors: Mapping[str, Stored], rng: np.random.Generator, share: float = 0.3
) -> dict[str, Stored]:
    """A share of the entries moved by a few representable values."""
    out = {}
    for name, (dtype, bits) in tensors.items():
        moved = rng.random(bits.shape) < share
        step = rng.integers(-3, 4, bits.shape)
        out[name] = dtype, np.where(moved, bits + step, bits).astype(bits.dtype)
    return out
