"""The fault campaign disturbs what still runs, and nothing that has ended."""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "system" / "faults"))
from workspace import halted


def test_a_process_that_runs_is_halted_and_one_that_has_ended_is_not() -> None:
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert halted(running.pid)
    running.kill()
    assert running.wait() == -9
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # until it has, and stays a zombie
    assert not halted(ended.pid)
    assert ended.wait() == 0
    assert not halted(ended.pid)
