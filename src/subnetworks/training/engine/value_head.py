"""The critic's model: the init with a value head, drawn from the run's seed."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import verl.utils.model as models

if TYPE_CHECKING:
    from collections.abc import Iterator


class ValueHeadMixin:
    """verl's engine for value models loads every one with flash attention and an unseeded head;
    this one keeps to the attention of the model's config and to the engine's seed."""

    engine_config: Any

    def _build_module(self) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]), _loader(_load):
            torch.manual_seed(self.engine_config.seed)
            module: torch.nn.Module = super()._build_module()  # type: ignore[misc]
        return module


@contextmanager
def _loader(load: Any) -> "Iterator[None]":
    before = models.load_valuehead_model
    models.load_valuehead_model = load
    try:
        yield
    finally:
        models.load_valuehead_model = before


def _load(
    local_path: str, torch_dtype: torch.dtype, model_config: Any, trust_remote_code: bool
) -> torch.nn.Module:
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        dtype=torch_dtype,
        config=model_config,
        attn_implementation=model_config._attn_implementation,
        trust_remote_code=trust_remote_code,
    )
