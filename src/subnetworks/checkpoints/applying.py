"""A delta and its base as a checkpoint of its own."""

import os
from pathlib import Path

from subnetworks.checkpoints import companions
from subnetworks.checkpoints.deltas import open_delta
from subnetworks.checkpoints.manifest import write_manifest
from subnetworks.checkpoints.reading import Checkpoint, places
from subnetworks.checkpoints.reading import open as open_checkpoint
from subnetworks.checkpoints.storage import Tensor
from subnetworks.checkpoints.weights import SAFE
from subnetworks.checkpoints.writing import write_file, write_index
from subnetworks.core.outputs import claim
from subnetworks.core.outputs import folder as made_folder


def apply(
    base: str | os.PathLike[str], delta: str | os.PathLike[str], output: str | os.PathLike[str]
) -> int:
    """Write the checkpoint that `delta` makes of `base` as the folder `output`, atomically.

    Every tensor lies in the file in which it lies in the base (a new one in the first).
    Configuration, tokenizer and other small files are those of the checkpoint that the delta was
    written from, or the base's where the delta does not say. Returns the number of tensors.

    Raises:
        UserError: as `subnetworks.checkpoints.open` and `subnetworks.core.outputs.claim`.
    """
    claim("apply", reads=[delta, *places(base)], folders=[output])
    with (
        open_checkpoint(base) as before,
        open_delta(Path(delta), os.fspath(base)) as after,
        made_folder(output, "apply") as folder,
    ):
        files = _files(before, after)
        for name, tensors in files.items():
            write_file(folder / name, tensors, {"format": "pt"})
        if len(files) > 1:
            write_index(folder, files)
        companions.write(folder, companions.companions(after) or {})
        write_manifest(folder, name=Path(output).absolute().name, kind="delta")
        return len(after.tensors)


def _files(before: Checkpoint, after: Checkpoint) -> dict[str, list[Tensor]]:
    """File name → tensors, as in the base; what are files of torch there is safetensors here."""
    names = sorted({_name(tensor) for tensor in before.tensors.values()})
    if len(names) == 1:
        return {f"model{SAFE}": list(after.tensors.values())}
    files: dict[str, list[Tensor]] = {name: [] for name in names}
    for name, tensor in after.tensors.items():
        known = before.tensors.get(name)
        files[_name(known) if known else names[0]].append(tensor)
    return {name: tensors for name, tensors in files.items() if tensors}


def _name(tensor: Tensor) -> str:
    path = Path(tensor.source)
    if path.suffix == SAFE:
        return path.name
    return path.with_suffix(SAFE).name.replace("pytorch_model", "model")
