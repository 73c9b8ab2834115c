"""A delta and its base as a checkpoint of its own."""

import os
import shutil
from pathlib import Path

from subnetworks.checkpoints.deltas import open_delta
from subnetworks.checkpoints.manifest import write_manifest
from subnetworks.checkpoints.reading import Checkpoint, places
from subnetworks.checkpoints.reading import open as open_checkpoint
from subnetworks.checkpoints.storage import Tensor
from subnetworks.checkpoints.writing import write_file, write_index
from subnetworks.outputs import claim
from subnetworks.outputs import folder as made_folder
from subnetworks.weights import SAFE

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}


def apply(
    base: str | os.PathLike[str], delta: str | os.PathLike[str], output: str | os.PathLike[str]
) -> int:
    """Write the checkpoint that `delta` makes of `base` as the folder `output`, atomically.

    Every tensor lies in the file in which it lies in the base (a new one in the first); the base's
    configuration, tokenizer and other small files are copied. Returns the number of tensors.

    Raises:
        UserError: as `subnetworks.checkpoints.open` and `subnetworks.outputs.claim`.
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
        for path in _beside(before):
            shutil.copy2(path, folder / path.name)
        write_manifest(folder, name=Path(output).absolute().name, kind="delta")
        return len(after.tensors)


def _files(before: Checkpoint, after: Checkpoint) -> dict[str, list[Tensor]]:
    """File name → tensors, as in the base; what are files of torch there is safetensors here."""
    names = sorted({_name(tensor) for tensor in before.tensors.values()})
    if len(names) == 1:
        return {"model.safetensors": list(after.tensors.values())}
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


def _beside(before: Checkpoint) -> list[Path]:
    """What lies beside the base's weights, if they are a folder."""
    folder = before.files[0].parent
    if not (folder / "config.json").exists():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix not in _WEIGHTS
        and path.name != "manifest.json"
        and not path.name.endswith((".meta.json", ".index.json"))
    ]
