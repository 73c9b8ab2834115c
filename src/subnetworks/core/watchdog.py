"""Run a command and, whatever happens, leave none of its descendants behind.

    python watchdog.py GRACE FOLDER COMMAND …

adopts every orphan among its descendants (Ray's and vLLM's daemons leave their process groups) and
watches its standard input, which the parent holds open. When the command ends or the parent dies,
in whatever way, it asks the command's process group to end, kills what is left of it and of all
others after GRACE seconds (at once if that is 0), and removes FOLDER and the shared memory they
forgot. A byte on standard input, or SIGTERM, is handed on to the command as SIGTERM. Standard
library only, and no import of the project: it must start at once and need nothing.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.2
_SCAN_SECONDS = 5.0


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def everyone() -> list[int]:
    """All living processes; none where there is no /proc."""
    with contextlib.suppress(FileNotFoundError):
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return []


def descendants(root: int) -> list[int]:
    """All living processes below `root`."""
    children: dict[int, list[int]] = {}
    for pid in everyone():
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(pid)
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def shared_memory(pids: list[int]) -> set[Path]:
    """Files of shared memory that these processes have mapped."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                _, slash, name = line.partition(" /dev/shm/")
                if slash and not name.endswith(" (deleted)"):
                    found.add(Path("/dev/shm", name))
    return found


def _tracks_resources(pid: int) -> bool:
    """Python's resource tracker: it ends by itself and unlinks shared memory when it does."""
    with contextlib.suppress(OSError):
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _collect() -> None:
    """Take notice of the children that have ended: until then they count as there."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def ask_to_end(group: int, grace: float) -> None:
    """Send SIGTERM to a process group; wait until all of it is gone, `grace` seconds at most."""
    deadline = time.monotonic() + grace
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            _collect()
            os.killpg(group, 0)
            time.sleep(0.05)


def sweep(patience: float = 3.0) -> None:
    """Kill every descendant, resource trackers last."""
    deadline = time.monotonic() + patience
    while remaining := descendants(os.getpid()):
        late = time.monotonic() > deadline
        for pid in remaining:
            if late or not _tracks_resources(pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        _collect()
        if late and time.monotonic() > deadline + patience:
            return
        time.sleep(0.05)


def _die_with_parent() -> None:
    """Should this process be killed itself, at least the command does not outlive it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(grace: float, folder: str, command: list[str]) -> int:
    """Run `command`; gives its exit status, as a shell would."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getppid()
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, ask)
    status, group = 1, 0
    # A process that is killed cannot unlink its shared memory, and Ray kills its workers at the end
    # of every run: remember what they map while they live.
    segments: set[Path] = set()
    scan = 0.0
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
        )
        group = process.pid
        while process.poll() is None:
            if time.monotonic() >= scan:
                segments |= shared_memory(descendants(os.getpid()))
                scan = time.monotonic() + _SCAN_SECONDS
            # The other end may be open in a child that the parent has forked.
            if os.getppid() != parent:
                break
            if select.select([0], [], [], _POLL_SECONDS)[0]:
                if not os.read(0, 1):
                    break
                asked = True
            if asked:
                process.send_signal(signal.SIGTERM)
                asked = False
        else:
            status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    finally:
        segments |= shared_memory(descendants(os.getpid()))
        if group and grace:
            ask_to_end(group, grace)
        sweep()
        if group and not _LINUX:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        for segment in segments - shared_memory(everyone()):
            segment.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
