"""Servers: nothing outlives whoever started it, and what is served is the checkpoint."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import gone, processes_with, running

from subnetworks.core import watchdog
from subnetworks.core.errors import UserError
from subnetworks.evaluation import server
from subnetworks.evaluation.machine import Machine

CPU = Machine(kind="cpu")
# A server that ignores requests to end, with a child that does as well.
STUBBORN = (
    "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "os.fork(); os.write(1, b'%d\\n' % os.getpid()); time.sleep(600)"
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_client_that_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    client = (
        "import subprocess, sys, time\n"
        f"watch = [sys.executable, {watchdog.__file__!r}, '{server.GRACE_S}', {str(folder)!r}]\n"
        f"subprocess.Popen([*watch, sys.executable, '-c', {STUBBORN!r}], stdin=subprocess.PIPE,"
        " start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", client], stdout=subprocess.PIPE, text=True)
    pids: list[int] = []
    try:
        assert process.stdout is not None
        pids += [int(process.stdout.readline()) for _ in range(2)]
        assert all(running(pid) for pid in pids)
        process.send_signal(number)
        process.wait()
        assert gone(pids, server.GRACE_S + 600)
        deadline = time.monotonic() + 600
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not folder.exists()
    finally:
        process.kill()
        process.wait()
        for pid in pids:
            if running(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_server_that_dies_says_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"]
    monkeypatch.setattr(server.Server, "_command", lambda self: command)
    serving = server.Server(tmp_path, CPU, 128, tmp_path / "server.log")
    with serving, pytest.raises(UserError, match=r"(?s)ended while starting.*out of luck"):
        serving.wait()


# A server of one answer: which model it serves.
SMALL = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": sys.argv[2]}]}).encode())
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def small(self: server.Server) -> list[str]:
    return [sys.executable, "-c", SMALL, self.url.rpartition(":")[2], self.name]


def test_a_port_in_use_is_tried_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.Server, "_command", small)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        free, tried = server.free_port, iter([holder.getsockname()[1]])
        monkeypatch.setattr(server, "free_port", lambda: next(tried, None) or free())
        serving = server.Server(tmp_path, CPU, 128, tmp_path / "server.log")
        with serving:
            taken = serving.url
            serving.wait()
            assert serving.url != taken
            assert serving.alive()


def test_a_server_that_was_killed_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.Server, "_command", small)
    with server.Server(tmp_path, CPU, 128, tmp_path / "server.log") as serving:
        serving.wait()
        assert not serving.ended(within_s=0)
        for pid in processes_with(serving.name):
            if (
                watchdog.__file__ not in Path(f"/proc/{pid}/cmdline").read_text()
            ):  # the watchdog lives
                os.kill(pid, signal.SIGKILL)
        assert serving.ended(within_s=600)


def test_ports_that_are_all_in_use_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.Server, "_command", small)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        monkeypatch.setattr(server, "free_port", lambda: holder.getsockname()[1])
        serving = server.Server(tmp_path, CPU, 128, tmp_path / "server.log")
        with serving, pytest.raises(UserError, match=r"(?s)ended while starting.*already in use"):
            serving.wait()


def test_a_stranger_at_the_port_is_not_taken_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stranger(self: server.Server) -> list[str]:
        return [*small(self)[:-1], "another"]

    monkeypatch.setattr(server.Server, "_command", stranger)
    patience = Machine(kind="cpu", ready_within_s=2)
    serving = server.Server(tmp_path, patience, 128, tmp_path / "server.log")
    with serving, pytest.raises(UserError, match="not ready within 2 s"):
        serving.wait()


def test_a_server_that_hangs_is_ended_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "server.log"
    # Its patience is over once it has said what must be shown, however long that takes.
    clock = SimpleNamespace(
        sleep=time.sleep,
        monotonic=lambda: 3.0 if log.exists() and "loading" in log.read_text() else 0.0,
    )
    monkeypatch.setattr(server, "time", clock)
    command = [sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(600)"]
    monkeypatch.setattr(server.Server, "_command", lambda self: command)
    patience = Machine(kind="cpu", ready_within_s=2)
    serving = server.Server(tmp_path, patience, 128, log)
    with serving, pytest.raises(UserError, match=r"(?s)not ready within 2 s.*loading"):
        serving.wait()


def test_no_two_servers_take_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the system offers twice is taken once; given back, it may be taken again.
    ports = iter([50001, 50001, 50002, 50001])
    monkeypatch.setattr(server, "free_port", lambda: next(ports))
    first, held = server.reserve_port()
    second, other = server.reserve_port()
    assert (first, second) == (50001, 50002)
    Path(held.name).unlink()
    held.close()
    third, again = server.reserve_port()
    assert third == 50001
    for file in (other, again):
        Path(file.name).unlink()
        file.close()
