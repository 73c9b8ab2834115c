"""The watchdog asks before it kills, and notices in several ways that nobody wants the command."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subnetworks.core import watchdog

# Says that it is there, and notes that it was asked to end.
COMMAND = """
import os, pathlib, signal, sys, time
def note(*_):
    pathlib.Path(sys.argv[1]).touch()
    sys.exit()
signal.signal(signal.SIGTERM, note)
os.write(1, b"%d\\n" % os.getpid())  # at once: an unbuffered print writes the line's end alone
time.sleep(600)
"""


@pytest.mark.parametrize("grace", [600, 0])
def test_with_grace_the_command_may_end_by_itself(tmp_path: Path, grace: int) -> None:
    scratch, asked = tmp_path / "scratch", tmp_path / "asked"
    scratch.mkdir()
    command = [sys.executable, "-c", COMMAND, str(asked)]
    process = subprocess.Popen(
        [sys.executable, watchdog.__file__, str(grace), str(scratch), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    process.stdin.close()
    assert process.wait() == 1
    process.stdout.close()
    assert asked.exists() == bool(grace)
    assert not scratch.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_that_holds_the_pipe_keeps_nothing_alive(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    client = (
        "import os, subprocess, sys, time\n"
        f"watch = [sys.executable, {watchdog.__file__!r}, '600', {str(tmp_path / 'scratch')!r}]\n"
        f"command = [sys.executable, '-c', {COMMAND!r}, {str(asked)!r}]\n"
        "process = subprocess.Popen([*watch, *command], stdin=subprocess.PIPE)\n"
        "os.write(1, b'%d\\n' % os.fork())\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", client], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = {int(process.stdout.readline()) for _ in range(3)} - {0}
    assert len(pids) == 2  # the child's and the command's
    process.kill()
    process.wait()
    deadline = time.monotonic() + 600
    while not asked.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.stdout.close()
    assert asked.exists()
