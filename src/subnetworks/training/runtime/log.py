"""The trainer's own log, one JSON object a step, as the run's table."""

import csv
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from subnetworks.core.files import atomic_path

COLUMNS = ("step", "loss", "reward", "accuracy", "learning_rate", "grad_norm", "seconds")
# Columns of the runs that sample answers (the share that was cut off), that have a model beside the
# policy, a distance from the init, or rows held out; elsewhere they are absent.
MORE_COLUMNS = (
    "validation_loss",
    "validation_accuracy",
    "validation_examples",
    "validation_seconds",
    "cut",
    "kl",
    "critic_loss",
    "reward_model_loss",
    "reward_model_accuracy",
    "reward_model_majority",
)

# Under which names the trainers log a column, the first one found wins. A preference run's reward
# is its margin: what the policy's implicit reward sets the chosen answer above the rejected one.
_SOURCES: dict[str, tuple[str, ...]] = {
    "loss": ("actor/loss", "actor/pg_loss", "train/loss", "loss"),
    "reward": ("critic/score/mean", "margin"),
    "accuracy": ("accuracy",),
    "cut": ("cut",),
    "validation_loss": ("validation/loss",),
    "validation_accuracy": ("validation/accuracy",),
    "validation_examples": ("validation/examples",),
    "validation_seconds": ("validation/seconds", "timing_s/validate"),
    "learning_rate": ("actor/lr", "train/lr", "lr"),
    "grad_norm": ("actor/grad_norm", "train/grad_norm", "grad_norm"),
    # A step's, with the answers that it samples; neither measuring rows held out nor saving. What
    # an earlier version's on-policy attempts logged had both in it.
    "seconds": ("seconds", "timing_s/step"),
    "kl": ("actor/kl_loss", "actor/reward_kl_penalty", "kl"),
    "critic_loss": ("critic/vf_loss",),
    # Loss and accuracy on a step's answers before the reward model learns from them; what always
    # telling the more frequent outcome would score on the same answers.
    "reward_model_loss": ("reward_model/loss",),
    "reward_model_accuracy": ("reward_model/accuracy",),
    "reward_model_majority": ("reward_model/majority",),
}

# A part of a step's seconds that the on-policy trainer logs apart.
_SAMPLING = "timing_s/gen"

Row = dict[str, float | int | None]


def row(step: int, data: Mapping[str, Any]) -> Row:
    """One step's row of the table; None where the trainer logs nothing of the kind."""
    result: Row = {"step": step}
    for column, names in _SOURCES.items():
        value = next((data[name] for name in names if data.get(name) is not None), None)
        kind = int if column == "validation_examples" else float
        result[column] = None if value is None else kind(value)
    return result


def flat(value: Any) -> list[float]:
    """All numbers in nested lists: verl collects metrics by rank and micro-batch."""
    if isinstance(value, list | tuple):
        return [number for item in value for number in flat(item)]
    return [float(value)]


class StepsLog:
    """Reads the logs of a run's attempts, oldest first, as they grow.

    An attempt resumes from a saved step, so it may repeat steps of the one before: from its first
    step on, only its own rows led to the final weights.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.rows: dict[int, Row] = {}
        self._followed: float | None = None
        self._send: Callable[[Row], None] = lambda row: None
        self._seconds: dict[str, float] = {}
        self._files = list(files)
        self._offsets = dict.fromkeys(self._files, 0)
        self._begun: set[Path] = set()

    def read(self) -> list[Row]:
        """Take in what was written since the last call; gives the new rows.

        A last line without its end is left for the next call.
        """
        new = []
        for file in self._files:
            if not file.exists():
                continue
            with open(file, "rb") as handle:
                handle.seek(self._offsets[file])
                for line in handle:
                    if not line.endswith(b"\n"):
                        break
                    self._offsets[file] += len(line)
                    entry = json.loads(line)
                    step: int = entry["step"]
                    if step > 0 and any(_trains(name) for name in entry["data"]):
                        if file not in self._begun:
                            self._begun.add(file)
                            self.forget_after(step - 1)
                        self.rows[step] = row(step, entry["data"])
                        new.append(self.rows[step])
                        if self._followed is not None:
                            self._spend(self.rows[step], entry["data"])
                            self._send(self.rows[step])
        return new

    @property
    def complete_to(self) -> int:
        """The last step up to which every one has a row; 0 if the first has none."""
        return next(step for step in itertools.count() if step + 1 not in self.rows)

    def follow(self, file: Path, send: Callable[[Row], None] = lambda row: None) -> None:
        """Read another attempt's log too, and send each of its rows on."""
        self._send = send
        self._files.append(file)
        self._offsets[file] = 0
        self._followed = time.monotonic()

    def _spend(self, made: Row, data: Mapping[str, Any]) -> None:
        """Add a step of the attempt that is followed to what it has spent."""
        assert self._followed is not None
        steps, validation = made["seconds"] or 0.0, made["validation_seconds"]
        if not self._seconds:
            since = time.monotonic() - self._followed
            self._seconds["start"] = max(0.0, since - steps - (validation or 0.0))
        spent = {"steps": steps, "sampling": data.get(_SAMPLING), "validation": validation}
        for part, seconds in spent.items():
            if seconds is not None:
                self._seconds[part] = self._seconds.get(part, 0.0) + float(seconds)

    @property
    def seconds(self) -> dict[str, float]:
        """What the attempt that is followed has spent: until its first step (`start`) and in all
        `steps`, of which, on-policy, on `sampling`; and beside them on `validation`."""
        return {part: round(seconds, 2) for part, seconds in self._seconds.items()}

    def forget_after(self, step: int) -> None:
        """Drop rows of steps that were made but not saved: they will be made again."""
        self.rows = {number: values for number, values in self.rows.items() if number <= step}

    def write(self, path: Path) -> None:
        """Write the table (CSV), one row per step in order, empty where nothing applies."""
        columns = COLUMNS + tuple(
            name
            for name in MORE_COLUMNS
            if any(values[name] is not None for values in self.rows.values())
        )
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as handle,
        ):
            writer = csv.DictWriter(handle, columns)
            writer.writeheader()
            for step in sorted(self.rows):
                values = self.rows[step]
                writer.writerow({k: "" if values[k] is None else values[k] for k in columns})


def _trains(name: str) -> bool:
    """Whether a logged name belongs to a training step and not to a validation."""
    return any(name in names for names in _SOURCES.values())
