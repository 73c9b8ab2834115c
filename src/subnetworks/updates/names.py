"""Names of one parameter that differ by how a model was wrapped or what it lies within."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from subnetworks.checkpoints import Checkpoint, Tensor
from subnetworks.errors import UserError

# Modules that hold another and nothing of their own, anywhere in a name: torch.compile, FSDP,
# activation checkpointing, Lightning.
_WRAPPERS = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module",
     "_forward_module")
)  # fmt: skip
# The same, but before all else only: a model may call a part of its own so. PEFT, DDP.
_LEADING = ("base_model.model.", "module.")
# Modules around a text model or its backbone, which leave its own names as they are.
_AROUND = frozenset(
    ("model", "language_model", "text_model", "thinker", "llm", "transformer", "gpt_neox")
)


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


def bare(name: str) -> str:
    """A name without the modules around a text model: what two models of one backbone share."""
    parts = name.split(".")
    place = 0
    while place < len(parts) - 1 and parts[place] in _AROUND:
        place += 1
    return ".".join(parts[place:])


def _by_bare(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(bare(name), []).append(name)
    return found


def align(
    left: Mapping[str, Tensor], right: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Rename what only `right` has to what only `left` has, where only known modules around differ.

    So the text backbone of a vision-language model meets the text model. Also how, a row a pair of
    prefixes: `before`, `after`, `tensors`.

    Raises:
        UserError: two tensors of one side may be the same one of the other.
    """
    lefts = _by_bare(name for name in left if name not in right)
    rights = _by_bare(name for name in right if name not in left)
    renamed: dict[str, str] = {}
    counts: dict[tuple[str, str], int] = {}
    for key in lefts.keys() & rights.keys():
        for one, other in ((lefts[key], rights[key]), (rights[key], lefts[key])):
            if len(one) > 1:
                raise UserError(
                    f"{source}: {one[0]!r} and {one[1]!r} may both be {other[0]!r} of the other "
                    "checkpoint; say which is (--names)"
                )
        old, new = lefts[key][0], rights[key][0]
        renamed[new] = old
        prefixes = old.removesuffix(key), new.removesuffix(key)
        counts[prefixes] = counts.get(prefixes, 0) + 1
    aligned = {renamed.get(name, name): tensor for name, tensor in right.items()}
    rows = [
        {"before": old, "after": new, "tensors": count}
        for (old, new), count in sorted(counts.items())
    ]
    return aligned, rows
