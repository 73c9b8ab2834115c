"""Start a trainer, show how far it is, and end it with everything it started."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from subnetworks.core import watchdog
from subnetworks.core.errors import UserError
from subnetworks.core.progress import Progress
from subnetworks.training.runtime import divergence, start
from subnetworks.training.runtime.job import Command
from subnetworks.training.runtime.log import Row, StepsLog
from subnetworks.training.settings import Settings

_POLL_SECONDS = 0.3
_TAIL_LINES = 30
# SLURM names a job's GPUs for every vendor; verl and Ray refuse AMD's name beside NVIDIA's.
_UNWANTED = {"ROCR_VISIBLE_DEVICES"}
_LITTLE_ROOM = 1 << 20
# How long a trainer that is to stop may take to end its step and save; SLURM kills after 30.
_SAVE_SECONDS = 25.0


def describe(last: Row | None) -> str:
    """The newest step in a few words: its reward and loss, and its seconds."""
    if last is None:
        return "starting"
    shown = {name: last[name] for name in ("reward", "loss")}
    parts = [f"{name} {value:z.3f}" for name, value in shown.items() if value is not None]
    if last["seconds"] is not None:
        parts.append(f"{last['seconds']:.2f} s/step")
    return ", ".join(parts)


def run(
    command: Command,
    scratch: Path,
    log_file: Path,
    steps_log: StepsLog,
    progress: Progress,
    stall_seconds: float,
    settings: Settings | None = None,
    keep: tuple[int, ...] = (),
) -> None:
    """Run a trainer to its end; its output is appended to `log_file`.

    However this ends (also by SIGKILL), no process that the trainer started survives, and `scratch`
    is removed. The descriptors `keep` stay open until then.

    SIGTERM is handed on: the trainer ends its step and saves, if it can within 25 s.

    Args:
        settings: the run's, by which `divergence.found` judges it.

    Raises:
        UserError: SIGTERM has come, the trainer ended with one itself, it failed otherwise (its
            last lines are printed to standard error), it diverged, or it made no step for
            `stall_seconds`.
    """
    arguments = [sys.executable, watchdog.__file__, "0", str(scratch), *command.arguments]
    with (
        open(log_file, "ab") as output,
        _noted_termination() as terminated,
        tempfile.NamedTemporaryFile(prefix="subnetworks-error-") as error_file,
    ):
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=inherited() | command.environment | {start.ERROR_FILE: error_file.name},
            start_new_session=True,
            pass_fds=keep,
        )
        assert process.stdin is not None
        last = max(steps_log.rows, default=0)
        alive = time.monotonic()
        row: Row | None = None
        stalled = False
        asked = 0.0
        diverged: tuple[int, str] | None = None
        try:
            while process.poll() is None and not stalled and not diverged:
                time.sleep(_POLL_SECONDS)
                if terminated.is_set() and not asked:
                    asked = time.monotonic()
                    with contextlib.suppress(BrokenPipeError):
                        os.write(process.stdin.fileno(), b"\n")
                if asked and time.monotonic() - asked > _SAVE_SECONDS:
                    break
                if new := steps_log.read():
                    row = new[-1]
                    last, alive = int(row["step"] or 0), time.monotonic()
                    diverged = divergence.found(steps_log.rows, settings)
                progress.note = describe(row)
                progress.update(last)
                stalled = time.monotonic() - alive > stall_seconds
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
        if new := steps_log.read():
            row = new[-1]
            last = int(row["step"] or 0)
            diverged = divergence.found(steps_log.rows, settings)
        own_error = Path(error_file.name).read_text(encoding="utf-8")
    if terminated.is_set():
        raise UserError(
            f"{log_file}: stopped by SIGTERM after step {last}; run again to resume from the last "
            "step that was saved"
        )
    if diverged:
        raise UserError(f"{log_file}: {diverged[1]}")
    if own_error and process.returncode:
        raise UserError(own_error)
    if stalled or process.returncode:
        print(f"--- last lines of {log_file} ---", tail(log_file), "---", sep="\n", file=sys.stderr)
    if stalled:
        raise UserError(
            f"{log_file}: no new step for {stall_seconds:.0f} s after step {last}, stopped as "
            "hung; run again to resume, or raise the accelerator's stall_seconds"
        )
    if process.returncode:
        full = no_room(log_file)
        raise UserError(
            f"{log_file}: the trainer ended with status {process.returncode} after step {last}; "
            + ("the disk is full: make room and " if full else "its last lines are above; ")
            + "run again to resume"
        )
    progress.note = describe(row)
    progress.update(last)


def inherited() -> dict[str, str]:
    """This process's environment, as far as trainers bear it."""
    return {name: value for name, value in os.environ.items() if name not in _UNWANTED}


def no_room(log_file: Path) -> bool:
    """Whether a trainer failed on a full disk, on which it may not have been able to say so."""
    return (
        os.strerror(errno.ENOSPC) in tail(log_file)
        or shutil.disk_usage(log_file.parent).free < _LITTLE_ROOM
    )


def tail(file: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a text file."""
    with open(file, "rb") as handle:
        handle.seek(0, os.SEEK_END)
        handle.seek(max(0, handle.tell() - (1 << 16)))
        return "\n".join(handle.read().decode("utf-8", "replace").splitlines()[-lines:])


@contextlib.contextmanager
def _noted_termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the trainer can save and be ended first."""
    noted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not the main thread: whoever called us handles signals
        yield noted
        return
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)
