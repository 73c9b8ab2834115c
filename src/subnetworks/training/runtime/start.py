"""A trainer's process: `python -m subnetworks.training.runtime.start MODULE …` calls MODULE's
`main`, and hands an error of ours on to whoever started it (`ERROR_FILE`).
"""

import importlib
import os
import sys
from pathlib import Path

from subnetworks.core.errors import UserError
from subnetworks.core.imports import lasting

# Names the file for what the user is to read of an error: a trainer's output has far more.
ERROR_FILE = "SUBNETWORKS_ERROR_FILE"


def main() -> None:
    """Import the module, train, and end without taking down what was built."""
    # Ascend's way of sending weights, which imports all of vLLM; verl goes on without it.
    sys.modules["verl.checkpoint_engine.hccl_checkpoint_engine"] = None  # type: ignore[assignment]
    with lasting():
        train = importlib.import_module(sys.argv.pop(1)).main
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
