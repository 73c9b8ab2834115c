"""Where an experiment's time went, by the records beside its results."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from subnetworks.report.origins import Job, read_jobs

# What jobs spend their time on, and the part that counts as a whole verb's time.
PARTS = {
    "start-up": "from a process's start to a training's first step or a served checkpoint's first "
    "answer, with the imports of every other job",
    "sampling": "answers that on-policy steps and sampled data sets are made of",
    "steps": "all else of the steps: log-probabilities, losses, gradients, updates",
    "validation": "rows held out, measured during training (validate_every)",
    "saving": "weights written during training and at its end",
    "answering": "a served checkpoint's answers to its benchmarks, and their grading",
    "data": "checkpoints, data sets and benchmarks made or fetched",
    "measuring": "updates, ranks, masks, overlaps, trajectories",
    "artefacts": "tables and figures",
}
_WHOLE = {
    **dict.fromkeys(("fetch", "fetch-data", "make", "mix"), "data"),
    **dict.fromkeys(("table", "figure"), "artefacts"),
    "sample": "sampling",
}


@dataclass(frozen=True)
class Times:
    """How much time an experiment's jobs took, and for what.

    Attributes:
        parts: seconds by the names in `PARTS`, summed over all jobs; without those that took none.
        elapsed: seconds from the first job's start to the last one's end, waits between them
            included.
        working: seconds of these in which at least one job ran.
    """

    parts: Mapping[str, float]
    elapsed: float
    working: float

    @property
    def seconds(self) -> float:
        """The time of all jobs, as if they had run one after the other."""
        return sum(self.parts.values())

    @property
    def waiting(self) -> float:
        """Seconds in which no job ran: environments were built, the workflow was planned, or
        nobody had it run."""
        return self.elapsed - self.working

    @property
    def side_by_side(self) -> float:
        """How many jobs ran at the same time, on average."""
        return self.seconds / self.working if self.working else 0.0


def read_times(results: Path) -> Times:
    """Divide the time of all jobs that left a record in `results`."""
    jobs = read_jobs(results)
    parts = dict.fromkeys(PARTS, 0.0)
    for job in jobs:
        for part, seconds in _divided(job, results):
            parts[part] += seconds
    spans = sorted(_spans(jobs))
    working, end = 0.0, float("-inf")
    for begin, until in spans:
        working += max(0.0, until - max(begin, end))
        end = max(end, until)
    return Times(
        {part: seconds for part, seconds in parts.items() if seconds > 0},
        end - spans[0][0] if spans else 0.0,
        working,
    )


def _divided(job: Job, results: Path) -> Iterator[tuple[str, float]]:
    """What one job spent its time on."""
    record = job.record
    wall, before = (float(record.get(key, 0)) for key in ("wall_time_s", "seconds_before"))
    yield "start-up", before
    if job.verb == "train":
        spent = record.get("seconds") or _spent(record, results)
        # An earlier version counted saving among the steps of an on-policy run, and told it apart.
        steps, sampling, validation, saving = (
            float(spent.get(part, 0)) for part in ("steps", "sampling", "validation", "saving")
        )
        rest = max(0.0, wall - steps - validation)
        # Of a run that an earlier version recorded, only what its log has is known.
        start = min(rest, float(spent.get("start", rest)))
        yield "start-up", start
        yield "sampling", sampling
        yield "validation", validation
        yield "saving", saving + rest - start
        yield "steps", max(0.0, steps - sampling - saving)
    elif job.verb == "evaluate":
        answering = sum(_answering(job.path.parent))
        yield "answering", min(wall, answering)
        yield "start-up", max(0.0, wall - answering)
    else:
        yield _WHOLE.get(job.verb, "measuring"), wall


def _spent(record: Mapping[str, Any], results: Path) -> dict[str, float]:
    """The seconds of a run's steps by its log: those that were made since it was last resumed."""
    command = record["command"]
    if "--run-folder" not in command[:-1]:
        return {}
    run = Path(command[command.index("--run-folder") + 1]).name
    try:
        with open(results / "runs" / run / "log.csv", encoding="utf-8", newline="") as file:
            made = [
                float(row["seconds"] or 0)
                for row in csv.DictReader(file)
                if int(row["step"]) > int(record.get("resumed_from_step", 0))
            ]
    except (OSError, ValueError, KeyError):
        return {}
    return {"steps": sum(made)}


def _answering(folder: Path) -> Iterator[float]:
    """Seconds of each of a checkpoint's benchmarks."""
    for path in sorted(folder.glob("*.json")):
        if path.name == "scores.json" or path.name.endswith(".meta.json"):
            continue
        try:
            yield float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _spans(jobs: Iterable[Job]) -> Iterator[tuple[float, float]]:
    """When each job began and ended, in seconds since 1970."""
    for job in jobs:
        try:
            begin = datetime.fromisoformat(job.record["started"]).timestamp()
        except (KeyError, TypeError, ValueError):
            continue
        end = begin + float(job.record.get("wall_time_s", 0))
        yield begin - float(job.record.get("seconds_before", 0)), end


def largest(times: Times, parts: int = 4) -> list[tuple[str, float]]:
    """The parts that took most, with their shares."""
    ordered = sorted(times.parts.items(), key=lambda part: -part[1])[:parts]
    return [(part, seconds / times.seconds) for part, seconds in ordered]
