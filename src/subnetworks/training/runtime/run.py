"""One run from its settings to its checkpoint."""

import importlib.util
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from subnetworks.checkpoints import chat
from subnetworks.checkpoints.manifest import verify
from subnetworks.core import outputs
from subnetworks.core.errors import UserError
from subnetworks.core.files import locked, sha256, step_file
from subnetworks.core.precision import of_training
from subnetworks.core.progress import Progress
from subnetworks.core.provenance import recorded
from subnetworks.training.data import checks
from subnetworks.training.data.conversations import no_template
from subnetworks.training.engine import masking
from subnetworks.training.runtime import (
    divergence,
    finish,
    loggers,
    nodes,
    online,
    preference,
    process,
    sft,
    state,
    trajectory,
)
from subnetworks.training.runtime.job import Command, Job
from subnetworks.training.runtime.log import StepsLog
from subnetworks.training.settings import (
    IN_STEPS,
    Accelerator,
    OfflineSettings,
    OnlineSettings,
    Settings,
    check_devices,
    in_steps,
    parse_accelerator,
    parse_settings,
)

TRAINERS: dict[str, Callable[[Job], Command]] = {
    "sft": sft.command,
    "online": online.command,
    "preference": preference.command,
}


def train(
    settings: Mapping[str, Any],
    *,
    init: Path,
    data: Path,
    output: Path,
    run_folder: Path,
    mask: Path | None = None,
    accelerator: Mapping[str, Any] | None = None,
    keep_state: bool = False,
) -> None:
    """Train `init` on `data`, within `mask` if one is given, and write its end as `output`.

    Writes `output` (bf16 checkpoint, its manifest last), `run_folder`/log.csv (one row per step),
    `run_folder`/trajectory (deltas against `init`, if `trajectory_every` asks for them, and their
    manifest) and `run_folder`/train.log (the trainer's own words). Unfinished state lies in
    `run_folder`/state: the same call again resumes from its last step that was saved whole. It is
    removed at the end unless `keep_state`.

    Args:
        settings: `algorithm` and that algorithm's keys (`subnetworks.training.settings`);
            `epochs` for `steps`, `warmup_ratio` for `warmup_steps`.
        init: folder of the checkpoint to start from.
        data: folder with train.parquet (and test.parquet).
        mask: mask file (`subnetworks.measuring.masks`) over exactly the init's tensors.
        accelerator: keys of `subnetworks.training.settings.Accelerator`.

    Raises:
        UserError: wrong settings, init, data or mask, or something in the way (before training
            starts), or the trainer failed.
    """
    parsed, machine = in_steps_of(settings, data), parse_accelerator(accelerator or {})
    results = claim(init, data, mask, output, run_folder)
    init, data, output, run_folder = (p.resolve() for p in (init, data, output, run_folder))
    mask = mask.resolve() if mask else None
    shapes = check(parsed, machine, init, data, mask)

    with locked(run_folder) as lock:
        _train(
            parsed, machine, init, data, mask, output, run_folder, shapes, lock, results, keep_state
        )


def in_steps_of(settings: Mapping[str, Any], data: Path) -> Settings:
    """A run's settings; those that count in epochs, in steps over `data`."""
    if IN_STEPS.keys() & settings.keys():
        settings = in_steps(settings, checks.examples(data, settings.get("algorithm")))
    return parse_settings(settings)


def facts(settings: Settings, machine: Accelerator, init: Path, data: Path) -> dict[str, Any]:
    """What a run's numbers depend on, its mask apart."""
    return {
        "settings": settings.as_json(),
        "devices": machine.ranks,
        "init": state.digest(init),
        "data": state.digest(data),
        "arithmetic": asdict(of_training(settings.compute_dtype, machine.kind, machine.bfloat16)),
    }


def claim(
    init: Path, data: Path, mask: Path | None, output: Path, run_folder: Path
) -> list[outputs.Output]:
    """Check where a run is to write (`subnetworks.core.outputs`); gives its results.

    Raises:
        UserError: something else is in the way.
    """
    folder, deltas = run_folder / "state", run_folder / trajectory.NAME
    log = outputs.Output.of(run_folder / "log.csv")
    results = outputs.claim(
        "train",
        reads=[init, data, mask],
        files=[("log", log.path), ("trajectory", deltas / trajectory.MANIFEST)],
        folders=[output],
        beside=[folder],
    )
    known = outputs.purpose_of(outputs.read_record(log.record), log.path.name).startswith("train")
    outputs.check_working("train", [folder], state.ours(folder))
    outputs.check_working(
        "train", [run_folder / "train.log", *trajectory.files(deltas)], known or state.ours(folder)
    )
    return [*results, outputs.Output.of(output / "manifest.json", "train")]


def _train(
    parsed: Settings,
    machine: Accelerator,
    init: Path,
    data: Path,
    mask: Path | None,
    output: Path,
    run_folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    lock: int,
    results: list[outputs.Output],
    keep_state: bool,
) -> None:
    """The run itself, by the only process that works in its folder; the arguments were checked."""
    if not importlib.util.find_spec("verl"):  # which the trainer imports, a process of its own
        raise ModuleNotFoundError(name="verl")
    folder = run_folder / "state"
    known = facts(parsed, machine, init, data) | {"mask": sha256(mask) if mask else None}
    state.prepare(folder, known)
    attempts = sorted(folder.glob("steps-*.jsonl"))
    steps_log = StepsLog(attempts)
    steps_log.read()
    logged = steps_log.complete_to
    if before := divergence.found(steps_log.rows, parsed):
        logged = min(logged, before[0] - 1)
    resume = state.resume_from(folder, logged)
    steps_log.forget_after(resume)
    log_file = run_folder / "train.log"
    if not resume:
        log_file.unlink(missing_ok=True)

    deltas = run_folder / trajectory.NAME
    trajectory.resume(deltas, resume)
    every = parsed.trajectory_every
    base = masking.digest(init) if every else None
    if base and resume and resume % every == 0 and not step_file(deltas, resume).exists():
        # The run was stopped between saving this step and writing its delta.
        trajectory.write(folder / f"global_step_{resume}", init, deltas, resume, base)

    with recorded(*results, seed=parsed.seed, **known) as meta:
        meta["accelerator"] = machine.model_dump(mode="json")
        meta["resumed_from_step"] = resume
        if resume < parsed.steps:
            scratch = Path(tempfile.mkdtemp(prefix="subnetworks-", dir=short_temporary_folder()))
            job = Job(
                settings=parsed,
                machine=machine,
                init=init,
                data=data,
                mask=mask,
                state=folder,
                scratch=scratch,
                steps_log=folder / f"steps-{len(attempts):03d}-{time.time_ns()}.jsonl",
                resume=resume,
                shapes=shapes,
                trajectory=deltas if base else None,
                base=base or "",
            )
            sent = loggers.opened(machine.logger, run_folder, output.name, parsed.as_json())
            try:
                command = TRAINERS[parsed.kind](job)
                with sent as send, Progress(output.name, parsed.steps, "step") as bar:
                    steps_log.follow(job.steps_log, send)
                    stall = machine.stall_seconds
                    process.run(command, scratch, log_file, steps_log, bar, stall, parsed, (lock,))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            meta["seconds"] = steps_log.seconds
        last = folder / f"global_step_{parsed.steps}"
        if not (last.is_dir() and state.whole(last)):
            raise UserError(
                f"{log_file}: the trainer ended without saving step {parsed.steps}; run again to "
                "resume"
            )
        trajectory.complete(deltas, every, parsed.steps, base)
        lora = (parsed.lora_rank, parsed.lora_alpha) if parsed.lora_rank else None
        finish.write_checkpoint(
            last, init, output, mask, parsed.save_dtype, parsed.chat_template, lora
        )
        steps_log.write(run_folder / "log.csv")
    if not keep_state:
        state.clear(folder)


def check(
    settings: Settings, machine: Accelerator, init: Path, data: Path, mask: Path | None
) -> dict[str, tuple[int, ...]]:
    """All that can be known to be wrong before training starts; gives the init's tensors' shapes.

    Raises:
        UserError: names the file, what is wrong with it, and the remedy.
    """
    if machine.nodes > 1:
        nodes.check()
    check_devices(settings, machine)
    loggers.check(machine.logger)
    for folder in (init, data):
        verify(folder)
    shapes = finish.shapes(init)
    if not (settings.chat_template or chat.has_template(init)):
        raise UserError(no_template(init))
    checks.check(data, settings)
    config = json.loads((init / "config.json").read_text(encoding="utf-8"))
    if mask and settings.lora_rank:
        raise UserError(
            f"settings: lora_rank ({settings.lora_rank}) and a mask exclude each other: adapters "
            "change every entry of a layer; leave one out"
        )
    if mask:
        masking.check(mask, init, shapes, tied=bool(config.get("tie_word_embeddings")))
    context = config.get("max_position_embeddings")
    if isinstance(settings, OfflineSettings) and context and settings.max_length > context:
        raise UserError(
            f"settings: max_length ({settings.max_length}) exceeds the context of {init} "
            f"({context} tokens); lower it"
        )
    if isinstance(settings, OnlineSettings):
        if context and settings.longest_sequence > context:
            raise UserError(
                f"settings: max_prompt_length ({settings.max_prompt_length}) and "
                f"max_response_length ({settings.max_response_length}) exceed the context of "
                f"{init} ({context} tokens); lower one"
            )
        checks.check_reward(data, settings)
    return shapes


def short_temporary_folder() -> str | None:
    """A place for sockets, whose paths may not exceed 107 characters; None is the system's own."""
    own = tempfile.gettempdir()
    return "/tmp" if len(own) > 20 and os.access("/tmp", os.W_OK) else own
