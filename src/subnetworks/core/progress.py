"""How far a long job is, on stderr: a bar on a terminal, elsewhere a line every ten seconds."""

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

_LINE_EVERY_S = 10.0
_QUIET_S = 2.0  # of bytes, most are read sooner


class Progress:
    """Shows how much is done of a total; a context manager, or iterated over, `range(total)`.

    Attributes:
        note: what else the job has to say, shown beside.
    """

    def __init__(self, what: str, total: int, unit: str = "bytes", note: str = "") -> None:
        self.note = note
        self._what, self._total, self._unit, self._done = what, max(total, 1), unit, 0
        self._begin = time.perf_counter()
        self._line = self._begin + _LINE_EVERY_S
        # Time left is reckoned from where the first count was: before it lies what is done once.
        self._first: tuple[int, float] | None = (0, self._begin) if unit == "bytes" else None
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __iter__(self) -> Iterator[int]:
        with self:
            for index in range(self._total):
                yield index
                self.update(index + 1)

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.update(self._done + count)

    def update(self, done: int) -> None:
        """So much is done."""
        self._done, now = done, time.perf_counter()
        counted, last = self._unit != "bytes", done >= self._total
        if done and self._first is None:
            self._first = done, now
        if sys.stderr.isatty():
            if counted or now - self._begin >= _QUIET_S:
                self._draw()
        elif now >= self._line or (last and counted and self._line < math.inf):
            self._line = math.inf if last else now + _LINE_EVERY_S
            print(", ".join(filter(None, self._words(now))), file=sys.stderr, flush=True)

    def _words(self, now: float) -> Iterator[str]:
        first, start = self._first or (0, now)
        rate = (self._done - first) / max(now - start, 1e-9)
        if self._unit == "bytes":
            yield f"{self._what}: {self._done / self._total:.0%}"
            yield f"{rate / 1e9:.2f} GB/s"
        else:
            yield f"{self._what}: {self._unit} {self._done:,}/{self._total:,}"
        yield self.note
        left = self._total - self._done
        yield f"{left / rate:.0f} s left" if rate and left else ""

    def _draw(self) -> None:
        if self._bar is None:
            from rich import progress
            from rich.console import Console

            bytes_ = progress.DownloadColumn(), progress.TransferSpeedColumn()
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                *(bytes_ if self._unit == "bytes" else (progress.MofNCompleteColumn(),)),
                progress.TextColumn("{task.fields[note]}"),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=self._unit == "bytes",
            )
            self._bar.add_task(self._what, total=self._total, note=self.note)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self._done, note=self.note)
