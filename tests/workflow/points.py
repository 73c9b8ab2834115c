"""Disturb a stage at a named point of its life: no test has to hit a moment.

A copied checkout gets `sitecustomize.py`, which every Python of its stages loads at its start. It
carries out what the environment asks for, once, and leaves a mark that the point was reached.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from running import ENVIRONMENT, copy_checkout

_HOOK = Path(__file__).with_name("at_points.py")
# Only so that a test that hangs ends at all.
PATIENCE_S = 600


@dataclass(frozen=True)
class Point:
    """A point in a stage's life, and what happens there.

    Attributes:
        at: `start` or `exit` of the process, `before` or `after` a file takes its final name.
        what: for a process words of its command line, for a file the end of its path.
        act: `kill` (the process itself), `kill all` (the workflow and its jobs, at once),
            `kill snakemake` (alone; the stage waits to be let go) or `wait` (to be let go).
    """

    at: str
    what: str
    act: str = "kill"

    def __str__(self) -> str:
        return f"{self.at} {self.what}"


class Place:
    """A checkout's copy with an experiment of its own, whose stages can be disturbed."""

    def __init__(self, folder: Path, name: str, experiment: str) -> None:
        self.folder, self.name = folder, name
        self.results = folder / "results" / name
        self._marks = folder / "marks"
        copy_checkout(folder)
        shutil.copy2(_HOOK, folder / "src" / "sitecustomize.py")
        (folder / "experiments" / f"{name}.yaml").write_text(experiment)

    def start(
        self, *arguments: str, points: Sequence[Point] = (), again: bool = False
    ) -> "subprocess.Popen[bytes]":
        """Snakemake in a process group of its own; its output is in `said`.

        With `again` a stage that an earlier one has left waiting goes on waiting.
        """
        if not again:
            shutil.rmtree(self._marks, ignore_errors=True)
            self._marks.mkdir()
        asked = {
            "points": [asdict(point) | {"mark": str(self._mark(point))} for point in points],
            "go": str(self._marks / "go"),
        }
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor"]
        command += ["--config", f"experiment={self.name}", *arguments]
        with open(self.folder / "said.txt", "wb") as said:
            return subprocess.Popen(
                # The shell's number is Snakemake's, and that of its group.
                ["bash", "-c", 'export SUBNETWORKS_TEST_GROUP=$$; exec "$@"', "bash", *command],
                cwd=self.folder,
                env={**ENVIRONMENT, "SUBNETWORKS_TEST_POINTS": json.dumps(asked)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *arguments: str, points: Sequence[Point] = (), again: bool = False) -> int:
        """Snakemake to its end; gives its exit status."""
        return self.start(*arguments, points=points, again=again).wait(PATIENCE_S)

    @property
    def said(self) -> str:
        """What the last Snakemake has printed."""
        return (self.folder / "said.txt").read_text(errors="replace")

    def reached(self, point: Point) -> bool:
        """Whether the last run came to a point and did there what was asked."""
        return self._mark(point).exists()

    def wait_until(self, point: Point, process: "subprocess.Popen[bytes]") -> None:
        """Wait for a stage to come to a point where it waits."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.reached(point):
            assert process.poll() is None, f"it ended before {point}: {self.said}"
            assert time.monotonic() < deadline, f"{point} is not reached: {self.said}"
            time.sleep(0.05)

    def let_go(self) -> None:
        """Let a stage that waits go on."""
        (self._marks / "go").touch()

    def remove(self, *names: str) -> None:
        """Remove results and their records, so that they are made again."""
        for name in names:
            (self.results / name).unlink(missing_ok=True)
            (self.results / f"{name}.meta.json").unlink(missing_ok=True)

    def unlock(self) -> None:
        """What a user does after Snakemake itself was killed."""
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--unlock", "--config", f"experiment={self.name}"],
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def processes(self) -> list[str]:
        """Command lines of all that works in this folder, but who asks."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    inside = (entry / "cwd").resolve().is_relative_to(self.folder)
                except OSError:
                    continue
                if words[0] and (inside or str(self.folder) in " ".join(words)):
                    found.append(" ".join(words))
        return found

    def wait_until_idle(self) -> None:
        """Wait for all that works in this folder to end."""
        deadline = time.monotonic() + PATIENCE_S
        while left := self.processes():
            assert time.monotonic() < deadline, f"lives on: {left}"
            time.sleep(0.1)

    def _mark(self, point: Point) -> Path:
        return self._marks / str(point).replace("/", "|")
