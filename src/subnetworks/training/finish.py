"""From the trainer's last state to a checkpoint in the init's files, whole or not at all."""

import importlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnetworks import outputs
from subnetworks.errors import UserError
from subnetworks.files import write_json
from subnetworks.training.state import shards

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from subnetworks.checkpoints import Checkpoint, storage

_LEFT_BEHIND = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a checkpoint's folder, from the headers alone.

    Raises:
        UserError: the folder has no safetensors file or no config.json.
    """
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").exists():
        raise UserError(f"{folder}: not a checkpoint (needs config.json and *.safetensors)")
    found = {}
    for file in files:
        with safe_open(file, "np") as handle:
            for name in handle.keys():  # noqa: SIM118 (not a mapping)
                found[name] = tuple(handle.get_slice(name).get_shape())
    return found


def write_checkpoint(
    saved: Path, init: Path, output: Path, mask: Path | None, dtype: str = "bfloat16"
) -> None:
    """Write the weights of the saved step `saved` as the checkpoint `output`.

    Every tensor of `init` is written under its name and in its file, rounded to bf16 (to nearest,
    ties to even); tokenizer, chat template and generation config are init's own.

    Args:
        saved: the folder of the trainer's saved step.
        init: the run's init.
        output: the folder to write.
        mask: what the run kept to, if anything.
        dtype: `bfloat16`, or `float32` to write the weights as they were trained.

    Raises:
        UserError: a weight is NaN or infinite.
        RuntimeError: an entry outside `mask` is not init's to the bit.

    Nothing is written then.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    from subnetworks.updates import digests

    weights = _Weights(shards(saved))
    config = _config(init)
    outside = _Outside(mask) if mask else None
    # What runs its own code goes on doing so after training, and nothing else does.
    manifest = importlib.import_module("subnetworks.checkpoints.manifest")
    trusted = manifest.trusts(init)
    kind = getattr(torch, dtype)
    with outputs.folder(output, "train") as folder:
        for file in sorted(init.glob("*.safetensors")):
            tensors: dict[str, Tensor] = {}
            with safe_open(file, "pt") as before:
                for name in before.keys():  # noqa: SIM118 (not a mapping)
                    first = before.get_tensor(name)
                    tensors[name] = (
                        weights.rounded(name, config, kind) if first.is_floating_point() else first
                    )
                    _check_finite(saved, name, tensors[name])
                    if outside:
                        outside.check(name, first.to(kind), tensors[name])
            save_file(tensors, folder / file.name, metadata={"format": "pt"})
        for path in init.iterdir():
            own = path.name in ("config.json", "manifest.json") or path.name.endswith(".meta.json")
            if path.is_file() and not own and path.suffix not in _LEFT_BEHIND:
                shutil.copy2(path, folder / path.name)
        config.pop("torch_dtype", None)
        write_json(folder / "config.json", config | {"dtype": dtype})
        # Last, and inside the folder that appears as a whole: its presence means all is there.
        manifest.write_manifest(
            folder,
            name=output.name,
            kind="run",
            content=digests.of_folder(folder),
            **({"trust_remote_code": True} if trusted else {}),
        )


def rounded(saved: Path, init: "Checkpoint") -> dict[str, "storage.Tensor"]:
    """The weights of the saved step `saved`, as `write_checkpoint` writes them, read on demand.

    One tensor at a time is held in memory. `init` must stay open meanwhile.
    """
    import torch

    from subnetworks.checkpoints import storage
    from subnetworks.numbers import FLOATS

    weights = _Weights(shards(saved))
    held: dict[str, memoryview] = {}

    def reading(name: str) -> Callable[[Any, int], None]:
        def read(buffer: Any, offset: int) -> None:
            if name not in held:
                held.clear()
                bits = weights.rounded(name, init.config).view(torch.int16)
                held[name] = memoryview(bits.reshape(-1).numpy()).cast("B")
            view = memoryview(buffer).cast("B")
            view[:] = held[name][offset : offset + len(view)]

        return read

    return {
        name: storage.Tensor(name, "BF16", tensor.shape, reading(name), str(saved))
        if tensor.dtype in FLOATS
        else tensor
        for name, tensor in init.tensors.items()
    }


def _config(init: Path) -> dict[str, Any]:
    return json.loads((init / "config.json").read_text(encoding="utf-8"))


class _Weights:
    """The sharded weights of one saved step, put together one tensor at a time."""

    def __init__(self, folder: Path) -> None:
        import torch
        import torch.distributed.tensor  # the shards are DTensors

        # Shards are read where no processes are distributed, and it says so; nothing here minds.
        logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
        files = sorted(folder.glob("model_world_size_*_rank_*.pt"), key=_rank)
        self._ranks: list[dict[str, Any]] = [
            torch.load(file, map_location="cpu", weights_only=False, mmap=True) for file in files
        ]

    def __contains__(self, name: str) -> bool:
        return name in self._ranks[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranks[0])

    def __getitem__(self, name: str) -> "Tensor":
        import torch
        from torch.distributed.tensor import DTensor, Shard

        first = self._ranks[0][name]
        if not isinstance(first, DTensor):
            return first
        parts = [rank[name].to_local() for rank in self._ranks]
        placement = first.placements[-1]
        if isinstance(placement, Shard):
            return torch.cat(parts, dim=placement.dim)
        return parts[0]

    def rounded(
        self, name: str, config: dict[str, Any], dtype: "torch.dtype | None" = None
    ) -> "Tensor":
        """One tensor in bf16 (to nearest, ties to even), contiguous; a tied head is the embedding.

        `config` is the init's; `dtype` is another to round to.
        """
        import torch

        tied = name not in self and _tied(config, name)
        return self[_embedding(self) if tied else name].to(dtype or torch.bfloat16).contiguous()


class _Outside:
    """Checks that nothing outside a mask has moved."""

    def __init__(self, path: Path) -> None:
        from subnetworks.masks import Mask

        self.path = path
        self.mask = Mask.open(path)
        self.names = set(self.mask.names)

    def check(self, name: str, before: "Tensor", after: "Tensor") -> None:
        """Raise `RuntimeError` if an entry outside the mask differs in any bit."""
        import torch

        if name in self.names:
            inside = torch.from_numpy(self.mask.array(name))
            bits = torch.int16 if before.element_size() == 2 else torch.int32
            moved = int(((before.view(bits) != after.view(bits)) & ~inside).sum())
            if moved:
                raise RuntimeError(f"{name}: {moved} entries outside {self.path} have moved")


def _check_finite(saved: Path, name: str, tensor: "Tensor") -> None:
    spoiled = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
    if spoiled:
        raise UserError(
            f"{saved}: tensor {name!r}: {spoiled} of {tensor.numel()} weights are NaN or infinite: "
            "the run diverged, and no checkpoint is made of it; lower its learning_rate"
        )


def _rank(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _tied(config: dict[str, Any], name: str) -> bool:
    return bool(config.get("tie_word_embeddings")) and name.startswith("lm_head")


def _embedding(weights: _Weights) -> str:
    return next(name for name in weights if name.endswith("embed_tokens.weight"))
