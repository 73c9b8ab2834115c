"""math-verify in a process of its own, which ends with this one and may be used by its threads."""

import atexit
import contextlib
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError

# Limits by the clock, for when that of processor time (`verification`) does not bite; so wide that
# even on a machine many times over busy load does not decide what is right.
START_S, WALL_S = 600.0, 300.0
_PROGRAM = Path(__file__).with_name("verification.py")


class Verifier:
    """Compares LaTeX by math-verify, a pair at a time and in bounded time, whatever it is given.

    Attributes:
        failures: pairs that took too long or too much memory; they count as different.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def equal(self, gold: str, answer: str, seconds: float) -> tuple[bool, float]:
        """Whether math-verify holds two expressions for equal, and the processor time it took.

        Args:
            seconds: of processor time; what takes longer counts as different.

        Raises:
            UserError: math-verify is not installed, or cannot be run.
        """
        pair = json.dumps([gold, answer, seconds]).encode() + b"\n"
        with self._lock:
            for _ in range(2):  # once more where it was killed from outside
                try:
                    reply = self._ask(self._running(), pair)
                except BrokenPipeError:
                    self.close()
                    continue
                self.failures += reply is None
                return (bool(reply[0]), float(reply[1])) if reply else (False, seconds)
        raise UserError(f"math-verify cannot be run by {sys.executable}; see its own words above")

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._owner != os.getpid():  # a fork has its parent's, which it must not use
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            require()
            # Isolated: neither the user's PYTHON* variables nor the current folder matter.
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # so that all of it can be killed
                bufsize=0,
            )
            if not self._line(self._process, START_S):
                raise BrokenPipeError
        return self._process

    def _ask(self, process: "subprocess.Popen[bytes]", pair: bytes) -> Any:
        assert process.stdin is not None
        process.stdin.write(pair)
        return self._line(process, WALL_S)

    def _line(self, process: "subprocess.Popen[bytes]", limit: float) -> Any:
        assert process.stdout is not None
        reply = b""
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            while not reply.endswith(b"\n"):
                if not waiting.select(limit):
                    self.close()
                    return None
                part = process.stdout.read(64)
                if not part:
                    raise BrokenPipeError
                reply += part
        return json.loads(reply)

    def close(self) -> None:
        """End the process; the next pair starts another."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def require() -> None:
    """Raise `UserError` where math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            f"math-verify is not installed for {sys.executable}: answers cannot be graded by "
            "meaning; build the environment anew (`python envs/build.py`)"
        )


shared = Verifier()
