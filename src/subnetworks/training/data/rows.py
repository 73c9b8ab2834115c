"""Which rows of some files are taken, and how many of them no run can use."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from subnetworks.core import datasets, outputs
from subnetworks.core.errors import UserError
from subnetworks.core.validation import shown
from subnetworks.training.data import judged
from subnetworks.training.data.files import Line, Row, Unusable, table
from subnetworks.training.data.schemas import asked, columns, converted, numbered
from subnetworks.training.data.sources import RowSettings

Names = Mapping[str, str]


@dataclass
class _LeftOut:
    """Rows that no run can use: how many, and the first one, by reason."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, line: Line, reason: Unusable) -> None:
        why = str(reason)
        self.counts[why] = self.counts.get(why, 0) + 1
        row = "" if isinstance(line.content, Unusable) else f" {shown(line.content, 100)}"
        self.first.setdefault(why, f"{line.place}{row}")

    def __str__(self) -> str:
        return "; ".join(
            f"{count} with {why}, such as {self.first[why]}" for why, count in self.counts.items()
        )


@dataclass(frozen=True)
class Taken:
    """The rows of each split in the schema of runs, and how many were left out by reason."""

    splits: Mapping[str, list[Row]]
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        """In words, as commands report it."""
        words = "".join(f"; left out {count} with {why}" for why, count in self.left_out.items())
        return f"{len(self.splits['train'])} rows{words}"

    def write(
        self, output: Path, kind: str, origin: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        """Write them as the data set `output`; its manifest has what the files were, the rows left
        out, and the settings by which rows were taken."""
        with outputs.folder(output, "fetch-data") as made:
            datasets.write(
                self.splits,
                made,
                name=output.absolute().name,
                kind=kind,
                settings={**origin, "left_out": dict(self.left_out), **settings},
            )


def take(source: str, files: Sequence[Path], settings: RowSettings, origin: str) -> Taken:
    """Rows of some files, in the order of the files, as their settings say.

    Those that `where` leaves are shuffled, the first `rows` of them are taken, and those of them
    that no run can use are left out. What is shuffled is held in memory. Judged answers are then
    paired, and right ones without a wrong one to their prompt left out, too. What of all this is
    kept for validation has no prompt in common with what is trained on.

    Args:
        source: what to call the files in messages.
        files: as `subnetworks.training.data.files.located` gives them.
        origin: see `subnetworks.training.data.schemas.converted`.

    Raises:
        UserError: a column is absent, or more rows than `max_bad_share`, or all, are unusable.
    """
    lines: Iterator[tuple[Line, Names]] = _matching(source, files, settings)
    if settings.shuffle:
        held = list(lines)
        random.Random(f"{settings.seed}/shuffle").shuffle(held)
        lines = iter(held)
    left_out, kept, taken = _LeftOut(), [], 0
    for line, names in lines:
        if taken == settings.rows:
            break
        taken += 1
        try:
            if isinstance(line.content, Unusable):
                raise line.content
            kept.append(converted(line.content, names, settings, origin))
        except Unusable as reason:
            left_out.add(line, reason)
    bad = taken - len(kept)
    if not kept:
        raise UserError(
            f"{source}: not one row to train on ({left_out if bad else 'none that match where'})"
        )
    if bad > settings.max_bad_share * taken:
        raise UserError(
            f"{source}: {bad} of {taken} rows cannot be used, more than max_bad_share "
            f"({settings.max_bad_share:g}) allows: {left_out}; mend them, leave them out by "
            "where, or raise max_bad_share"
        )
    if settings.judged is not None:
        kept, alone = judged.pairs(kept, settings.seed)
        if alone:
            left_out.counts["a right answer alone"] = alone
        if not kept:
            raise UserError(f"{source}: no prompt has both a right and a wrong answer")
    splits = {"train": kept}
    if settings.validation is not None:
        splits = _split(source, kept, settings.validation, settings.seed)
        if again := len(kept) - sum(map(len, splits.values())):
            left_out.counts["a prompt of validation"] = again
    return Taken(
        {split: numbered(rows, settings.gives, split) for split, rows in splits.items()},
        left_out.counts,
    )


def _split(source: str, rows: Sequence[Row], validation: int, seed: int) -> dict[str, list[Row]]:
    """Rows to train on, and others drawn from `seed`, whose prompts are none to train on.

    Raises:
        UserError: no row would be left to train on.
    """
    drawn: set[int] = set()
    if validation < len(rows):
        drawn = set(random.Random(f"{seed}/validation").sample(range(len(rows)), validation))
    held = [row for index, row in enumerate(rows) if index in drawn]
    known = {asked(row) for row in held}
    train = [row for row in rows if asked(row) not in known]
    if not held or not train:
        raise UserError(
            f"{source}: validation ({validation}) leaves none of {len(rows)} rows to train on; "
            "lower it"
        )
    return {"train": train, "validation": held}


def _matching(
    source: str, files: Sequence[Path], settings: RowSettings
) -> Iterator[tuple[Line, Names]]:
    """The rows that `where` leaves, with the wanted columns, and these columns by ours."""
    answer = [settings.answer.column] if settings.answer else []
    for path in files:
        file = table(path)
        names = columns(settings, file.columns)
        used = list(dict.fromkeys([*names.values(), *settings.fields, *answer]))
        wanted = list(dict.fromkeys([*used, *settings.where]))
        if absent := [name for name in wanted if name not in file.columns]:
            where = source if source == str(path) else f"{source}: {path.name}"
            raise UserError(
                f"{where} has no column {absent[0]!r}; it has: {', '.join(file.columns)}"
            )
        for line in file.rows(wanted):
            content = line.content
            if isinstance(content, Unusable):
                yield line, names
            elif all(_is(content.get(key), value) for key, value in settings.where.items()):
                yield replace(line, content={key: content.get(key) for key in used}), names


def _is(cell: Any, value: Any) -> bool:
    """Whether a cell is a value, or one of several; numbers, true and false are also their text."""
    allowed = value if isinstance(value, list) else [value]
    return any(cell == one or _text(cell) == _text(one) for one in allowed)


def _text(value: Any) -> str:
    text = str(value)
    return text.lower() if text in ("True", "False") else text
