"""Which files of a folder are a model's weights: one rule, for folders here and those of the Hub.

What transformers and vLLM load is read. Where they would load different files nothing is, and the
error names what to say instead. In order:

1. safetensors in the folder: `model.safetensors`; or the files that `model.safetensors.index.json`
   (or the only other index) names; or, without an index, all of them but those of rule 4.
   `model.safetensors` beside an index that names other files is refused: transformers loads the
   one, vLLM the others.
2. Files of torch in it, where it has no safetensors: `pytorch_model.bin`; or what
   `pytorch_model.bin.index.json` names; or a numbered set; or the only one that may hold weights
   (optimiser, scheduler and the like never do). Several are refused.
3. In folders within it by the same rules, where it has none itself, but in those with the model in
   another layout (`original`, `onnx`, …) only where there are no others.
4. The whole model in its maker's layout (`consolidated*`) or an adapter, alone.

A numbered set (`x-00001-of-00003`) without an index has to be complete. An adapter with its
configuration beside a whole model is refused: transformers adds it, vLLM does not.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from subnetworks.core.errors import UserError

# Files of `torch.save`.
TORCH = (".bin", ".pt", ".pth", ".ckpt")
# Which run code when they are opened by others.
PICKLES = (*TORCH, ".pkl", ".pickle")
SAFE = ".safetensors"
INDEX = ".safetensors.index.json"
TORCH_INDEX = ".bin.index.json"
# The whole model once more in its maker's own layout; an adapter alone.
SECONDARY = ("consolidated", "adapter_model")
_ELSEWHERE = ("original", "onnx", "openvino", "coreml", "gguf")
_ADAPTER = re.compile(r"adapter_model(-\d+-of-\d+)?\.(safetensors|bin)")
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<k>\d+)-of-(?P<n>\d+)(?P<suffix>\.\w+)")
# What trainers save beside the weights.
_BESIDE = re.compile(
    r"(training_args|optim|scheduler|scaler|rng_state|random_states|trainer_state|openvino)"
)


@dataclass(frozen=True)
class Choice:
    """The weights among some files.

    Attributes:
        files: their names, sorted; with an index those that go by its name, or may do.
        index: the index that says which tensor lies where.
        torch: whether they are files of torch, not safetensors.
        left: others that hold weights, too, and are not read.
    """

    files: tuple[str, ...]
    index: str | None = None
    torch: bool = False
    left: tuple[str, ...] = ()

    @property
    def adapter(self) -> bool:
        """Whether it is an adapter alone, not a model."""
        return bool(self.files) and all(
            _ADAPTER.fullmatch(PurePosixPath(name).name) for name in self.files
        )


def choose(
    names: Iterable[str],
    where: str,
    *,
    indexed: Callable[[str], Iterable[str]] | None = None,
    separator: str = "/",
) -> Choice | None:
    """The weights among files, by the rule above; None if there are none.

    Args:
        names: relative to the folder, parts joined by `/`.
        where: the folder, for errors.
        indexed: gives the files that an index names; without, their own names decide.
        separator: what a user puts between `where` and a file to name that.

    Raises:
        UserError: what is loaded would depend on who loads it, or a numbered set is incomplete.
    """
    every = sorted(names)
    said = f"{where}{separator}"
    if found := _here([name for name in every if "/" not in name], said, indexed, ""):
        return found
    inside = [name for name in every if "/" in name and _is_weight(name)]
    inside = [n for n in inside if not set(n.split("/")[:-1]) & set(_ELSEWHERE)] or inside
    folders = sorted({str(PurePosixPath(name).parent) for name in inside})
    choices = []
    for folder in folders:
        here = [n for n in every if str(PurePosixPath(n).parent) == folder]
        if found := _here([n.rpartition("/")[2] for n in here], said, indexed, f"{folder}/"):
            choices.append(found)
    choices = [c for c in choices if not c.torch] or choices
    if len(choices) < 2:
        return choices[0] if choices else None
    if choices[0].torch:
        both = " and ".join(choice.files[0] for choice in choices[:2])
        raise UserError(f"{where}: files of torch in several folders ({both}); name one of them")
    return Choice(tuple(sorted(name for choice in choices for name in choice.files)))


def _is_weight(name: str) -> bool:
    return name.endswith((SAFE, INDEX, TORCH_INDEX)) or _is_torch(name)


def _is_torch(name: str) -> bool:
    name = PurePosixPath(name).name
    return name.endswith(TORCH) and not _BESIDE.match(name)


def _here(
    names: Sequence[str],
    said: str,
    indexed: Callable[[str], Iterable[str]] | None,
    folder: str,
) -> Choice | None:
    """The choice among the files of one folder."""
    said += folder
    found = None
    for single, ending, torch in (("model", INDEX, False), ("pytorch_model", TORCH_INDEX, True)):
        every = [n for n in names if (_is_torch(n) if torch else n.endswith(SAFE))]
        primary = [name for name in every if not name.startswith(SECONDARY)]
        indices = [name for name in names if name.endswith(ending)]
        usual = [name for name in indices if not name.startswith(SECONDARY)]
        if not primary and not usual:
            continue
        found = _primary(primary, usual, single, ending, said, indexed, folder)
        break
    weights = [name for name in names if _is_weight(name)]
    if found is None:
        adapters = [name for name in weights if _ADAPTER.fullmatch(name)]
        others = [n for n in weights if n not in adapters and not n.endswith((INDEX, TORCH_INDEX))]
        files = [n for n in others or adapters if n.endswith(SAFE)] or others or adapters
        if not files:
            return None
        torch = not files[0].endswith(SAFE)
        if torch and len(files) > 1:
            raise UserError(
                f"{said}{files[0]}: one of {len(files)} files that may each hold a part of every "
                "matrix; convert them to one model in safetensors (transformers has a script a "
                "family), and name that"
            )
        _require_complete(files, said)
        found = Choice(tuple(files), torch=torch)
    if "adapter_config.json" in names and not Choice(found.files).adapter:
        raise UserError(
            f"{said}adapter_config.json: an adapter beside a whole model: transformers adds it, "
            f"vLLM does not; merge it, or move it, or name the model: {said}"
            f"{found.index or found.files[0]}"
        )
    left = tuple(n for n in weights if n not in (*found.files, found.index))
    return Choice(
        tuple(folder + name for name in found.files),
        folder + found.index if found.index else None,
        found.torch,
        tuple(folder + name for name in left),
    )


def _primary(
    files: Sequence[str],
    indices: Sequence[str],
    single: str,
    ending: str,
    said: str,
    indexed: Callable[[str], Iterable[str]] | None,
    folder: str,
) -> Choice:
    torch = ending == TORCH_INDEX
    one = f"{single}.bin" if torch else f"{single}{SAFE}"
    index = f"{single}{ending}"
    if index not in indices:
        if len(indices) > 1 and one not in files:
            raise UserError(
                f"{said.rstrip('/:')}: several indices ({', '.join(indices)}); keep one of them, "
                f"or name one: {said}{indices[0]}"
            )
        index = indices[0] if indices and one not in files else ""
    if index:
        stem = re.escape(index.removesuffix(ending))
        shards = [n for n in files if re.fullmatch(rf"{stem}-\d+-of-\d+\.\w+", n)]
        named = sorted(set(indexed(folder + index))) if indexed else shards or [one]
        if one in files and named != [one]:
            raise UserError(
                f"{said.rstrip('/:')}: both {one} and {index}, which names other files: "
                "transformers loads the one, vLLM the others; remove what is out of date, or name "
                f"one: {said}{one} or {said}{index}"
            )
        if one not in files or indexed:
            return Choice(tuple(shards or files), index, torch)
    if one in files:
        return Choice((one,), None, torch)
    _require_complete(files, said)
    if torch and len(files) > 1:
        sets = {found["stem"] for n in files if (found := _NUMBERED.fullmatch(n))}
        if len(sets) != 1 or not all(_NUMBERED.fullmatch(name) for name in files):
            raise UserError(
                f"{said.rstrip('/:')}: several files that may be the model ({', '.join(files)}); "
                f"name one: {said}{files[0]}"
            )
    return Choice(tuple(files), None, torch)


def _require_complete(files: Sequence[str], said: str) -> None:
    """Raise `UserError` if a numbered set lacks one; several are distinguished by their number."""
    sets: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in files:
        if found := _NUMBERED.fullmatch(name):
            key = found["stem"], found["n"], found["suffix"]
            sets.setdefault(key, {})[int(found["k"])] = name
    for (stem, n, suffix), there in sets.items():
        for k in range(1, min(int(n), len(there) + 1) + 1):
            if k not in there:
                missing = f"{stem}-{k:0{len(n)}d}-of-{n}{suffix}"
                count = int(n) - len(there)
                more = f" (and {count - 1} more)" if count > 1 else ""
                raise UserError(
                    f"{said}{missing}: missing{more}, though {len(there)} of {int(n)} files of "
                    "that set are there; fetch it"
                )
