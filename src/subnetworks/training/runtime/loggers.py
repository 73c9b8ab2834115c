"""A run's log sent on, step by step, to TensorBoard, Weights & Biases or Trackio."""

import importlib
import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError
from subnetworks.training.runtime.log import Row

PROJECT = "subnetworks"
Send = Callable[[int, dict[str, float]], None]


def check(names: Sequence[str]) -> None:
    """Check that what is asked for is installed.

    Raises:
        UserError: names the logger and its package.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"settings: logger {name!r} needs the package {name}, which the training "
                f"environment has not; install it there, or leave {name} out"
            )


@contextmanager
def opened(
    names: Sequence[str], folder: Path, run: str, settings: Mapping[str, Any]
) -> Iterator[Callable[[Row], None]]:
    """Open loggers; gives what sends them a step's row.

    Numbers that are not finite are left out. A resumed run goes on in the same folder of
    TensorBoard and under the same name of Weights & Biases.

    Args:
        names: as in `Accelerator.logger`; each is that of its package, too.
        folder: the run's folder, in which they write.
        run: the run's name.
        settings: the run's.
    """
    with ExitStack() as stack:
        sends = [_OPEN[name](stack, folder, run, settings) for name in names]

        def send(row: Row) -> None:
            step = int(row["step"] or 0)
            values = {
                name: float(value)
                for name, value in row.items()
                if name != "step" and value is not None and math.isfinite(value)
            }
            for one in sends:
                one(step, values)

        yield send


def _tensorboard(stack: ExitStack, folder: Path, run: str, settings: Mapping[str, Any]) -> Send:
    module = importlib.import_module("torch.utils.tensorboard")
    writer = stack.enter_context(module.SummaryWriter(str(folder / "tensorboard")))

    def send(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return send


def _wandb(stack: ExitStack, folder: Path, run: str, settings: Mapping[str, Any]) -> Send:
    """Weights & Biases; signing in, and going without (WANDB_MODE), are its own."""
    wandb = importlib.import_module("wandb")
    told = {"dir": str(folder), "config": dict(settings), "resume": "allow"}
    identity = re.sub(r"[^A-Za-z0-9_-]", "-", run)
    wandb.init(project=PROJECT, name=run, id=identity, **told)
    stack.callback(wandb.finish)
    return lambda step, values: wandb.log(values, step=step)


def _trackio(stack: ExitStack, folder: Path, run: str, settings: Mapping[str, Any]) -> Send:
    trackio = importlib.import_module("trackio")
    trackio.init(project=PROJECT, name=run, config=dict(settings), resume="allow")
    stack.callback(trackio.finish)
    return lambda step, values: trackio.log({**values, "step": step})


_OPEN: dict[str, Callable[[ExitStack, Path, str, Mapping[str, Any]], Send]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
