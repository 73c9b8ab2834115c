"""Checkpoints that verl's FSDP trainer leaves behind, one file per process, read as one.

`model_world_size_W_rank_R.pt` is the state dict of process R of W, saved by torch; its tensors are
DTensors (`subnetworks.checkpoints.formats.dtensor`), or plain ones that every process has. Beside
them lie optimiser and random states, which are not read, and `huggingface/` with the configuration.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from subnetworks.checkpoints.formats import dtensor
from subnetworks.checkpoints.formats.archives import DTYPES, Archive
from subnetworks.checkpoints.formats.contents import Contents
from subnetworks.checkpoints.formats.pickles import View
from subnetworks.checkpoints.formats.sharding import Chunk, join
from subnetworks.checkpoints.storage import File, Tensor, same_content
from subnetworks.core.errors import UserError

# Of how many processes, and which.
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
_HUGGINGFACE = "huggingface"
_ADAPTER = "lora_adapter"
_MERGER = "python -m verl.model_merger merge --backend fsdp"


def recognises(path: Path) -> bool:
    """Whether it is such a folder, or a file of one, or holds such folders."""
    if path.is_file():
        return bool(_SHARD.fullmatch(path.name))
    if not path.is_dir():
        return False
    # A folder with a model of its own may have a training's state within.
    return bool(_shards(path)) or (not any(path.glob("*.safetensors")) and bool(_within(path)))


def among(names: Sequence[str]) -> list[str]:
    """See `subnetworks.checkpoints.formats.among`."""
    return [name for name in names if _SHARD.fullmatch(name)]


def read(path: Path) -> Contents:
    """All tensors, each joined from the processes' parts.

    Raises:
        UserError: a single file of several; a process's file is missing; several checkpoints; laid
            out in a way that is not understood.
    """
    if path.is_file():
        world = int(_SHARD.fullmatch(path.name)[1])  # type: ignore[index]
        if world > 1:
            raise UserError(
                f"{path}: one process's part of a checkpoint of {world}; name its folder: "
                f"{path.parent}"
            )
        path = path.parent
    notes = []
    if not _shards(path):
        within = _within(path)
        if len(within) > 1:
            names = ", ".join(str(p.relative_to(path)) for p in within[:4])
            more = ", …" if len(within) > 4 else ""
            raise UserError(
                f"{path}: several checkpoints of verl in it ({names}{more}); name one: {within[0]}"
            )
        path = within[0]
        notes.append(f"{path.parent}: read {path.name}")
    files = _complete(path)
    contents = Contents(files=files, notes=notes)
    try:
        contents.tensors = _tensors(path, files, contents)
        beside = path / _HUGGINGFACE
        contents.home = beside if beside.is_dir() else path
        if any(beside.glob("*.safetensors")):
            contents.notes.append(f"{path}: read verl's own files, not {_HUGGINGFACE} beside them")
    except BaseException:
        contents.close()
        raise
    return contents


def read_adapters(folder: Path) -> Contents:
    """The adapters (LoRA) of a saved step alone, by their names in the model that was trained.

    Raises:
        UserError: as `read` does, but that there are adapters.
    """
    files = _complete(folder)
    contents = Contents(files=files)
    try:
        contents.tensors = _tensors(folder, files, contents, adapters=True)
    except BaseException:
        contents.close()
        raise
    return contents


def _shards(folder: Path) -> list[tuple[int, int, Path]]:
    """World size, rank and path of the processes' files."""
    found = []
    for path in folder.iterdir():
        if match := _SHARD.fullmatch(path.name):
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found)


def _within(folder: Path) -> list[Path]:
    """The folders with such files within a step's folder (actor, critic), or within a run's."""
    paths = [*folder.glob("*/model_world_size_*_rank_*.pt")]
    paths += folder.glob("global_step_*/*/model_world_size_*_rank_*.pt")
    return sorted({p.parent for p in paths if _SHARD.fullmatch(p.name)})


def _complete(folder: Path) -> list[Path]:
    """The files in order of rank, all there."""
    found = _shards(folder)
    worlds = sorted({world for world, _, _ in found})
    if len(worlds) > 1:
        raise UserError(
            f"{folder}: files of trainings of {' and '.join(map(str, worlds))} processes; "
            "keep those of one"
        )
    there = {rank: path for _, rank, path in found}
    for rank in range(worlds[0]):
        if rank not in there:
            raise UserError(
                f"{folder / f'model_world_size_{worlds[0]}_rank_{rank}.pt'}: missing, "
                f"though {len(there)} of {worlds[0]} processes' files are there; fetch it"
            )
    if len(there) > worlds[0]:
        raise UserError(
            f"{there[max(there)]}: of a process beyond the {worlds[0]} by its name; remove it"
        )
    return [there[rank] for rank in range(worlds[0])]


def _tensors(
    folder: Path, files: list[Path], contents: Contents, adapters: bool = False
) -> dict[str, Tensor]:
    names: set[str] = set()
    parts: dict[str, list[Chunk]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    copies: set[str] = set()
    for rank, path in enumerate(files):
        contents.open.append(File(path))
        try:
            archive = Archive(contents.open[-1])
            state = archive.value(dtensor.RECORDS)
        except UserError as error:
            raise UserError(
                f"{error}; or merge it where it was saved: {_MERGER} --local_dir {folder} "
                "--target_dir OUT"
            ) from error
        if not isinstance(state, dict):
            raise UserError(f"{path}: no state dict; save the checkpoint again")
        names = names or set(state)
        if state.keys() != names:
            other = min(map(str, state.keys() ^ names))
            raise UserError(
                f"{path}: not the same tensors as in {files[0].name} (such as {other!r}); the "
                "files are of different trainings or steps: keep those of one"
            )
        for name, value in state.items():
            what = f"{path}: tensor {name!r}"
            if not isinstance(name, str):
                raise UserError(f"{path}: no state dict; save the checkpoint again")
            if ".lora_" in name and not adapters:
                raise UserError(_with_lora(folder, path))
            if adapters and ".lora_" not in name:
                continue
            if dtensor.is_dtensor(value):
                block = dtensor.block(value, what, rank)
                view, shape, offsets = block.local, block.shape, block.offsets
            elif isinstance(value, View):
                view, shape, offsets = value, value.shape, (0,) * len(value.shape)
                copies.add(name)
            else:
                raise UserError(f"{what}: not a tensor as FSDP saves it; merge it: {_MERGER}")
            if view.dtype not in DTYPES:
                raise UserError(f"{what}: of a dtype that is not known (torch.{view.dtype})")
            if shapes.setdefault(name, shape) != shape:
                raise UserError(
                    f"{what}: of shape {list(shape)}, in {files[0].name} {list(shapes[name])}; the "
                    "files are of different trainings: keep those of one"
                )
            parts.setdefault(name, []).append(Chunk(offsets, archive.tensor(name, view)))
    for name in copies:
        _require_equal(name, parts[name])
    return {n: join(n, shapes[n], chunks, str(folder)) for n, chunks in parts.items()}


def _with_lora(folder: Path, path: Path) -> str:
    if (folder / _ADAPTER).is_dir():
        return (
            f"{path}: a base with LoRA trained on it; its adapter lies beside it: compare "
            f"adapter:{folder / _ADAPTER}@BASE with BASE"
        )
    return (
        f"{path}: a base with LoRA trained on it; take the adapter out with {_MERGER} "
        f"--local_dir {folder} --target_dir OUT, and compare adapter:OUT/{_ADAPTER}@BASE with BASE"
    )


def _require_equal(name: str, copies: list[Chunk]) -> None:
    """What is not split over processes is the same in all of them."""
    first = copies[0].tensor
    for other in (chunk.tensor for chunk in copies[1:]):
        if not same_content(first, other):
            raise UserError(
                f"{other.source}: tensor {name!r} differs from that in {first.source}, though it "
                "is not split over processes; the files are of different steps: keep those of one"
            )
