"""A trainer's process: `python -m subnetworks.training.runtime.start MODULE …` calls MODULE's
`main`.

To import verl, vLLM and transformers makes two million objects that last as long as the process.
Python's garbage collector would look through them again and again, and each of the trainers' own
calls of it would (before every checkpoint, and at the end).
"""

import gc
import importlib
import os
import sys
from pathlib import Path

from subnetworks.core.errors import UserError

# Names the file for what the user is to read of an error: a trainer's output has far more.
ERROR_FILE = "SUBNETWORKS_ERROR_FILE"

# New objects between two collections, by default 700: a step makes hundreds of thousands.
_OBJECTS = 100_000


def main() -> None:
    """Import the module, train, and end without taking down what was built."""
    gc.disable()
    # Ascend's way of sending weights, which imports all of vLLM; verl goes on without it.
    sys.modules["verl.checkpoint_engine.hccl_checkpoint_engine"] = None  # type: ignore[assignment]
    train = importlib.import_module(sys.argv.pop(1)).main
    gc.freeze()
    gc.set_threshold(_OBJECTS)
    gc.enable()
    try:
        train()
    except UserError as error:
        if file := os.environ.get(ERROR_FILE):
            # What Ray hands on from a worker holds its traceback, too.
            Path(file).write_text(str(getattr(error, "cause", error)), encoding="utf-8")
        raise
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return  # its other processes are ended at exit
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
