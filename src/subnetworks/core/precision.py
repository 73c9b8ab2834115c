"""What a model computes in: decided here for training, sampling and serving.

The paper trains in bf16 mixed precision: the optimiser keeps float32 weights, and the forward pass
sees them rounded to bf16. The rounding matters: without it training also learns through movements
too small for bf16 to show, which no mask taken from bf16 checkpoints contains. But a processor
without bf16 arithmetic multiplies bf16 matrices 5 to 15 times slower than float32 ones. There the
forward pass sees the same rounded weights, stored and multiplied in float32.
"""

from dataclasses import dataclass
from typing import Literal

from subnetworks.core import processor

Dtype = Literal["bfloat16", "float32"]
Bfloat16 = Literal["auto", "native", "emulated"]


@dataclass(frozen=True)
class Arithmetic:
    """What a model computes in.

    Attributes:
        weights: what the forward pass sees the weights rounded to.
        products: what weights and activations are stored and multiplied in.
    """

    weights: Dtype
    products: Dtype


def of_training(compute_dtype: Dtype, kind: str, bfloat16: Bfloat16 = "auto") -> Arithmetic:
    """What a run trains and samples in.

    Args:
        compute_dtype: the run's own choice; bfloat16 is the paper's.
        kind: the accelerator's, `cpu` or `cuda`.
        bfloat16: how the accelerator computes in bf16: `native`, `emulated` (rounded weights in
            float32), or `auto`: native where the processor has the arithmetic.
    """
    if compute_dtype == "float32":
        return Arithmetic("float32", "float32")
    if bfloat16 == "auto":
        native = kind == "cuda" or processor.has_bfloat16()
        bfloat16 = "native" if native else "emulated"
    return Arithmetic("bfloat16", "bfloat16" if bfloat16 == "native" else "float32")


def of_serving(kind: str, bfloat16: Bfloat16 = "auto") -> Dtype:
    """What a checkpoint is served in: its weights as they were saved, multiplied in bf16, or in
    float32 where the processor is faster at that."""
    return of_training("bfloat16", kind, bfloat16).products
