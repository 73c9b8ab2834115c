"""Any checkpoint as a folder that transformers, vLLM and the trainers here load."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from subnetworks.checkpoints import companions
from subnetworks.checkpoints.manifest import write_manifest
from subnetworks.checkpoints.reading import Checkpoint, places
from subnetworks.checkpoints.reading import open as open_checkpoint
from subnetworks.checkpoints.storage import Tensor
from subnetworks.checkpoints.wrappers import without_wrappers
from subnetworks.checkpoints.writing import write_file, write_index
from subnetworks.core.errors import UserError
from subnetworks.core.outputs import claim
from subnetworks.core.outputs import folder as made_folder

# Bytes of weights in a file.
_FILE = 5 * 10**9


def convert(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[str]:
    """Write a checkpoint as the folder `output`, atomically: safetensors, to the bit.

    Args:
        source: as `subnetworks.checkpoints.open` takes it: files of torch, of several processes, a
            delta, an adapter with its base, ….
        output: the folder; what this verb made there is replaced.

    Returns:
        what a user should know, in lines.

    Raises:
        UserError: as `subnetworks.checkpoints.open` and `subnetworks.core.outputs.claim`; a tensor
        that
            cannot be written.
    """
    claim("convert", reads=places(source), folders=[output])
    with (
        open_checkpoint(source) as checkpoint,
        made_folder(output, "convert") as folder,
    ):
        notes = write(checkpoint, folder)
        name = Path(output).absolute().name
        write_manifest(folder, name=name, kind="convert", source=os.fspath(source))
    return notes


def write(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write a checkpoint into an empty folder; gives what a user should know, in lines.

    Tensors are written as they are stored, under their names without what the model was wrapped in;
    configuration, tokenizer and the other small files as they are.

    Raises:
        UserError: a tensor of a dtype that is not known.
    """
    for name in checkpoint.unread:
        raise UserError(
            f"{checkpoint.source}: tensor {name!r}: {checkpoint.excluded[name]}, so it cannot be "
            "copied; save the model as safetensors with the library that wrote it"
        )
    bare, wrappers = without_wrappers(checkpoint)
    tensors = [replace(tensor, name=name) for name, tensor in bare.tensors.items()]
    parts = list(_parts(tensors))
    if len(parts) == 1:
        files = {"model.safetensors": parts[0]}
    else:
        n = len(parts)
        files = {f"model-{k:05d}-of-{n:05d}.safetensors": part for k, part in enumerate(parts, 1)}
    for name, part in files.items():
        write_file(folder / name, part, {"format": "pt"})
    if len(files) > 1:
        write_index(folder, files)
    beside = companions.companions(checkpoint) or {}
    companions.write(folder, beside)
    notes = [*checkpoint.notes]
    notes += [f"{wrapper!r} stripped from {n} names" for wrapper, n in wrappers.items()]
    notes += [f"left out {name}: {reason}" for name, reason in checkpoint.excluded.items()]
    if "config.json" not in beside:
        notes.append(
            "no config.json lies beside the weights: copy the model's own, and its tokenizer, to "
            "load it in transformers"
        )
    return notes


def _parts(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors of each file, in order."""
    part: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if part and size + tensor.nbytes > _FILE:
            yield part
            part, size = [], 0
        part.append(tensor)
        size += tensor.nbytes
    yield part
