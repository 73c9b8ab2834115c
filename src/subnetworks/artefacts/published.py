"""The paper's numbers as captions and claims quote them: from `workflow/published/*.csv` alone."""

import csv
from collections.abc import Iterable
from pathlib import Path

from subnetworks.core.errors import UserError

FOLDER = Path("workflow/published")
Quotes = dict[str, str]
"""What replaces each `{name}` in a caption or a claim."""


class Published:
    """The paper's tables, read with nothing but Python: Snakemake quotes them, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def values(self, table: str, column: str, **where: str) -> list[float]:
        """The printed values of a column, in order, of the rows that hold what `where` says.

        Raises:
            UserError: there is no such file.
        """
        path = self.folder / f"{table}.csv"
        if not path.exists():
            raise UserError(f"{path}: no such file; --published names the folder {FOLDER}")
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if all(row[key] == value for key, value in where.items())
            ]
        return [float(row[column]) for row in rows if row[column]]

    def value(self, table: str, column: str, **where: str) -> float:
        """The one printed value."""
        (value,) = self.values(table, column, **where)
        return value


def ends(name: str, values: Iterable[float], digits: int = 1) -> Quotes:
    """The least and the greatest value, as `{name_low}` and `{name_high}`."""
    numbers = list(values)
    return {
        f"{name}_low": f"{min(numbers):.{digits}f}",
        f"{name}_high": f"{max(numbers):.{digits}f}",
    }
