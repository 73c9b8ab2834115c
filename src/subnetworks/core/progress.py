"""Progress of long readings on stderr: share, GB/s, time left; silent for what is quick."""

import sys
import time
from typing import Any

_QUIET_S = 2.0


class Progress:
    """Shows bytes done of a total once a job has lasted two seconds; a context manager.

    On a terminal a bar; otherwise one line every ten seconds.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, max(total, 1)
        self._started = self._told = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int) -> None:
        """Say how many bytes are done."""
        now = time.perf_counter()
        elapsed = now - self._started
        if elapsed < _QUIET_S:
            return
        if sys.stderr.isatty():
            self._draw(done)
        elif now - self._told >= 10:
            self._told = now
            left = elapsed * (self._total - done) / max(done, 1)
            print(
                f"{self._what}: {done / self._total:.0%}, {done / elapsed / 1e9:.2f} GB/s, "
                f"{left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def _draw(self, done: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        self._bar.update(self._task, completed=done)
