"""From the trainer's last state to a checkpoint in the init's files, whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subnetworks.checkpoints import chat
from subnetworks.checkpoints.manifest import trusts, write_manifest
from subnetworks.core import outputs
from subnetworks.core.errors import UserError
from subnetworks.core.files import write_json, write_text
from subnetworks.training.runtime.state import shards

if TYPE_CHECKING:
    from subnetworks.checkpoints import Checkpoint
    from subnetworks.checkpoints.storage import Tensor

_LEFT_BEHIND = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}
_STORED = {"bfloat16": "BF16", "float32": "F32"}
# Called with a tensor's name and its bits, before they are written.
_Check = Callable[[str, np.ndarray], None]


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a checkpoint's folder, from the headers alone.

    Raises:
        UserError: the folder has no safetensors file or no config.json, or such a file is damaged.
    """
    from subnetworks import checkpoints

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one with a checkpoint")
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").exists():
        raise UserError(
            f"{folder}: not a checkpoint (needs config.json and *.safetensors); if it is one in "
            f"another format, write it as such: subnetworks convert {folder} --output DIR"
        )
    found = {}
    for file in files:
        with checkpoints.open(file) as opened:
            found.update({name: tensor.shape for name, tensor in opened.tensors.items()})
    return found


def write_checkpoint(
    saved: Path,
    init: Path,
    output: Path,
    mask: Path | None,
    dtype: str = "bfloat16",
    template: str | None = None,
    lora: tuple[int, int] | None = None,
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
        template: the chat template's name, if it was not init's own.
        lora: rank and alpha of the adapters that were trained instead of the weights, if any.

    Raises:
        UserError: a weight is NaN or infinite.
        RuntimeError: an entry outside `mask` is not init's to the bit.

    Nothing is written then.
    """
    from subnetworks import checkpoints
    from subnetworks.checkpoints import identity
    from subnetworks.checkpoints.writing import write_file

    outside = _Outside(mask) if mask else None
    # What runs its own code goes on doing so after training, and nothing else does.
    trusted: dict[str, Any] = {"trust_remote_code": True} if trusts(init) else {}
    config = _config(init)
    weights = _trained_weights(saved, init, lora, _STORED[dtype])
    with weights as trained, outputs.folder(output, "train") as folder:
        for file in sorted(init.glob("*.safetensors")):
            with checkpoints.open(file) as before:

                def check(name: str, bits: np.ndarray, before: "Checkpoint" = before) -> None:
                    _check_finite(saved, name, bits, _STORED[dtype])
                    if outside:
                        outside.check(before[name], bits, _STORED[dtype])

                written = _rounded(trained, before, config, _STORED[dtype], check)
                ordered = [written[name] for name in sorted(written)]
                write_file(folder / file.name, ordered, {"format": "pt"})
        for path in init.iterdir():
            own = path.name in ("config.json", "manifest.json") or path.name.endswith(".meta.json")
            if path.is_file() and not own and path.suffix not in _LEFT_BEHIND:
                shutil.copy2(path, folder / path.name)
        if template:
            write_text(folder / chat.FILE, chat.NAMED[template])
        config.pop("torch_dtype", None)
        write_json(folder / "config.json", config | {"dtype": dtype})
        # Last, and inside the folder that appears as a whole: its presence means all is there.
        write_manifest(
            folder,
            name=output.name,
            kind="run",
            content=identity.of_folder(folder),
            **trusted,
        )


@contextmanager
def _trained_weights(
    saved: Path, init: Path, lora: tuple[int, int] | None, dtype: str
) -> Iterator["Checkpoint"]:
    """A saved step's weights; of adapters, what they make together with the init, in float32 at
    least if `dtype` is."""
    from subnetworks import checkpoints
    from subnetworks.checkpoints.formats import verl_fsdp
    from subnetworks.checkpoints.writing import write_file

    if lora is None:
        with checkpoints.open(shards(saved)) as trained:
            yield trained
        return
    with tempfile.TemporaryDirectory(prefix="subnetworks-lora-") as name:
        folder = Path(name)
        contents = verl_fsdp.read_adapters(shards(saved))
        try:
            adapters = [
                replace(tensor, name=name.replace(".default.", "."))
                for name, tensor in contents.tensors.items()
            ]
            write_file(folder / "adapter_model.safetensors", adapters, {"format": "pt"})
        finally:
            contents.close()
        settings = {"peft_type": "LORA", "r": lora[0], "lora_alpha": lora[1], "bias": "none"}
        write_json(folder / "adapter_config.json", settings)
        # Merged, weights are rounded to their base's dtype.
        base = _widened(init, folder / "init") if dtype == "F32" else init
        with checkpoints.open(f"adapter:{folder}@{base}") as merged:
            yield merged


def _widened(init: Path, folder: Path) -> Path:
    """The init's weights in float32, written into `folder`, which is returned."""
    from subnetworks import checkpoints
    from subnetworks.checkpoints.writing import write_file

    folder.mkdir()
    for file in sorted(init.glob("*.safetensors")):
        with checkpoints.open(file) as opened:
            written = _rounded(opened, opened, {}, "F32", lambda name, bits: None)
            write_file(folder / file.name, list(written.values()), {"format": "pt"})
    shutil.copy2(init / "config.json", folder)
    return folder


def rounded(trained: "Checkpoint", init: "Checkpoint") -> dict[str, "Tensor"]:
    """A saved step's weights as `write_checkpoint` writes them, read on demand.

    One tensor at a time is held in memory. Both checkpoints must stay open meanwhile.

    Args:
        trained: what `state.shards` of the saved step holds.
        init: the run's init.
    """
    return _rounded(trained, init, init.config, "BF16", lambda name, bits: None)


def _rounded(
    trained: "Checkpoint", init: "Checkpoint", config: dict[str, Any], dtype: str, check: _Check
) -> dict[str, "Tensor"]:
    from subnetworks.checkpoints.numbers import FLOATS

    return {
        name: _stored(_trained(trained, name, config), name, dtype, check)
        if tensor.dtype in FLOATS
        else tensor
        for name, tensor in init.tensors.items()
    }


def _trained(trained: "Checkpoint", name: str, config: dict[str, Any]) -> "Tensor":
    """The trained weights of one of the init's tensors; a tied head is the embedding."""
    tied = name not in trained.tensors and _tied(config, name)
    return trained[_embedding(trained) if tied else name]


def _stored(tensor: "Tensor", name: str, dtype: str, check: _Check) -> "Tensor":
    """A tensor in another dtype, rounded to nearest, ties to even.

    It is rounded, and checked, when the first of it is read, and held until the last has been.
    """
    held: list[memoryview] = []

    def read(buffer: Any, offset: int) -> None:
        if not held:
            bits = _bits(tensor, dtype)
            check(name, bits)
            held.append(bits.data.cast("B"))
        view = memoryview(buffer).cast("B")
        view[:] = held[0][offset : offset + len(view)]
        if offset + len(view) == len(held[0]):
            held.clear()

    return replace(tensor, name=name, dtype=dtype, reader=read)


def _bits(tensor: "Tensor", dtype: str) -> np.ndarray:
    """All entries as bits of another dtype, flat."""
    from subnetworks.checkpoints.numbers import decode, encode

    return encode(decode(tensor.raw(), tensor.dtype), dtype)


def _config(init: Path) -> dict[str, Any]:
    return json.loads((init / "config.json").read_text(encoding="utf-8"))


class _Outside:
    """Checks that nothing outside a mask has moved."""

    def __init__(self, path: Path) -> None:
        from subnetworks.measuring.masks import Mask

        self.path = path
        self.mask = Mask.open(path)
        self.names = set(self.mask.names)

    def check(self, before: "Tensor", bits: np.ndarray, dtype: str) -> None:
        """Raise `RuntimeError` if an entry outside the mask differs in any bit."""
        if before.name in self.names:
            inside = self.mask.array(before.name).reshape(-1)
            moved = int(((_bits(before, dtype) != bits) & ~inside).sum())
            if moved:
                raise RuntimeError(f"{before.name}: {moved} entries outside {self.path} have moved")


def _check_finite(saved: Path, name: str, bits: np.ndarray, dtype: str) -> None:
    from subnetworks.checkpoints.numbers import decode

    spoiled = int((~np.isfinite(decode(bits, dtype))).sum())
    if spoiled:
        raise UserError(
            f"{saved}: tensor {name!r}: {spoiled} of {bits.size} weights are NaN or infinite: "
            "the run diverged, and no checkpoint is made of it; lower its learning_rate"
        )


def _tied(config: dict[str, Any], name: str) -> bool:
    return bool(config.get("tie_word_embeddings")) and name.startswith("lm_head")


def _embedding(trained: "Checkpoint") -> str:
    return next(name for name in trained.tensors if name.endswith("embed_tokens.weight"))
