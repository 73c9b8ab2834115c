"""How a benchmark is asked: its entry's keys, checked and completed with the task's defaults."""

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from subnetworks.core.errors import UserError
from subnetworks.core.validation import (
    Count,
    Positive,
    Rate,
    SettingsModel,
    not_allowed,
    quoted,
    shown,
    wrong,
)
from subnetworks.core.validation import parse as parse_model
from subnetworks.evaluation import tasks
from subnetworks.evaluation.task import Task


class Settings(SettingsModel):
    """One benchmark's settings; what is left open is as the task's definition has it."""

    task: str = Field(description="Whose definition: " + ", ".join(tasks.TASKS) + ".")
    data: str | None = Field(
        None, description="A file of JSON lines, or a folder with test.jsonl, in the task's schema."
    )
    revision: str | None = Field(
        None, description="The commit of the Hub's data set; needed without data."
    )
    shots: Count = Field(0, description="Examples before each question.")
    chat: bool = Field(False, description="Whether the checkpoint's chat template is applied.")
    instruction: str = Field("", description="Text appended to the problem (MATH500).")
    limit: Positive | None = Field(None, description="Only so many rows, of each part.")
    max_tokens: Count = Field(0, description="The longest answer, in tokens.")
    temperature: Rate = Field(0.0, description="0 is greedy.")
    samples: Positive = Field(
        1, description="Answers per question; more than one needs a temperature."
    )

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: Any) -> Any:
        """Fill in what the task's definition says, once it is known that it has such a thing."""
        if not isinstance(values, Mapping):
            return values
        if "task" not in values:
            raise wrong(f"missing key 'task'; allowed: {', '.join(tasks.TASKS)}")
        name = values["task"]
        if not isinstance(name, str) or name not in tasks.TASKS:
            raise wrong(f"task: {not_allowed(name, tasks.TASKS)}", "task")
        task = tasks.TASKS[name]
        unfit = {"max_tokens", "temperature", "samples", "instruction"} if task.chooses else set()
        if not task.chooses and task.problem is None:
            unfit = {"instruction"}
        given = unfit & values.keys()
        if given:
            raise wrong(f"{name} has no {quoted(sorted(given))}", sorted(given)[0])
        return {
            **{key: _default(task, key) for key in ("shots", "chat", "instruction", "max_tokens")},
            **{key: value for key, value in values.items() if value is not None},
        }

    @model_validator(mode="after")
    def _checked(self) -> Self:
        task = self.definition
        if self.data is not None and self.revision is not None:
            raise wrong("data and revision exclude each other", "revision")
        commit = re.fullmatch(r"[0-9a-f]{40}", self.revision or "")
        if self.data is None and not self.made and not commit:
            raise wrong(
                f"revision: expected a commit (40 hexadecimal digits) of {task.hub}, got "
                f"{shown(self.revision)}; or name local rows with data",
                "revision",
            )
        if not task.chooses and self.max_tokens < 1:
            raise wrong(f"max_tokens: must be at least 1, got {self.max_tokens}", "max_tokens")
        if self.shots and not task.shots:
            raise wrong(f"{task.name} is asked without examples; set shots: 0", "shots")
        if self.samples > 1 and self.temperature == 0:
            raise wrong(
                f"samples: {self.samples} greedy answers would all be the same; set a temperature",
                "samples",
            )
        return self

    @property
    def definition(self) -> Task:
        """The task these settings are for."""
        return tasks.TASKS[self.task]

    @property
    def made(self) -> bool:
        """Whether the rows are made here, so that they need no source."""
        return False

    def as_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return self.model_dump()


def _default(task: Task, key: str) -> Any:
    """What a task's definition says, or what every task has."""
    defaults: dict[str, Any] = {"temperature": 0.0, "samples": 1}
    return defaults[key] if key in defaults else getattr(task, key)


def parse(name: str, entry: Mapping[str, Any]) -> Settings:
    """Check the entry of benchmark `name` and fill in what it leaves open.

    Raises:
        UserError: an unknown key or task, a wrong type or value, or settings that contradict.
    """
    where = f"benchmark {name}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"{where}: a name of letters, digits, '_', '-' and '.' is needed")
    return parse_model(Settings, entry, where)
