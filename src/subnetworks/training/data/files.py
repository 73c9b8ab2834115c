"""Files of rows: JSON lines, JSON, CSV and Parquet, as whoever has data has them."""

import csv
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError

Row = dict[str, Any]


class Unusable(Exception):
    """Why a row is left out, as what follows "with"."""


@dataclass(frozen=True)
class Line:
    """One row of a file.

    Attributes:
        place: the file's name and the row's number in it (of text files the line's), from 1.
        content: the row by columns, or why it cannot be read.
    """

    place: str
    content: Row | Unusable


@dataclass(frozen=True)
class Table:
    """A file's columns and, given those that are wanted, its rows (the others are left out only
    where that spares reading them)."""

    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterable[Line]]


def located(path: str) -> list[Path]:
    """The files that a path names, in order: one file, or all that a pattern matches.

    Raises:
        UserError: there is none, it is a folder, or not all are of formats that are read.
    """
    known = ", ".join(FORMATS)
    if Path(path).is_dir():
        raise UserError(
            f"{path}: a folder; name a file in it, or several by a pattern such as "
            f"{path.rstrip('/')}/train-*.parquet"
        )
    found = [Path(path)] if Path(path).exists() else [Path(name) for name in glob.glob(path)]
    if not found:
        raise UserError(f"{path}: no such file; name one of {known}, or several by a pattern")
    for file in found:
        if file.suffix not in FORMATS or file.is_dir():
            raise UserError(f"{file}: not a file of rows that is read; allowed: {known}")
    return sorted(found)


def table(path: Path) -> Table:
    """A file of rows, by what its name ends with.

    Raises:
        UserError: it is not what its name says, or not in UTF-8.
    """
    try:
        return FORMATS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not in UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _json_lines(path: Path) -> Table:
    lines = []
    with path.open(encoding="utf-8-sig") as stream:
        for number, text in enumerate(stream, 1):
            if text.strip():
                lines.append(Line(f"{path.name}:{number}", _object(text)))
    return _held(lines)


def _object(text: str) -> Row | Unusable:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Unusable("a line that is not JSON")
    return value if isinstance(value, dict) else Unusable("a line that is no JSON object")


def _json(path: Path) -> Table:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not JSON ({error}); a file of one object a line is called .jsonl"
        ) from None
    if not isinstance(value, list):
        raise UserError(
            f"{path}: not a list of rows; write [{{…}}, …], or an object a line (.jsonl)"
        )
    return _held(
        [
            Line(
                f"{path.name}:{number}",
                row if isinstance(row, dict) else Unusable("no JSON object"),
            )
            for number, row in enumerate(value, 1)
        ]
    )


def _csv(path: Path) -> Table:
    """All cells are text; an empty one is an empty text."""
    # The longest a C long holds everywhere: an answer may be longer than the module's bound.
    csv.field_size_limit(2**31 - 1)
    lines = []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, [])
            for cells in reader:
                fits = len(cells) == len(header)
                content = (
                    dict(zip(header, cells, strict=True))
                    if fits
                    else Unusable("more or fewer cells than the header")
                )
                if cells:
                    lines.append(Line(f"{path.name}:{reader.line_num}", content))
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV ({error})") from None
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have one name: {', '.join(header)}")
    return Table(header, lambda wanted: lines)


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from None

    def rows(wanted: Sequence[str]) -> Iterator[Line]:
        number = 0
        for batch in file.iter_batches(columns=list(wanted)):
            for row in batch.to_pylist():
                number += 1
                cells = {name: _present(cell) for name, cell in row.items()}
                yield Line(f"{path.name}:{number}", cells)

    return Table(file.schema_arrow.names, rows)


def _present(cell: Any) -> Any:
    """A cell without the fields that Arrow adds to it, empty, since another row has them."""
    if isinstance(cell, dict):
        return {name: _present(value) for name, value in cell.items() if value is not None}
    return [_present(value) for value in cell] if isinstance(cell, list) else cell


def _held(lines: Sequence[Line]) -> Table:
    columns = dict.fromkeys(
        name for line in lines if isinstance(line.content, dict) for name in line.content
    )
    return Table(list(columns), lambda wanted: lines)


FORMATS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
