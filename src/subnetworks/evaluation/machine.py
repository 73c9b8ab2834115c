"""The machine that an evaluation runs on: its keys, checked, with what they default to."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from subnetworks.core import precision
from subnetworks.core.validation import Above, Count, Positive, Rate, SettingsModel
from subnetworks.core.validation import parse as parse_model

_SEQUENCES = {"cpu": 128, "cuda": 256}
_READY_WITHIN_S = {"cpu": 600.0, "cuda": 1800.0}


class Serving(SettingsModel):
    """How a machine evaluates; zero means the default of its kind."""

    backend: Literal["served", "vllm", "hf"] = Field(
        "served", description="A vLLM server of its own, vLLM in the process, or transformers."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Of the weights and activations: bfloat16, or (auto) float32 where the "
        "processor is faster at that, which gives a bfloat16 checkpoint's weights as they are.",
    )
    memory_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Share of each GPU's memory that vLLM takes."
    )
    kv_cache_gb: Above = Field(1.0, description="vLLM's cache on a CPU.")
    max_model_len: Count = Field(
        0, description="Longest prompt and answer together, in tokens; 0 is what is needed."
    )
    sequences: Count = Field(
        0, description="Requests worked on at the same time; 0 is 128 on a CPU, 256 on cuda."
    )
    batch_size: Positive = Field(8, description="Prompts side by side under hf.")
    ready_within_s: Rate = Field(
        0.0, description="Patience with a server that starts; 0 is 600 on a CPU, 1800 on cuda."
    )


class Machine(Serving):
    """What differs from machine to machine.

    `devices` are GPUs that a checkpoint is spread over (tensor parallel size), `bfloat16` is how
    the accelerator computes in bf16 where dtype is auto (`subnetworks.core.precision`).
    """

    kind: Literal["cpu", "cuda"]
    devices: Positive = 1
    threads: Positive = 1
    bfloat16: precision.Bfloat16 = "auto"

    def model_post_init(self, context: Any) -> None:
        """Put the kind's defaults in place."""
        resolved: dict[str, Any] = {
            "dtype": precision.of_serving(self.kind, self.bfloat16)
            if self.dtype == "auto"
            else self.dtype,
            "sequences": self.sequences or _SEQUENCES[self.kind],
            "ready_within_s": self.ready_within_s or _READY_WITHIN_S[self.kind],
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """All keys with their values."""
        return self.model_dump()


def parse(accelerator: Mapping[str, Any]) -> Machine:
    """The machine of those keys; `UserError` names what is unknown or wrong."""
    return parse_model(Machine, accelerator, "accelerator")
