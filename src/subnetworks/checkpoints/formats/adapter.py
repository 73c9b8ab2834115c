"""LoRA adapters as peft saves them: a base and, for some of its matrices, W + s·B·A.

The numbers are those of peft's `merge_and_unload` on a CPU: B·A in float32 (summed in order, see
`kernels.multiply`), times s (alpha / r, or alpha / √r with rank-stabilised LoRA), added to W in
float32, rounded once to W's dtype; of an embedding s·B·A is rounded to that dtype before it is
added, too. Modules that were trained and saved whole replace the base's, in the base's dtype.

Other adapters (DoRA, LoHa, IA3, …), and options that change more than these matrices, are refused.
"""

import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from subnetworks.checkpoints.formats import folders
from subnetworks.checkpoints.formats.contents import Contents
from subnetworks.checkpoints.numbers import decode, encode, round_to
from subnetworks.checkpoints.storage import Tensor
from subnetworks.core import kernels
from subnetworks.core.errors import UserError

PLAIN = True
CONFIG = "adapter_config.json"
_MERGE = "merge it with peft (merge_and_unload), save the model, and compare that"
_PREFIX = "base_model.model."
_FILE = re.compile(r"adapter_model(-\d+-of-\d+)?\.(safetensors|bin)")
_WEIGHTS = re.compile(r"(?P<module>.+)\.(?:lora_embedding_(?P<e>[AB])|lora_(?P<l>[AB])\.weight)")
# Settings of peft that change nothing in what was saved, or that are obeyed here.
_HARMLESS = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path ensure_weight_tying eva_config"
    " exclude_modules fan_in_fan_out inference_mode layers_pattern layers_to_transform lora_alpha"
    " lora_dropout megatron_core modules_to_save peft_type peft_version qalora_group_size r"
    " rank_pattern revision runtime_config target_modules task_type use_rslora".split()
)
# Those that leave the base as it is; PiSSA, OLoRA, CorDA, LoftQ, … subtract from it.
_INITIAL = (True, False, "gaussian", "eva", "orthogonal")
_DTYPES = ("BF16", "F16", "F32")
# These models keep most matrices transposed (transformers' Conv1D).
_TRANSPOSED_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_TRANSPOSED = re.compile(r"\.(?:c_attn|c_proj|c_fc|q_attn)$")
# Entries of W computed at a time.
_PIECE = 1 << 17
# Pairs of matrices held in float32: as many as threads read at once.
_HELD = 16


def recognises(path: Path) -> bool:
    """Whether it is an adapter's file, or a folder that holds no weights but those of adapters."""
    if path.is_file():
        return bool(_FILE.fullmatch(path.name)) or path.name == CONFIG
    found = folders.choice(path)
    return found.adapter if found else (path / CONFIG).is_file()


def read(path: Path) -> Contents:
    """Raises `UserError`: an adapter alone is no checkpoint; the error says how to compare it."""
    if path.is_file():
        folder = path.parent
    else:
        found = folders.choice(path)
        inside = {(path / file).parent for file in found.files} if found else {path}
        folder = min(inside)
    said = ""
    if (folder / CONFIG).is_file():
        base = folders.json_object(folder / CONFIG).get("base_model_name_or_path")
        said = f", which was {base}" if isinstance(base, str) else ""
    raise UserError(
        f"{path}: an adapter, not a whole model; compare adapter:{folder}@BASE with its BASE{said}"
    )


@dataclass(frozen=True)
class _Factors:
    """A LoRA: W + scale · B·A, or its transpose, as always of an embedding."""

    a: Tensor
    b: Tensor
    scale: float
    transposed: bool
    embedding: bool


class _Held:
    """The factors used last, in float32."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, factors: _Factors) -> tuple[np.ndarray, np.ndarray]:
        """Both matrices (rows of W, r) and (r, columns of W)."""
        with self._lock:
            if factors.a.name in self._held:
                self._held.move_to_end(factors.a.name)
                return self._held[factors.a.name]
        a, b = (decode(t.raw(), t.dtype).reshape(t.shape) for t in (factors.a, factors.b))
        found = (
            (np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)) if factors.transposed else (b, a)
        )
        with self._lock:
            self._held[factors.a.name] = found
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        return found


def settings(path: Path) -> dict[str, Any]:
    """The adapter's settings, checked: whatever is not understood is refused.

    Raises:
        UserError: not LoRA, or LoRA with what is not B·A added to a matrix.
    """
    value = folders.json_object(path)
    kind = value.get("peft_type", "LORA")
    if kind != "LORA":
        raise UserError(f"{path}: an adapter of type {kind!r}, not LoRA; {_MERGE}")
    if value.get("init_lora_weights", True) not in _INITIAL:
        raise UserError(
            f"{path}: init_lora_weights {value['init_lora_weights']!r} changes the base itself; "
            f"{_MERGE}"
        )
    for key, found in value.items():
        usual = (
            key in _HARMLESS or key == "init_lora_weights" or (key == "bias" and found == "none")
        )
        if found and not usual:
            what = "DoRA" if key == "use_dora" else f"{key}: {json.dumps(found)[:60]}"
            raise UserError(f"{path}: an adapter with {what}, not plain LoRA; {_MERGE}")
    r, alpha = value.get("r"), value.get("lora_alpha", 8)
    if (
        type(r) is not int
        or r < 1
        or not isinstance(alpha, int | float)
        or not math.isfinite(alpha)
    ):
        raise UserError(f"{path}: no rank 'r' and 'lora_alpha' in it: fetch the adapter again")
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = value.get(key) or {}
        if not isinstance(pattern, dict) or not all(
            isinstance(number, int | float) and number > 0 for number in pattern.values()
        ):
            raise UserError(f"{path}: {key} is no map of names to numbers: fetch it again")
    return value


def _of_pattern(pattern: Mapping[str, float], module: str, default: float, path: Path) -> float:
    """peft's rule: the first key that is the end of the module's name, as a regular expression."""
    for key, value in pattern.items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise UserError(f"{path}: {key!r} is no regular expression: mend it") from error
    return default


def merged(
    path: Path,
    arrays: Mapping[str, Tensor],
    chosen: Mapping[str, Any],
    base: Mapping[str, Tensor],
    base_config: Mapping[str, Any],
    tie: tuple[str, str] | None,
    base_name: str,
) -> tuple[dict[str, Tensor], bool]:
    """The tensors that the adapter makes of its base's, and whether a tied head still is.

    Args:
        path: the adapter's file.
        arrays: what is in it.
        chosen: its settings.
        base: the base's tensors.
        base_config: the base's `config.json`.
        tie: names of output head (stored or not) and token embedding where they are tied.
        base_name: what errors call the base.

    Raises:
        UserError: the adapter has what is not understood, or does not fit this base.
    """
    factors, whole, replaced = _sorted(path, arrays)
    result = dict(base)

    def known(module: str) -> str:
        name = f"{module}.weight"
        if name in result:
            return name
        if tie and name == tie[0]:
            return tie[1]
        raise UserError(
            f"{path}: adapts {name!r}, which {base_name} has not; name the base it was trained on: "
            f"adapter:{path.parent}@BASE"
        )

    for module, tensor in replaced.items():
        # Under LoRA a layer keeps its own weights, which tied layers share.
        for name in _shared(known(module), tie, result):
            result[name] = _as_saved(tensor, base.get(name), name)
    untied = False
    for name, tensor in whole.items():
        if tie and name in tie:
            untied = True
            other = tie[1 - tie.index(name)]
            if other not in result:
                result[other] = replace(result[tie[1]], name=other)
        result[name] = _as_saved(tensor, result.get(name), name)
    if untied and tie and all(name in whole for name in tie):
        untied = not chosen.get("ensure_weight_tying", False)
    held = _Held()
    # Embeddings first, as in a model: where a tied head is adapted, too, both are added in turn.
    in_order = sorted(factors.items(), key=lambda item: not item[1][2])
    for module, (a, b, embedding) in in_order:
        target = known(module)
        lora = _factors(path, module, a, b, embedding, result[target], chosen, base_config)
        for name in _shared(target, None if untied else tie, result):
            result[name] = _added(result[name], lora, held, path)
    return result, not untied


def _shared(name: str, tie: tuple[str, str] | None, stored: Mapping[str, Tensor]) -> list[str]:
    """The name, and that of the tensor tied to it if it is stored, too."""
    if tie and name in tie:
        return [one for one in tie if one in stored]
    return [name]


_Sorted = tuple[dict[str, tuple[Tensor, Tensor, bool]], dict[str, Tensor], dict[str, Tensor]]


def _sorted(path: Path, arrays: Mapping[str, Tensor]) -> _Sorted:
    """LoRA by module, tensors saved whole by name, and weights of adapted layers by module."""
    sides: dict[str, dict[str, Tensor]] = {}
    embeddings: set[str] = set()
    whole: dict[str, Tensor] = {}
    replaced: dict[str, Tensor] = {}
    for key, tensor in arrays.items():
        what = f"{path}: tensor {key!r}"
        if not key.startswith(_PREFIX):
            raise UserError(f"{what}: not named as peft names an adapter's; {_MERGE}")
        if tensor.dtype not in _DTYPES:
            raise UserError(f"{what}: {tensor.dtype}, not a dtype that peft merges; {_MERGE}")
        name = key.removeprefix(_PREFIX)
        found = _WEIGHTS.fullmatch(name)
        if found:
            if len(tensor.shape) != 2:
                raise UserError(f"{what}: LoRA of what is no matrix; {_MERGE}")
            sides.setdefault(found["module"], {})[found["l"] or found["e"]] = tensor
            if found["e"]:
                embeddings.add(found["module"])
        elif name.endswith(".base_layer.weight"):
            replaced[name.removesuffix(".base_layer.weight")] = tensor
        elif "lora_" in name or ".base_layer." in name:
            what = "DoRA" if "lora_magnitude_vector" in name else "more than LoRA's A and B"
            raise UserError(f"{path}: tensor {key!r}: {what}; {_MERGE}")
        else:
            whole[name] = tensor
    for module, pair in sides.items():
        if len(pair) != 2:
            raise UserError(
                f"{path}: {module}: only one of LoRA's A and B: the file is incomplete; "
                "fetch or save the adapter again"
            )
    factors = {m: (pair["A"], pair["B"], m in embeddings) for m, pair in sides.items()}
    return factors, whole, replaced


def _factors(
    path: Path,
    module: str,
    a: Tensor,
    b: Tensor,
    embedding: bool,
    weight: Tensor,
    chosen: Mapping[str, Any],
    base_config: Mapping[str, Any],
) -> _Factors:
    what = f"{path}: tensor {a.name!r}"
    config = path.parent / CONFIG
    r = _of_pattern(chosen.get("rank_pattern") or {}, module, chosen["r"], config)
    alpha = _of_pattern(
        chosen.get("alpha_pattern") or {}, module, chosen.get("lora_alpha", 8), config
    )
    if not a.shape[0] == b.shape[1] == r:
        raise UserError(
            f"{what}: of rank {a.shape[0]}, by {CONFIG} {r}; the two are not of one adapter: "
            "fetch or save it again"
        )
    if weight.dtype not in _DTYPES:
        raise UserError(
            f"{what}: the base stores {weight.name!r} as {weight.dtype}; name a base in BF16, F16 "
            "or F32"
        )
    outer, inner = b.shape[0], a.shape[1]
    fits = weight.shape == (outer, inner), weight.shape == (inner, outer)
    if not any(fits):
        raise UserError(
            f"{what}: makes a matrix of {outer}x{inner}, but {weight.name!r} of the base has "
            f"{'x'.join(map(str, weight.shape))}; name the base it was trained on: "
            f"adapter:{path.parent}@BASE"
        )
    if embedding:
        transposed = True
    elif all(fits):
        model = base_config.get("model_type")
        if model in _TRANSPOSED_MODELS:
            transposed = bool(_TRANSPOSED.search(module))
        else:
            transposed = model is None and bool(chosen.get("fan_in_fan_out"))
    else:
        transposed = fits[1]
    scale = alpha / (math.sqrt(r) if chosen.get("use_rslora") else r)
    return _Factors(a, b, scale, transposed, embedding)


def _as_saved(tensor: Tensor, base: Tensor | None, name: str) -> Tensor:
    """A tensor that was saved whole, in the dtype of the base's."""
    if base is None or base.dtype == tensor.dtype or base.dtype not in _DTYPES:
        return replace(tensor, name=name)

    def read(buffer: Any, offset: int) -> None:
        out = np.frombuffer(buffer, dtype=f"u{base.itemsize}")
        start = offset // base.itemsize
        out[:] = encode(decode(tensor.raw(start, start + out.size), tensor.dtype), base.dtype)

    return replace(tensor, name=name, dtype=base.dtype, reader=read)


def _added(weight: Tensor, lora: _Factors, held: _Held, path: Path) -> Tensor:
    columns = weight.shape[1]
    step = max(1, _PIECE // columns)
    scale = np.float32(lora.scale)

    def read(buffer: Any, offset: int) -> None:
        weight.reader(buffer, offset)
        out = np.frombuffer(buffer, dtype=f"u{weight.itemsize}")
        start = offset // weight.itemsize
        stop = start + out.size
        left, right = held.of(lora)
        last = -(-stop // columns)
        for begin in range(start // columns, last, step):
            end = min(begin + step, last)
            product = np.empty((end - begin, columns), np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                kernels.multiply(left[begin:end], right, product)
                change = (product * scale).reshape(-1)
            low, high = max(begin * columns, start), min(end * columns, stop)
            part = out[low - start : high - start]
            change = change[low - begin * columns : high - begin * columns]
            if lora.embedding:
                change = round_to(change, weight.dtype)
            part[:] = encode(decode(part, weight.dtype) + change, weight.dtype)

    return replace(weight, reader=read)
