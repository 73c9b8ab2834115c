"""A copy of the checkout with an experiment of its own: run, disturb, put back, compare."""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
# What says how long something took, or how often it was begun, and nothing about its result.
_INCIDENTAL = {"seconds", "requests_resumed"}
# The same in a report: times, and how much memory was held.
_SPENT = re.compile(
    rb"\b\d+(\.\d)? (s|min|h|MiB|GiB)\b"
    rb"|## Where the time went.*?(?=\n## |\Z)|>Where the time went<.*?<h3>Machine<",
    re.DOTALL,
)


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit status and all it printed."""

    status: int
    output: str

    @property
    def error(self) -> str:
        """The line that says what is wrong, as a user would find it; empty if there is none."""
        lines = self.output.splitlines()
        own = [line for line in lines if "subnetworks: error:" in line]
        if own:
            return own[0].split("subnetworks: error:", 1)[1].strip()
        locked = [line for line in lines if "cannot be locked" in line]
        return locked[0].removeprefix("Error: ").strip() if locked else ""

    @property
    def trace(self) -> bool:
        """Whether a Python traceback was printed where there is no line for the user."""
        return not self.error and "Traceback (most recent call last)" in self.output


class Workspace:
    """A folder with the workflow, its results and a saved copy of them."""

    def __init__(self, folder: Path, name: str, experiment: str) -> None:
        self.folder, self.name = folder.resolve(), name
        self.results = self.folder / "results" / name
        self._saved = self.folder / "saved"
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("src", "workflow", "envs", "profiles", "Snakefile", "config.yaml"):
            source, target = ROOT / part, self.folder / part
            if source.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        (self.folder / "experiments").mkdir(exist_ok=True)
        (self.folder / "experiments" / f"{name}.yaml").write_text(experiment)
        if not (self.folder / ".venvs").exists():
            (self.folder / ".venvs").symlink_to((ROOT / ".venvs").resolve())
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": "",
        }

    def start(self, *targets: str, options: tuple[str, ...] = ()) -> "Running":
        """`snakemake` in a session of its own; its output goes to a file."""
        number = len(list(self.folder.glob("output-*.txt")))
        output = self.folder / f"output-{number:04d}.txt"
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", *options]
        command += ["--config", f"experiment={self.name}", "--", *targets]
        with open(output, "wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Running(process, output)

    def run(self, *targets: str, options: tuple[str, ...] = ()) -> Done:
        """`snakemake` to its end."""
        return self.start(*targets, options=options).wait()

    def unlock(self) -> None:
        """What a user does after Snakemake itself was killed."""
        subprocess.run(
            [sys.executable, "-m", "snakemake", "--unlock", "--config", f"experiment={self.name}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            check=True,
        )

    def command(self, environment: str, *arguments: str, code: str = "") -> Done:
        """`python -m subnetworks ARGUMENTS` (or `python -c CODE`) in a stage's environment."""
        python = self.folder / ".venvs" / environment / "bin" / "python"
        call = ["-c", code] if code else ["-m", "subnetworks"]
        done = subprocess.run(
            [str(python), *call, *arguments],
            cwd=self.folder,
            env={
                **self.environment,
                "PATH": f"{python.parent}:{os.environ['PATH']}",
                "VIRTUAL_ENV": str(python.parent.parent),
                "PYTHONPATH": str(self.folder / "src"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Done(done.returncode, done.stdout)

    def save(self) -> None:
        """Keep results and Snakemake's records as they are now."""
        shutil.rmtree(self._saved, ignore_errors=True)
        self._saved.mkdir()
        for source in (self.results, self.folder / ".snakemake"):
            _copy(source, self._saved / source.name)

    def restore(self) -> None:
        """Put back what was saved."""
        for target in (self.results, self.folder / ".snakemake"):
            _copy(self._saved / target.name, target)

    def remove(self, *outputs: str) -> None:
        """Remove results (files by pattern, folders whole) and what lies beside them."""
        for pattern in outputs:
            for path in list(self.results.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def seconds(self, result: str) -> float:
        """How long the stage took that made a result of the saved ones; 0 if nobody noted it."""
        record = self._saved / self.name / f"{result}.meta.json"
        return json.loads(record.read_text())["wall_time_s"] if record.exists() else 0.0

    def processes(self) -> dict[int, str]:
        """Command lines of all processes that work in this folder, by id; not of who started us."""
        found = {}
        own = _ancestors(os.getpid())
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in own:
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    inside = (entry / "cwd").resolve().is_relative_to(self.folder)
                except OSError:
                    continue
                if words[0] and (inside or any(str(self.folder) in word for word in words)):
                    found[int(entry.name)] = " ".join(words)
        return found

    def worker(self, pattern: str) -> int | None:
        """The process of a stage whose command line matches `pattern`, once it runs."""
        for pid, words in self.processes().items():
            if re.match(r"\S*python\S* -m subnetworks ", words) and re.search(pattern, words):
                return pid
        return None

    def gone(self, within_s: float) -> bool:
        """Whether all that worked here ends within so many seconds."""
        deadline = time.monotonic() + within_s
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def end_all(self) -> None:
        """End whatever still works in this folder."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.gone(10)

    def digests(self) -> dict[str, str]:
        """All final results by name: digests of their content without incidental numbers."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            parts = path.relative_to(self.results).parts
            hidden = any(part.startswith(".") for part in parts)
            if hidden or not path.is_file() or parts[0] == "logs" or "state" in parts:
                continue
            if path.suffix == ".log" or path.name.endswith(".meta.json"):
                continue
            found["/".join(parts)] = hashlib.sha256(_content(path)).hexdigest()
        return found


@dataclass
class Running:
    """A workflow that runs."""

    process: subprocess.Popen[bytes]
    output: Path

    def kill_group(self) -> None:
        """SIGKILL to the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float = 900) -> Done:
        """Its end."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_group()
            self.process.wait()
            return Done(-1, f"hung: no end within {timeout_s:.0f} s\n" + self.text())
        return Done(status, self.text())

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")


def lives(pid: int) -> bool:
    """Whether a process runs; not if it has ended and only its parent has not taken note."""
    try:
        return _status(pid)[0] not in "ZX"
    except OSError:
        return False


def halted(pid: int) -> bool:
    """Stop a process; False if it has ended, or is about to and no signal reaches it any more."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
        while lives(pid):
            if _status(pid)[0] == "T":
                return True
            time.sleep(0.001)
    return False


def _status(pid: int) -> list[str]:
    """What the kernel says of a process after its name: state, parent and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _ancestors(pid: int) -> set[int]:
    """A process and all above it."""
    found = set()
    while pid > 1:
        found.add(pid)
        pid = int(_status(pid)[1])
    return found


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("log", "locks"))


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix == ".json":
        try:
            return json.dumps(_without(json.loads(raw)), sort_keys=True).encode()
        except ValueError:
            return raw
    if path.name == "log.csv":
        rows = list(csv.DictReader(io.StringIO(raw.decode())))
        return json.dumps(
            [{k: v for k, v in r.items() if "seconds" not in k} for r in rows]
        ).encode()
    if path.stem == "report":
        return _SPENT.sub(b"", raw)
    return raw


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in _INCIDENTAL}
    if isinstance(value, list):
        return [_without(item) for item in value]
    return value
