"""The machine that an evaluation runs on: its keys, checked, with what they default to."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from subnetworks import precision
from subnetworks.errors import UserError

BACKENDS = ("served", "vllm", "hf")
DTYPES = ("auto", "bfloat16", "float16", "float32")
_SEQUENCES = {"cpu": 128, "cuda": 256}
_READY_WITHIN_S = {"cpu": 600.0, "cuda": 1800.0}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What differs from machine to machine; zero means the default of its kind.

    Attributes:
        kind: cpu or cuda.
        devices: GPUs that a checkpoint is spread over (tensor parallel size).
        threads: cores.
        backend: `served` (vLLM as a server of its own), `vllm` (in this process), `hf`
            (transformers).
        dtype: of the weights and activations; by default (auto) bfloat16, or float32 where the
            processor is faster at that, which gives a bfloat16 checkpoint's weights as they are.
        bfloat16: how the accelerator computes in bf16, for `auto` (`subnetworks.precision`).
        memory_share: of each GPU's memory that vLLM takes.
        kv_cache_gb: vLLM's cache on a CPU.
        max_model_len: the longest prompt and answer together, in tokens; by default what the
            benchmarks need.
        sequences: requests that vLLM works on at the same time (128, on cuda 256).
        batch_size: prompts side by side under `hf`.
        ready_within_s: patience with a server that starts (600, on cuda 1800).
    """

    kind: str
    devices: int = 1
    threads: int = 1
    backend: str = "served"
    dtype: str = "auto"
    bfloat16: str = "auto"
    memory_share: float = 0.9
    kv_cache_gb: float = 1
    max_model_len: int = 0
    sequences: int = 0
    batch_size: int = 8
    ready_within_s: float = 0

    def __post_init__(self) -> None:
        choices = {
            "kind": _SEQUENCES,
            "backend": BACKENDS,
            "dtype": DTYPES,
            "bfloat16": get_args(precision.Bfloat16),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise UserError(
                    f"accelerator: no {key} {getattr(self, key)!r}; there are: {', '.join(allowed)}"
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is str:
                continue
            kinds = (int,) if field.type is int else (int, float)
            least_is_zero = field.default == 0
            if (
                not isinstance(value, kinds)
                or isinstance(value, bool)
                or value < 0
                or (value == 0 and not least_is_zero)
            ):
                raise UserError(f"accelerator: {field.name}: {value!r} is not a positive number")
        if self.memory_share > 1:
            raise UserError(f"accelerator: memory_share: {self.memory_share} is more than all")
        if self.dtype == "auto":
            how = cast(precision.Bfloat16, self.bfloat16)
            object.__setattr__(self, "dtype", precision.of_serving(self.kind, how))
        object.__setattr__(self, "sequences", self.sequences or _SEQUENCES[self.kind])
        object.__setattr__(
            self, "ready_within_s", self.ready_within_s or _READY_WITHIN_S[self.kind]
        )

    def as_dict(self) -> dict[str, Any]:
        """All keys with their values."""
        return dataclasses.asdict(self)


def parse(accelerator: Mapping[str, Any]) -> Machine:
    """The machine of those keys; `UserError` names what is unknown or wrong."""
    allowed = [field.name for field in dataclasses.fields(Machine)]
    if unknown := [key for key in accelerator if key not in allowed]:
        raise UserError(f"accelerator: unknown key {unknown[0]!r}; allowed: {', '.join(allowed)}")
    if "kind" not in accelerator:
        raise UserError("accelerator: missing key 'kind'; there are: cpu, cuda")
    return Machine(**accelerator)
