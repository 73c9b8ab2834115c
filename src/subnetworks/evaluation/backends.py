"""How a checkpoint is run: behind a server, by vLLM in this process, or by transformers."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subnetworks.errors import UserError
from subnetworks.evaluation import engine
from subnetworks.evaluation.server import Server

BACKENDS = ("served", "vllm", "hf")


@dataclass
class Opened:
    """A checkpoint that is being loaded.

    Attributes:
        model: lm-eval's model of it; it can tokenise from the start.
        ready: blocks until it can answer; returns the seconds that it took to load.
        died: the error to raise if it died during what is named; None if it lives.
    """

    model: Any
    ready: Callable[[], float]
    died: Callable[[str], UserError | None]


def check(backend: str) -> str:
    """The backend's name, if there is one of that name; `UserError` lists them otherwise."""
    if backend not in BACKENDS:
        raise UserError(f"no backend {backend!r}; there are: {', '.join(BACKENDS)}")
    return backend


@contextmanager
def opened(
    backend: str,
    checkpoint: Path,
    accelerator: Mapping[str, Any],
    context: int,
    sequences: int,
    seed: int,
    log: Path,
) -> Iterator[Opened]:
    """Load a checkpoint by one of `BACKENDS`; nothing of it is left on leaving.

    Args:
        backend: `served` (vLLM as a server of its own), `vllm` (in this process), `hf`
            (transformers).
        checkpoint: a Hugging Face folder.
        accelerator: see `server.Server`; `hf` also reads `batch_size`.
        context: the longest prompt and answer together, in tokens.
        sequences: how many vLLM works on at the same time.
        seed: the seed of requests that name none.
        log: where a server's own output goes.
    """
    started = time.monotonic()
    if backend == "served":
        with Server(checkpoint, accelerator, context, sequences, log) as server:
            from subnetworks.evaluation.served import ServedModel

            served = ServedModel(checkpoint, server, context, sequences, seed)

            def ready() -> float:
                server.wait()
                served.attach(server)
                return server.seconds_to_ready or 0.0

            def died(during: str) -> UserError | None:
                if server.alive():
                    return None
                return server.failure(f"the server died during {during}")

            yield Opened(served, ready, died)
        return
    scratch = Path(tempfile.mkdtemp(prefix="subnetworks-engine-"))
    try:
        if backend == "vllm":
            # No second process that could outlive this one.
            quiet = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
            engine.apply({**engine.environment(accelerator, scratch), **quiet})
            from subnetworks.evaluation.inprocess import vllm_model

            model = vllm_model(checkpoint, accelerator, context, sequences)
        else:
            from subnetworks.evaluation.inprocess import hf_model

            model = hf_model(checkpoint, accelerator, context)
        seconds = time.monotonic() - started
        yield Opened(model, lambda: seconds, lambda during: None)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
