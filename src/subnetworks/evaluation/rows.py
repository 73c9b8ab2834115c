"""A benchmark's rows from local files: JSON lines in the schema of the real data set."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnetworks.checkpoints.manifest import verify
from subnetworks.core.errors import UserError
from subnetworks.core.validation import shown
from subnetworks.evaluation.task import Task

if TYPE_CHECKING:
    import datasets

Row = dict[str, Any]
_LETTERS = "ABCDEFGHIJ"  # of as many options as MMLU-Pro asks about


@dataclass(frozen=True)
class Files:
    """The files of one benchmark: what is asked, and where examples for the prompt come from."""

    test: Path
    shots: Path | None

    def sha256(self) -> str:
        """A digest of the content of the files, the tested rows first."""
        digest = hashlib.sha256(self.test.read_bytes())
        if self.shots is not None:
            digest.update(self.shots.read_bytes())
        return digest.hexdigest()


def locate(data: str, task: Task, shots: int, where: str) -> Files:
    """The files behind `data: PATH`, a file of rows or a folder with `test.jsonl`.

    Examples are read from `<split>.jsonl` beside it, where `<split>` is what the task names
    (`validation`, `train`).

    Raises:
        UserError: a file that is needed is not there, or not what the folder's manifest says.
    """
    path = Path(data)
    if path.is_dir():
        verify(path)
    test = path / "test.jsonl" if path.is_dir() else path
    if not test.is_file():
        raise UserError(f"{where}: data: {test}: no such file")
    beside = test.with_name(f"{task.shots_split}.jsonl") if task.shots_split and shots else None
    if beside is not None and not beside.is_file():
        raise UserError(
            f"{where}: {beside}: no such file, but the {shots} examples in each prompt come from "
            "there; make it or set shots: 0"
        )
    return Files(test, beside)


def read(path: str | Path, task: Task) -> list[Row]:
    """The rows of a JSON-lines file, converted to the task's schema and checked.

    Raises:
        UserError: a line is not a JSON object, a column is missing or holds what it cannot, the
            right answer is none of the options, or no row is left.
    """
    rows: list[Row] = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}: line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number}: expected a JSON object")
            if task.converted is not None:
                row = task.converted(row, f"{path}: line {number}")
            if missing := [column for column in task.columns if column not in row]:
                raise UserError(
                    f"{path}: line {number}: no column {', '.join(map(repr, missing))}; "
                    f"{task.name} reads {', '.join(task.columns)}"
                )
            _check(row, task, f"{path}: line {number}")
            rows.append(row)
    if task.only is not None:
        column, value = task.only
        rows = [row for row in rows if row[column] == value]
        if not rows:
            raise UserError(f"{path}: no rows with {column} {value!r}, which {task.name} asks for")
    if not rows:
        raise UserError(f"{path}: no rows in it")
    return rows


def _check(row: Mapping[str, Any], task: Task, where: str) -> None:
    """What would fail at the end, or never be answered right, is refused now."""
    for column in task.texts:
        check_text(row, column, where)
    gold = row[task.gold]
    if task.options is None:
        if type(gold) not in (str, int) or not str(gold).strip():
            raise UserError(f"{where}: {task.gold}: expected an answer, got {shown(gold)}")
        return
    options = options_of(row, task.options, where)
    if task.gold in task.texts:
        check_letter(row, task.gold, options, where)
        return
    places = range(len(options))
    if (
        not isinstance(gold, list)
        or not gold
        or not all(type(g) is int and g in places for g in gold)
    ):
        raise UserError(
            f"{where}: {task.gold}: expected places of right {task.options} in a list, each from 0 "
            f"to {places[-1]}, got {shown(gold)}"
        )


def check_text(row: Mapping[str, Any], column: str, where: str) -> None:
    """Raise `UserError`, which begins with `where`, if the column holds no text."""
    if not isinstance(row[column], str):
        raise UserError(f"{where}: {column}: expected text, got {shown(row[column])}")


def options_of(row: Mapping[str, Any], column: str, where: str) -> list[str]:
    """The answers to choose from; `UserError` if the column does not hold 2 to 10 texts."""
    options = row[column]
    texts = isinstance(options, list) and all(isinstance(option, str) for option in options)
    if not texts or not 2 <= len(options) <= len(_LETTERS):
        raise UserError(
            f"{where}: {column}: expected a list of 2 to {len(_LETTERS)} texts, "
            f"got {shown(options)}"
        )
    return list(options)


def check_letter(
    row: Mapping[str, Any], column: str, options: Sequence[str], where: str
) -> tuple[str, ...]:
    """The letters of the options; `UserError` if the column does not hold one of them."""
    letters = tuple(_LETTERS[: len(options)])
    if row[column] not in letters:
        raise UserError(f"{where}: {column}: {shown(row[column])} is none of {', '.join(letters)}")
    return letters


def dataset(task: str, files: Mapping[str, str], **_: object) -> "dict[str, datasets.Dataset]":
    """The splits as lm-eval wants them (its `custom_dataset`), without a cache on disk."""
    import datasets

    from subnetworks.evaluation.tasks import TASKS

    splits = {}
    for split, path in files.items():
        rows = _uniform(read(path, TASKS[task]))
        splits[split] = datasets.Dataset.from_list(rows)
    return splits


def _uniform(rows: Iterable[Row]) -> list[Row]:
    """Rows with the same columns, so that none is lost or invented by inference from the first."""
    rows = list(rows)
    columns = {column: None for row in rows for column in row}
    return [{column: row.get(column) for column in columns} for row in rows]


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over rows as canonical JSON lines, for rows that are in no local file."""
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return hasher.hexdigest()
