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
from subnetworks.training.settings import OfflineSettings, parse_accelerator


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
    no step. On-policy, the init answers the run's first prompts, from the run's seeds, and a model
    beside the policy (a critic, a reward model) learns from the answers as in the run. Takes two
    float32 numbers an entry beside the weights and the gradients.

    Args:
        settings, init, data, accelerator: as for `subnetworks.training.runtime.run.train`.
        output: the file to write.
        batches: how many, each of one update of the weights; at least 2.

    Raises:
        UserError: as `train` does; or the run trains adapters, or has fewer batches.
    """
    parsed, machine = run.in_steps_of(settings, data), parse_accelerator(accelerator or {})
    if parsed.lora_rank:
        raise UserError(
            f"settings: lora_rank ({parsed.lora_rank}): gradients are measured of the weights, "
            "which adapters leave as they are; leave lora_rank out"
        )
    most = parsed.steps * parsed.updates
    if not 2 <= batches <= most:
        raise UserError(f"--batches {batches}: must lie in [2, {most}], the run's updates")
    results = outputs.claim("gradients", reads=[init, data], files={"--output": output})
    init, data, output = (path.resolve() for path in (init, data, output))
    shapes = run.check(parsed, machine, init, data, None)
    steps = -(-batches // parsed.updates)
    changed = dict.fromkeys(("trajectory_every", "validate_every"), 0)
    if isinstance(parsed, OfflineSettings):  # nothing is trained beside: rates do not matter
        changed |= {"steps": steps, "save_every": steps, "warmup_steps": 0}
    facts = run.facts(parsed, machine, init, data) | {"batches": batches}
    metadata = {"before": masking.digest(init), "settings": canonical_json(parsed.as_json())}
    working = Path(tempfile.mkdtemp(prefix="subnetworks-gradients-"))
    # What is in here is removed as soon as the trainer ends.
    scratch = Path(tempfile.mkdtemp(prefix="subnetworks-", dir=run.short_temporary_folder()))
    log = working / "train.log"
    try:
        with recorded(*results, seed=parsed.seed, **facts), atomic_path(output) as found:
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
                shapes=shapes,
                gradients={"file": str(found), "batches": batches, "metadata": metadata},
                only_steps=steps,
            )
            command = run.TRAINERS[parsed.kind](job)
            with Progress(f"gradients of {parsed.algorithm}", steps, "step") as bar:
                rows = StepsLog([job.steps_log])
                process.run(command, scratch, log, rows, bar, machine.stall_seconds)
            if not found.exists():
                print(process.tail(log), file=sys.stderr)
                raise UserError(f"{output}: the trainer ended without writing it; run again")
    finally:
        for folder in (scratch, working):
            shutil.rmtree(folder, ignore_errors=True)
