"""What runs scored on the rows of their data sets that were held out, as their logs have it."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# A log's columns, what they are called, and the sign that makes the best value the lowest.
_MEASURES = (("validation_loss", "loss", 1), ("validation_accuracy", "accuracy", -1))


@dataclass(frozen=True)
class HeldOut:
    """One measure of one run.

    Attributes:
        run: its name.
        measure: `loss` or `accuracy`.
        examples: over how many; None if an earlier version did not log it.
        values: by step, as it was measured; a run that diverges may have what is no finite number.
        best: the first step at which it was best.
    """

    run: str
    measure: str
    examples: int | None
    values: Mapping[int, float]
    best: int

    def shown(self, step: int) -> str:
        """A value as it is printed; an accuracy with its standard error over the examples."""
        value = self.values[step]
        if self.measure == "loss":
            return f"{value:.4f}"
        error = math.sqrt(value * (1 - value) / self.examples) if self.examples else None
        return f"{100 * value:.1f}" + ("" if error is None else f" ± {100 * error:.1f}") + " %"

    def points(self, width: int, height: int) -> list[tuple[float, float]]:
        """The curve of its finite values, left to right, within a box whose y grows downwards."""
        finite = _finite(self.values)
        if not finite:
            return []
        first, last = min(finite), max(finite)
        low, high = min(finite.values()), max(finite.values())
        return [
            (
                round(width * (step - first) / (last - first or 1), 1),
                round(height * (1 - (value - low) / (high - low)) if high > low else height / 2, 1),
            )
            for step, value in finite.items()
        ]


def _finite(values: Mapping[int, float]) -> dict[int, float]:
    return {step: value for step, value in values.items() if math.isfinite(value)}


def read_held_out(results: Path) -> list[HeldOut]:
    """What the logs of all runs in `results` have, run by run."""
    return [found for path in sorted(results.glob("runs/*/log.csv")) for found in _of_run(path)]


def _of_run(path: Path) -> Iterator[HeldOut]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for column, measure, sign in _MEASURES:
        measured = [row for row in rows if row.get(column)]
        values = {int(row["step"]): float(row[column]) for row in measured}
        if values:
            examples = measured[-1].get("validation_examples")
            yield HeldOut(
                path.parent.name,
                measure,
                int(examples) if examples else None,
                values,
                min(_finite(values) or values, key=lambda step: sign * values[step]),
            )
