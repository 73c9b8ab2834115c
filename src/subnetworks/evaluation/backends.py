"""How a checkpoint is run: behind a server, by vLLM in this process, or by transformers."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subnetworks.core.engines import leave_out_compiler
from subnetworks.core.errors import UserError
from subnetworks.evaluation import engine
from subnetworks.evaluation.machine import Machine
from subnetworks.evaluation.server import GRACE_S, Server


@dataclass
class Opened:
    """A checkpoint that is being loaded.

    Attributes:
        model: lm-eval's model of it; it can tokenise from the start.
        ready: blocks until it can answer; returns the seconds that it took to load.
        explain: what to say instead of an error that came up during what is named, if anything.
    """

    model: Any
    ready: Callable[[], float]
    explain: Callable[[Exception, str], UserError | None]


@contextmanager
def opened(
    checkpoint: Path,
    machine: Machine,
    context: int,
    seed: int,
    log: Path,
) -> Iterator[Opened]:
    """Load a checkpoint by the machine's backend; nothing of it is left on leaving.

    Args:
        checkpoint: a Hugging Face folder.
        machine: what it runs on.
        context: the longest prompt and answer together, in tokens.
        seed: the seed of requests that name none.
        log: where a server's own output goes.
    """
    started = time.monotonic()
    if machine.backend == "served":
        with Server(checkpoint, machine, context, log) as server:
            from aiohttp import ClientConnectionError, ClientError

            from subnetworks.evaluation.served import ServedModel

            served = ServedModel(checkpoint, server, context, machine.sequences, seed)

            def ready() -> float:
                server.wait()
                served.attach(server)
                return server.seconds_to_ready or 0.0

            def explain(error: Exception, during: str) -> UserError | None:
                lost = isinstance(error, ClientConnectionError)
                if server.ended(within_s=2 * GRACE_S if lost else 0):
                    return server.failure(f"the server died during {during}")
                if isinstance(error, ClientError | TimeoutError):
                    words = str(error) or type(error).__name__
                    return server.failure(f"the server failed during {during} ({words})")
                return None

            yield Opened(served, ready, explain)
        return
    scratch = Path(tempfile.mkdtemp(prefix="subnetworks-engine-"))
    try:
        if machine.backend == "vllm":
            # No second process that could outlive this one.
            quiet = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
            engine.apply({**engine.environment(machine, scratch), **quiet})
            if machine.kind == "cpu":
                leave_out_compiler()
            from subnetworks.evaluation.inprocess import vllm_model

            model = vllm_model(checkpoint, machine, context)
        else:
            from subnetworks.evaluation.inprocess import hf_model

            model = hf_model(checkpoint, machine, context)
        seconds = time.monotonic() - started
        yield Opened(model, lambda: seconds, lambda error, during: None)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
