"""A vLLM server for one checkpoint, as a context manager that leaves nothing behind."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

from subnetworks.checkpoints.manifest import trusts
from subnetworks.core import watchdog
from subnetworks.core.errors import UserError
from subnetworks.core.files import try_lock
from subnetworks.evaluation import engine, serving
from subnetworks.evaluation.machine import Machine

# How long a server that is no longer wanted may take to end by itself.
GRACE_S = 5.0
# A checkpoint may ask for its own sampling: not in a test. Requests name their temperature.
_NEUTRAL = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
}
_ATTEMPTS = 3
_TAIL = 12


class Server:
    """One checkpoint behind an OpenAI-compatible address on the loopback interface.

    Entering starts the server and returns at once, so that the caller can prepare while it loads;
    `wait` blocks until it answers. It is killed, with all its processes, on leaving, and by a
    watchdog when this process dies in any other way. Requests need the key in `headers`, made anew
    for every server and handed over by the environment, so that no log and no process list has it.

    Args:
        checkpoint: a Hugging Face folder.
        machine: what it runs on.
        context: the longest prompt and answer together, in tokens.
        log: where the server's own output goes.
    """

    def __init__(
        self,
        checkpoint: Path,
        machine: Machine,
        context: int,
        log: Path,
    ) -> None:
        self.name = f"{checkpoint.resolve().name}-{secrets.token_hex(4)}"
        self.seconds_to_ready: float | None = None
        self._checkpoint = checkpoint.resolve()
        self._machine = machine
        self._context = context
        self._log = log
        self._key = secrets.token_urlsafe(32)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._reserved: IO[str] | None = None
        self._started = 0.0
        self._attempts = 0

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry."""
        return {"Authorization": f"Bearer {self._key}"}

    def __enter__(self) -> "Server":
        self._started = time.monotonic()
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self._attempts += 1
        self._port, self._reserved = reserve_port()
        folder = Path(tempfile.mkdtemp(prefix="subnetworks-server-"))
        self._log.parent.mkdir(parents=True, exist_ok=True)
        watch = [sys.executable, "-I", watchdog.__file__, str(GRACE_S), str(folder)]
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [*watch, *self._command()],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(folder),
                    start_new_session=True,
                    pass_fds=[self._reserved.fileno()],  # reserved until the last of it is gone
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _command(self) -> list[str]:
        command = [sys.executable, "-P", serving.__file__, "serve", str(self._checkpoint)]
        arguments = {
            "served_model_name": self.name,
            "host": "127.0.0.1",
            "port": self._port,
            "override_generation_config": json.dumps(_NEUTRAL),
            "disable_uvicorn_access_log": True,
            **engine.options(self._machine, self._context),
            **({"trust_remote_code": True} if trusts(self._checkpoint) else {}),
        }
        return command + engine.command_line(arguments)

    def _environment(self, folder: Path) -> dict[str, str]:
        return {
            **os.environ,
            **engine.environment(self._machine, folder),
            "VLLM_API_KEY": self._key,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }

    def wait(self, tick: Callable[[float], None] = lambda seconds: None) -> None:
        """Block until the server answers for this checkpoint.

        Args:
            tick: called about twice a second with the seconds since the start.

        Raises:
            UserError: it ended, or was not ready in time; with the last lines of its log.
        """
        patience = self._machine.ready_within_s
        deadline = self._started + patience
        while not self._answers():
            tick(time.monotonic() - self._started)
            if not self.alive():
                if self._attempts < _ATTEMPTS and "ddress already in use" in self._tail(200):
                    self.stop()
                    self._start()
                    continue
                raise self.failure("the server ended while starting")
            if time.monotonic() > deadline:
                self.stop()
                raise self.failure(f"the server was not ready within {patience:.0f} s")
            time.sleep(0.5)
        self.seconds_to_ready = time.monotonic() - self._started

    def _answers(self) -> bool:
        """Whether it is this server that listens at the port, and not a stranger."""
        request = urllib.request.Request(f"{self.url}/v1/models", headers=self.headers)
        # A proxy from the environment has no business on the loopback interface.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as response:
                models = json.load(response)["data"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return self.alive() and any(model.get("id") == self.name for model in models)

    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def ended(self, within_s: float) -> bool:
        """Whether it is gone, or goes within so many seconds: the last of it takes a few."""
        deadline = time.monotonic() + within_s
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.alive()

    def stop(self) -> None:
        """End the server and all its processes; returns when they are gone."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(timeout=GRACE_S + 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reserved, self._reserved = self._reserved, None
        if reserved is not None:
            Path(reserved.name).unlink(missing_ok=True)
            reserved.close()

    def failure(self, what: str) -> UserError:
        """An error that says what happened and ends with the server's last words."""
        return UserError(
            f"{self._checkpoint}: {what}; its log is {self._log}, the end of it:\n"
            + self._tail(_TAIL)
        )

    def _tail(self, lines: int) -> str:
        try:
            text = self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "(no log)"
        kept = [line for line in text.splitlines() if line.strip()]
        return "\n".join(f"  {line[:300]}" for line in kept[-lines:]) or "  (empty)"


def free_port() -> int:
    """A port on the loopback interface that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reserve_port() -> tuple[int, IO[str]]:
    """A free port that no other server of ours will take while the returned file is open.

    Two vLLM servers can listen at one port (SO_REUSEPORT) and share its requests unnoticed, so it
    does not do to look whether it is free.
    """
    while True:
        port = free_port()
        path = Path(tempfile.gettempdir()) / f"subnetworks-port-{port}.lock"
        try:
            if file := try_lock(path):  # closed when the server has stopped
                return port, file
        except PermissionError:  # another user's
            continue
