"""A run's trajectory: its checkpoints every so many steps, as deltas against its init.

They lie in the run's folder as `trajectory/step_000012.safetensors`; `trajectory/manifest.json`,
written at the run's end, lists them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError
from subnetworks.core.files import kept_steps, sha256, step_file, write_json
from subnetworks.training.runtime.state import shards

NAME = "trajectory"
MANIFEST = "manifest.json"


def write(saved: Path, init: Path, folder: Path, step: int, base: str) -> None:
    """Write the weights of the saved step `saved` as the delta of `step`, atomically.

    The weights are what the run's checkpoint would be if it ended there: rounded to bf16. Of an
    init in another dtype every tensor is stored whole.

    Args:
        saved: the folder of the trainer's saved step.
        init: the run's init.
        folder: of the trajectory.
        step: the number of optimiser steps taken.
        base: the digest of `init` (`subnetworks.checkpoints.identity`).
    """
    from subnetworks import checkpoints
    from subnetworks.checkpoints import deltas
    from subnetworks.training.runtime import finish

    with checkpoints.open(init) as before, checkpoints.open(shards(saved)) as trained:
        deltas.write(step_file(folder, step), before, finish.rounded(trained, before), base=base)


def files(folder: Path) -> list[Path]:
    """All that lies where deltas of steps would."""
    return sorted(folder.glob("step_*.safetensors"))


def resume(folder: Path, step: int) -> None:
    """Keep the deltas up to `step`, and nothing of what a stopped run wrote behind it.

    A run that goes on from an earlier step need not pass through the same weights again.
    """
    for file in files(folder):
        if int(file.stem.rpartition("_")[2]) > step:
            file.unlink()
    for file in folder.glob(".step_*.part"):
        file.unlink()
    (folder / MANIFEST).unlink(missing_ok=True)


def complete(folder: Path, every: int, steps: int, base: str | None) -> None:
    """List the trajectory of a finished run in its manifest; an empty one if `every` is 0.

    Raises:
        UserError: a step is missing.
    """
    from subnetworks.checkpoints import deltas

    rows: list[Mapping[str, Any]] = []
    for step in kept_steps(every, steps):
        file = step_file(folder, step)
        if not file.exists():
            raise UserError(
                f"{file}: missing: the run was resumed behind it; remove {folder.parent / 'state'} "
                "and train again"
            )
        rows.append(
            {
                "step": step,
                "file": file.name,
                "changed": int(deltas.metadata(file)["changed"]),
                "size": file.stat().st_size,
                "sha256": sha256(file),
            }
        )
    write_json(folder / MANIFEST, {"base": base, "every": every, "steps": rows})
