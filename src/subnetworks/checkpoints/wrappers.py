"""What a model may be wrapped in when it is saved, and its names without it."""

from dataclasses import replace

from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.storage import Tensor
from subnetworks.core.errors import UserError

# Modules that hold another and nothing of their own, anywhere in a name: torch.compile, FSDP,
# activation checkpointing, Lightning.
_WRAPPERS = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module",
     "_forward_module")
)  # fmt: skip
# The same, but before all else only: a model may call a part of its own so. PEFT, DDP.
_LEADING = ("base_model.model.", "module.")


def unwrapped(name: str) -> tuple[str, list[str]]:
    """A name without wrappers, and the wrappers that were in it."""
    found = [f"{part}." for part in name.split(".")[:-1] if part in _WRAPPERS]
    parts = name.split(".")
    name = ".".join([part for part in parts[:-1] if part not in _WRAPPERS] + parts[-1:])
    while prefix := next((p for p in _LEADING if name.startswith(p)), None):
        found.append(prefix)
        name = name.removeprefix(prefix)
    return name, found


def without_wrappers(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, int]]:
    """The same checkpoint with its tensors by their names without wrappers.

    Each `Tensor.name` stays the stored one. Also: wrapper → number of tensors it was around.

    Raises:
        UserError: two tensors differ by their wrappers only.
    """
    tensors: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for name, tensor in checkpoint.tensors.items():
        bare, wrappers = unwrapped(name)
        if bare in tensors:
            raise UserError(
                f"{checkpoint.source}: tensors {tensors[bare].name!r} and {name!r} are both "
                f"{bare!r} but for what they are wrapped in; keep one of them"
            )
        tensors[bare] = tensor
        for wrapper in dict.fromkeys(wrappers):
            counts[wrapper] = counts.get(wrapper, 0) + 1
    return (replace(checkpoint, tensors=tensors) if counts else checkpoint), counts
