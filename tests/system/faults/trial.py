"""One fault at a time on the finished experiment, and what came of it."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stages import Stage
from watcher import Watcher
from workspace import Done, Workspace

SAME = "same results after rerun"


@dataclass
class Row:
    """One line of the table."""

    fault: str
    stage: str
    outcome: str
    seconds: float
    wrong: bool = False


@dataclass
class Campaign:
    """The undisturbed results, and what has been tried so far."""

    work: Workspace
    watcher: Watcher
    random: random.Random
    reference: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    durations: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def target(self, stage: Stage) -> tuple[str, str]:
        """All results, that stage's among them."""
        return "all", f"results/{self.work.name}/{stage.target}"

    def everything(self) -> Done:
        """The whole experiment."""
        return self.work.run("all", f"results/{self.work.name}/masks/rest.safetensors")

    def restore(self) -> None:
        """Put the undisturbed results back."""
        with self.watcher.blind():
            self.work.restore()

    def compare(self) -> list[str]:
        """Names of results that are not as in the undisturbed run."""
        now = self.work.digests()
        names = sorted(self.reference.keys() | now.keys())
        return [name for name in names if self.reference.get(name) != now.get(name)]

    def rerun(self, stage: Stage, before: str = "") -> str:
        """Run again as a user would; gives the outcome, which begins with WRONG if it is not good.

        Args:
            stage: what was disturbed.
            before: what has been seen until now, for the table.
        """
        done = self.work.run(*self.target(stage))
        prefix = f"{before}; " if before else ""
        if done.status:
            return f"WRONG: {prefix}the rerun failed: {done.error or last_line(done)}"
        if different := self.compare():
            return f"WRONG: {prefix}{len(different)} results differ, {different[0]} among them"
        return prefix + SAME

    def attempt(self, fault: str, stage: str, act: Callable[[], str]) -> None:
        """Try one fault on the finished experiment and note what came of it."""
        started = time.monotonic()
        self.restore()
        self.watcher.broken, self.watcher.ignored, self.note = [], set(), ""
        try:
            outcome = act()
        except Exception as error:
            outcome = f"WRONG: {type(error).__name__}: {error}"
        if not self.work.gone(60):
            left = next(iter(self.work.processes().values()), "")
            outcome = f"WRONG: {outcome}; left running: {left[:80]}"
            self.work.end_all()
        if self.watcher.broken:
            outcome = f"WRONG: half-written: {self.watcher.broken[0]}; {outcome}"
        row = Row(fault, stage, outcome, time.monotonic() - started, outcome.startswith("WRONG"))
        self.rows.append(row)
        note = f" ({self.note})" if self.note else ""
        print(f"{row.seconds:5.0f} s  {fault}{note} | {stage} | {outcome}", flush=True)


def last_line(done: Done) -> str:
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def table(rows: list[Row]) -> str:
    """What was tried, as Markdown, equal outcomes of a fault in one line."""
    together: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        stages = together.setdefault((row.fault, row.outcome), [])
        stages.append(row.stage)
    lines = ["| fault | stage | outcome |", "|---|---|---|"]
    for (fault, outcome), stages in together.items():
        counted = {stage: stages.count(stage) for stage in stages}
        words = [f"{s} ({n} ×)" if n > 1 else s for s, n in counted.items()]
        lines.append(f"| {fault} | {', '.join(words)} | {outcome.replace('|', '/')} |")
    return "\n".join(lines)
