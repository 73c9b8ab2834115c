"""vLLM's server, whose processes on a CPU share what they import: `python -P serving.py serve …`.

vLLM starts each of its processes anew, and each imports the same thousands of modules: on a CPU the
start of a small model's server is little else. Here they are imported first, and the processes
forked from the one that has them. A script of its own; the arguments are those of `vllm`.
"""

import gc
import importlib
import os
from collections.abc import Callable
from typing import Any

# What the engine and its worker import.
SHARED = (
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
)


def share_imports() -> None:
    """Import what the engine and its worker need, and have vLLM fork them from this process.

    vLLM spawns them because a process with running threads, or a GPU in use, does not survive a
    fork; the first process of a CPU server has neither yet.
    """
    from vllm.model_executor.models import registry
    from vllm.platforms.cpu import CpuPlatform

    for name in SHARED:
        importlib.import_module(name)
    check = CpuPlatform.check_and_update_config.__func__

    def check_and_fork(platform: type[CpuPlatform], config: Any) -> None:
        check(platform, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    def run_here(inspect: Callable[[], Any]) -> Any:
        return inspect()

    CpuPlatform.check_and_update_config = classmethod(check_and_fork)
    # A model's class is inspected in a process of its own, to keep CUDA out of this one.
    registry._run_in_subprocess = run_here


def main() -> None:
    """Serve."""
    gc.disable()  # what is imported stays
    from vllm.entrypoints.cli.main import main as serve
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        share_imports()
    gc.freeze()
    gc.enable()
    serve()


if __name__ == "__main__":
    main()
