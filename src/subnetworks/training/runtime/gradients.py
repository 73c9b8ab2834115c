"""Gradients of a run's own loss at its init: the run's first batches, without a step."""

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.core import outputs
from subnetworks.core.errors import UserError
from subnetworks.core.files import atomic_path, canonical_json
from subnetworks.core.progress import Progress
from subnetworks.core.provenance import recorded
from subnetworks.training.engine import masking
from subnetworks.training.runtime import process, run
from subnetworks.training.runtime.job import Job
from subnetworks.training.runtime.log import StepsLog
from subnetworks.training.settings import parse_accelerator


def measure(
    settings: Mapping[str, Any],
    *,
    init: Path,
    data: Path,
    output: Path,
    batches: int,
    accelerator: Mapping[str, Any] | None = None,
) -> None:
    """Write the moments of a run's gradients at its init (`subnetworks.measuring.gradients`).

    The run's own trainer goes through its first batches, in its order and its arithmetic, and takes
    no step. Takes two float32 numbers an entry beside the weights and the gradients.

    Args:
        settings, init, data, accelerator: as for `subnetworks.training.runtime.run.train`.
        output: the file to write.
        batches: how many; at least 2.

    Raises:
        UserError: as `train` does; or the run is on-policy, or has fewer batches.
    """
    parsed, machine = run.in_steps_of(settings, data), parse_accelerator(accelerator or {})
    if parsed.kind == "online":
        raise UserError(
            f"settings: algorithm: gradients of {parsed.algorithm} need answers sampled at every "
            "batch, which is not supported; allowed: sft and what learns from preferences"
        )
    if not 2 <= batches <= parsed.steps:
        raise UserError(f"--batches {batches}: must lie in [2, {parsed.steps}], the run's steps")
    results = outputs.claim("gradients", reads=[init, data], files={"--output": output})
    init, data, output = (path.resolve() for path in (init, data, output))
    run.check(parsed, machine, init, data, None)
    changed = {"steps": batches, "save_every": batches}
    changed |= dict.fromkeys(("warmup_steps", "trajectory_every", "validate_every"), 0)
    facts = run.facts(parsed, machine, init, data) | {"batches": batches}
    working = Path(tempfile.mkdtemp(prefix="subnetworks-gradients-"))
    # What is in here is removed as soon as the trainer ends.
    scratch = Path(tempfile.mkdtemp(prefix="subnetworks-", dir=run.short_temporary_folder()))
    found = working / output.name
    job = Job(
        settings=parsed.model_copy(update=changed),
        machine=machine,
        init=init,
        data=data,
        mask=None,
        state=working,
        scratch=scratch,
        steps_log=working / "steps.jsonl",
        resume=0,
        largest_tensor=0,
        gradients={
            "file": str(found),
            "batches": batches,
            "metadata": {
                "before": masking.digest(init),
                "settings": canonical_json(parsed.as_json()),
            },
        },
    )
    log = working / "train.log"
    try:
        with recorded(*results, seed=parsed.seed, **facts):
            command = run.TRAINERS[parsed.kind](job)
            with Progress(f"gradients of {parsed.algorithm}", batches, "batch") as bar:
                steps = StepsLog([job.steps_log])
                process.run(command, scratch, log, steps, bar, machine.stall_seconds)
            if not found.exists():
                print(process.tail(log), file=sys.stderr)
                raise UserError(f"{output}: the trainer ended without writing it; run again")
            with atomic_path(output) as temporary:
                shutil.move(found, temporary)
    finally:
        for folder in (scratch, working):
            shutil.rmtree(folder, ignore_errors=True)
