"""How vLLM is set up for the machine: the same for a server and for an engine in this process."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.core.engines import ON_CPU, QUIET
from subnetworks.evaluation.machine import Machine


def options(machine: Machine, context: int) -> dict[str, Any]:
    """vLLM's engine arguments by name.

    Args:
        machine: what it runs on.
        context: the longest prompt and answer together, in tokens.
    """
    found: dict[str, Any] = {
        "dtype": machine.dtype,
        "max_model_len": context,
        "max_num_seqs": machine.sequences,
        "seed": 0,
    }
    if machine.kind == "cuda":
        found["tensor_parallel_size"] = machine.devices
        found["gpu_memory_utilization"] = machine.memory_share
    else:
        found["enforce_eager"] = True
        found["kv_cache_memory_bytes"] = int(machine.kv_cache_gb * (1 << 30))
    return found


def environment(machine: Machine, scratch: Path) -> dict[str, str]:
    """The environment's variables that vLLM needs to find when it is imported.

    Args:
        machine: what it runs on.
        scratch: a folder of this engine alone, for its sockets and caches.
    """
    found = {
        **QUIET,
        "VLLM_RPC_BASE_PATH": str(scratch),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(machine.threads),
    }
    if machine.kind == "cpu":
        found |= ON_CPU | {
            "VLLM_CACHE_ROOT": str(scratch),
            "CUDA_VISIBLE_DEVICES": "",
        }
    return found


def command_line(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments as `vllm serve` takes them: a switch for True, otherwise a word and its value."""
    words = []
    for name, value in arguments.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return words


def apply(variables: Mapping[str, str]) -> None:
    """Set the variables in this process, before vLLM is imported."""
    os.environ.update(variables)
