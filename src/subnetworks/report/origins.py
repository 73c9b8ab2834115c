"""Where results come from, by their `.meta.json`: code, packages, machines, time and memory."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError

Record = dict[str, Any]
# The verbs in the order of the data.
_VERBS = (
    "fetch fetch-data make sample mix train measure rank mask overlap trajectory transfer "
    "evaluate table figure"
).split()


@dataclass(frozen=True)
class Job:
    """What one job left on record.

    Attributes:
        verb: the command, such as `train`.
        path: the `.meta.json`.
        record: what is in it.
    """

    verb: str
    path: Path
    record: Record


@dataclass(frozen=True)
class Stage:
    """All jobs of one verb.

    Attributes:
        verb: the command, such as `train`.
        jobs: how many ran.
        seconds: their wall times, summed.
        longest: the longest one's, in seconds.
        peak_bytes: the largest resident set of any of their processes.
    """

    verb: str
    jobs: int
    seconds: float
    longest: float
    peak_bytes: int


@dataclass(frozen=True)
class Origins:
    """By what code, with which packages, on which machine, how long.

    Attributes:
        commits: (commit, whether files differed from it, jobs), most jobs first.
        machines: (machine in words, jobs), most jobs first.
        packages: (verbs, package → version) for every set of packages in use.
        stages: time and memory by verb, in the order of the data.
        sources: (checkpoint, where it was fetched from).
        first, last: when the first and the last job started, as UTC; empty without records.
    """

    commits: list[tuple[str, bool, int]]
    machines: list[tuple[str, int]]
    packages: list[tuple[list[str], dict[str, str]]]
    stages: list[Stage]
    sources: list[tuple[str, str]]
    first: str
    last: str

    @property
    def jobs(self) -> int:
        """How many jobs made the results."""
        return sum(stage.jobs for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Wall time of all jobs, summed, as if they had run one after the other."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak_bytes(self) -> int:
        """The largest resident set of any process of any job."""
        return max((stage.peak_bytes for stage in self.stages), default=0)


def read_record(path: Path) -> Record:
    """One `.meta.json`, with at least `command`; `UserError` where it is no such thing."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); remove it and what it is of") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a record of a result; remove it and what it is of")
    return {"command": ["", ""], **record}


def read_jobs(results: Path) -> list[Job]:
    """All jobs that left a record in `results`, each once however many files it wrote.

    The report's own jobs do not count: they come after what they tell of.
    """
    jobs: dict[str, Job] = {}
    for path in sorted(results.rglob("*.meta.json")):
        record = read_record(path)
        verb = _verb(record)
        if verb not in _VERBS:
            continue
        # An evaluation writes a record a benchmark, and one of all it did, for each checkpoint.
        of = path.parent.name if verb == "evaluate" else ""
        key = json.dumps([record["command"], of])
        if key not in jobs or _seconds(record) > _seconds(jobs[key].record):
            jobs[key] = Job(verb, path, record)
    return list(jobs.values())


def read_origins(results: Path) -> Origins:
    """Sum up all records in `results`, one per job however many files it wrote."""
    records = [job.record for job in read_jobs(results)]
    started = sorted(str(record["started"]) for record in records if "started" in record)
    commits = Counter((r.get("commit", "unknown"), bool(r.get("dirty"))) for r in records)
    return Origins(
        [(commit, dirty, n) for (commit, dirty), n in commits.most_common()],
        Counter(_machine(record) for record in records).most_common(),
        _packages(records),
        list(_stages(records)),
        _sources(results),
        started[0] if started else "",
        started[-1] if started else "",
    )


def _seconds(record: Record) -> float:
    return float(record.get("wall_time_s", 0))


def _verb(record: Record) -> str:
    return str(record["command"][1]) if len(record["command"]) > 1 else ""


def _machine(record: Record) -> str:
    machine: Mapping[str, Any] = record.get("machine") or {}
    words = [machine.get("processor"), f"{machine.get('cores', '?')} cores"]
    if memory := machine.get("memory_bytes"):
        words.append(f"{memory / 2**30:.0f} GiB")
    words += [*machine.get("accelerators", []), machine.get("system")]
    if python := record.get("python"):
        words.append(f"Python {python}")
    return ", ".join(str(word) for word in words if word)


def _packages(records: Iterable[Record]) -> list[tuple[list[str], dict[str, str]]]:
    verbs: dict[tuple[tuple[str, str], ...], set[str]] = {}
    for record in records:
        packages = tuple(sorted(record.get("packages", {}).items()))
        verbs.setdefault(packages, set()).add(_verb(record))
    groups = [(sorted(users, key=_VERBS.index), dict(found)) for found, users in verbs.items()]
    return sorted(groups, key=lambda group: [_VERBS.index(verb) for verb in group[0]])


def _stages(records: list[Record]) -> Iterable[Stage]:
    for verb in _VERBS:
        members = [record for record in records if _verb(record) == verb]
        if members:
            seconds = [_seconds(record) for record in members]
            peaks = [max(r.get("peak_memory_bytes", {}).values(), default=0) for r in members]
            yield Stage(verb, len(members), sum(seconds), max(seconds), max(peaks))


def _sources(results: Path) -> list[tuple[str, str]]:
    found = []
    for path in sorted(results.glob("checkpoints/*/manifest.json")):
        manifest = read_record(path)
        if "source" in manifest:
            revision = manifest.get("revision")
            source = str(manifest["source"])
            if revision and revision not in source:
                source += f" ({revision})"
            found.append((path.parent.name, source))
    return found
