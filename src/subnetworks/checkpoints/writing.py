"""Write tensors that are read piece by piece as safetensors files, without holding any whole."""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from subnetworks.checkpoints.storage import Tensor
from subnetworks.core.files import atomic_path

# Bytes copied at a time.
PIECE = 1 << 22


def header(
    entries: Mapping[str, tuple[str, tuple[int, ...], int]],
    metadata: Mapping[str, str],
    room: int = 0,
) -> bytes:
    """The header of a safetensors file, with its length before it, padded to whole 8 bytes.

    Args:
        entries: name → dtype, shape and bytes, in the order in which the data follow.
        metadata: strings by name.
        room: bytes to fill, if it needs fewer.
    """
    value: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for name, (dtype, shape, size) in entries.items():
        offsets = [position, position + size]
        value[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += size
    text = json.dumps(value, separators=(",", ":")).encode()
    text += b" " * max(-len(text) % 8, room - 8 - len(text))
    return struct.pack("<Q", len(text)) + text


def write_file(
    path: str | os.PathLike[str], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> None:
    """Write one safetensors file, atomically; memory: 4 MiB."""
    tensors = list(tensors)
    entries = {tensor.name: (tensor.dtype, tensor.shape, tensor.nbytes) for tensor in tensors}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(header(entries, metadata))
        for tensor in tensors:
            step = PIECE // tensor.itemsize
            for start in range(0, tensor.n, step):
                file.write(tensor.raw(start, min(start + step, tensor.n)).data)


def write_index(folder: Path, files: Mapping[str, Iterable[Tensor]]) -> None:
    """Write the index of a checkpoint of several files, file name → tensors."""
    every = {name: list(tensors) for name, tensors in files.items()}
    value = {
        "metadata": {"total_size": sum(t.nbytes for tensors in every.values() for t in tensors)},
        "weight_map": {t.name: name for name, tensors in every.items() for t in tensors},
    }
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
