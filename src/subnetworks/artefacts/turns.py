"""Artefacts over several seeds: one for each turn of the experiment, their mean, its interval.

Beside an artefact's CSV, which holds the means, `<name>.seeds.csv` holds what it is at every turn
(`subnetworks.experiment.replicates`), which is one a seed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.statistics import Mean, over_seeds
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context

SUFFIX = ".seeds.csv"
FOLLOWED = "runs with trajectory_every"
_RUNS = ("checkpoints", FOLLOWED, "runs")
_UPDATES = ("updates", "runs")
ONE_SEED = "one seed"


@dataclass(frozen=True)
class Seeds:
    """On how many seeds an artefact's numbers rest.

    Attributes:
        n: those of the thing that has the fewest; None where nothing was trained.
        in_pairs: whether seeds are compared with each other, so that each is in two of the turns.
        turns: what the artefact is asked for at further turns.
    """

    n: int | None = None
    in_pairs: bool = False
    turns: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Over:
    """An artefact's numbers at every turn: frames alike in their rows and columns."""

    frames: Sequence[polars.DataFrame]
    in_pairs: bool = False

    @property
    def mean(self) -> polars.DataFrame:
        """Means of numbers (of counts, rounded); what is the same, or none, as it is at first."""
        first = self.frames[0]
        return first.with_columns(
            polars.Series(
                key, [_mean(values) for values in self._cells(key)], dtype=first[key].dtype
            )
            for key in first.columns
        )

    def interval(self, row: int, key: str) -> tuple[float, float] | None:
        """The 95 % interval of a cell of the mean over trainings; None where nothing varies."""
        found = self.spread([frame[key][row] for frame in self.frames])
        return found.interval() if found else None

    def spread(self, values: Sequence[Any]) -> Mean | None:
        """The mean of a number at all turns; None where it is none, or does not vary."""
        numbers = [
            value
            for value in values
            if isinstance(value, float | int) and not isinstance(value, bool)
        ]
        least = 3 if self.in_pairs else 2
        if len(numbers) < max(least, len(values)) or len(set(numbers)) == 1:
            return None
        return over_seeds(numbers, in_pairs=self.in_pairs)

    def _cells(self, key: str) -> Iterable[tuple[Any, ...]]:
        return zip(*(frame[key].to_list() for frame in self.frames), strict=True)

    @property
    def brief(self) -> str:
        """What a figure's legend says of its intervals."""
        of = "pairs of seeds" if self.in_pairs else "seeds"
        return f"95 % interval over {len(self.frames)} {of}"

    @property
    def note(self) -> str:
        """What is said below a table."""
        n = len(self.frames)
        words = (
            f"Means over {n} seeds; in brackets the 95 % interval over trainings (which may reach "
            "beyond 0 or 100 %), by Student's t"
        )
        if self.in_pairs:
            return (
                f"{words}; of comparisons of seeds, each of which shares its trainings with others."
            )
        return f"{words} on {n - 1} degrees of freedom."

    def with_intervals(self, frame: polars.DataFrame, keys: Iterable[str]) -> polars.DataFrame:
        """`frame`, the mean, with both ends of the intervals of some columns, for its table."""
        ends = {}
        for key in keys:
            found = [self.interval(row, key) for row in range(frame.height)]
            for end, name in enumerate(("low", "high")):
                values = [None if interval is None else interval[end] for interval in found]
                ends[f"{key}:{name}"] = polars.Series(values, dtype=polars.Float64)
        return frame.with_columns(**ends)

    def write(self, path: Path) -> Path:
        """Write all frames as one, with the number of the turn; returns the path."""
        from subnetworks.artefacts.sheet import to_csv
        from subnetworks.core.files import write_text

        whole = polars.concat(
            frame.select(polars.lit(turn).alias("turn"), polars.all())
            for turn, frame in enumerate(self.frames)
        )
        write_text(path, to_csv(whole.with_columns(in_pairs=polars.lit(self.in_pairs))))
        return path


def over(frames: Sequence[polars.DataFrame], in_pairs: bool) -> Over:
    """Frames of all turns.

    Raises:
        UserError: they do not have the same rows.
    """
    heights = [frame.height for frame in frames]
    if len(set(heights)) > 1:
        raise UserError(f"not the same rows at every seed: there are {heights}")
    return Over(frames, in_pairs)


def read(path: Path, schema: Mapping[str, Any]) -> Over:
    """What `Over.write` wrote, of an artefact with that schema."""
    whole = polars.read_csv(
        path, schema={"turn": polars.Int64, **schema, "in_pairs": polars.Boolean}
    )
    frames = whole.partition_by("turn", maintain_order=True, include_key=False)
    return Over([frame.drop("in_pairs") for frame in frames], bool(whole["in_pairs"][0]))


def seeds_of(path: Path) -> Seeds:
    """What was recorded of an artefact beside its CSV; nothing of one made without a workflow."""
    try:
        meta = json.loads(path.with_name(f"{path.name}.meta.json").read_text(encoding="utf-8"))
        found = meta["seeds"]
        return Seeds(found["n"], found["in_pairs"], ({},) * found["turns"])
    except (OSError, ValueError, LookupError, TypeError):
        return Seeds()


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers; None if one is missing."""
    first = values[0]
    if all(value == first for value in values) or isinstance(first, str):
        return first
    if any(value is None or isinstance(value, bool) for value in values):
        return None
    mean = sum(values) / len(values)
    return round(mean) if all(isinstance(value, int) for value in values) else mean


@dataclass(frozen=True)
class MeanContext(Context):
    """Results as a figure sees them: what it reads of a thing is the mean over all turns.

    `others` maps a section and a name to the names at all turns; `over` is what it draws at each.
    """

    others: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    over: Over | None = None

    def _at_turns(self, name: str, *sections: str) -> Sequence[str]:
        found = (
            self.others[section, name] for section in sections if (section, name) in self.others
        )
        return next(found, [name])

    def _read(self, read: Callable[[str], Any], name: str, *sections: str) -> Any:
        return _averaged([read(one) for one in self._at_turns(name, *sections)], name)

    def update(self, name: str) -> dict[str, Any]:  # noqa: D102
        return dict(self._read(super().update, name, *_UPDATES))

    def update_tensors(self, name: str) -> polars.DataFrame:  # noqa: D102
        return self._read(super().update_tensors, name, *_UPDATES)

    def rank(self, name: str) -> dict[str, Any]:  # noqa: D102
        return dict(self._read(super().rank, name, *_UPDATES))

    def rank_matrices(self, name: str) -> polars.DataFrame | None:  # noqa: D102
        return self._read(super().rank_matrices, name, *_UPDATES)

    def rotation_matrices(self, name: str) -> polars.DataFrame:  # noqa: D102
        return self._read(super().rotation_matrices, name, *_UPDATES)

    def prediction(self, run: str, batches: int | None = None) -> dict[str, Any]:  # noqa: D102
        read = super().prediction
        return dict(self._read(lambda name: read(name, batches), run, *_RUNS))

    def overlap(self, name: str) -> dict[str, Any]:  # noqa: D102
        return dict(self._read(super().overlap, name, "overlaps"))

    def ranking(self, overlap: str) -> dict[str, Any]:  # noqa: D102
        return dict(self._read(super().ranking, overlap, "overlaps"))

    def trajectory(self, run: str) -> dict[str, Any]:  # noqa: D102
        return dict(self._read(super().trajectory, run, *_RUNS))

    def synchronisation(self, run: str) -> dict[str, Any]:  # noqa: D102
        return dict(self._read(super().synchronisation, run, *_RUNS))

    def log(self, run: str) -> polars.DataFrame:  # noqa: D102
        return self._read(super().log, run, *_RUNS)

    def score(self, checkpoint: str, benchmark: str) -> dict[str, Any]:  # noqa: D102
        read = super().score
        return dict(self._read(lambda name: read(name, benchmark), checkpoint, "checkpoints"))

    def samples(self, checkpoint: str, benchmark: str) -> polars.DataFrame | None:  # noqa: D102
        read = super().samples
        return self._read(lambda name: read(name, benchmark), checkpoint, "checkpoints")

    def transfer(self, name: str) -> dict[str, dict[str, Any]]:  # noqa: D102
        found = [super(MeanContext, self).transfer(one) for one in self._at_turns(name, "updates")]
        known = {mask for rows in found for mask in rows}

        def at_turns(mask: str) -> Sequence[str]:
            names = self._at_turns(mask, *_UPDATES)
            return names if len(names) > 1 else [names[0]] * len(found)

        return {
            mask: _averaged(
                [rows[one] for rows, one in zip(found, at_turns(mask), strict=False)], name
            )
            for mask in found[0]
            if set(at_turns(mask)) <= known
        }


def with_intervals(
    context: Context, panels: Sequence[polars.DataFrame], *keys: str
) -> list[polars.DataFrame]:
    """What a figure draws, with both ends of the intervals of some columns over seeds.

    Args:
        context: what it was read of.
        panels: all rows of the figure, in their order.
        keys: columns of numbers.

    Returns:
        The panels, with columns `<key>:low` and `<key>:high`, null where nothing varies, or there
        is one seed.
    """
    whole = polars.concat(panels)
    if over := spread_of(context):
        whole = over.with_intervals(whole, keys)
    else:
        none = polars.lit(None, polars.Float64)
        ends = [f"{key}:{end}" for key in keys for end in ("low", "high")]
        whole = whole.with_columns(none.alias(end) for end in ends)
    starts = itertools.accumulate((panel.height for panel in panels), initial=0)
    return [whole.slice(start, panel.height) for start, panel in zip(starts, panels, strict=False)]


def spread_of(context: Context) -> Over | None:
    """What a figure draws at every seed; None where it is of one."""
    return context.over if isinstance(context, MeanContext) else None


def _averaged(values: Sequence[Any], name: str) -> Any:
    """The mean of what is read of several things, number by number; else what the first has."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, polars.DataFrame):
        if len({value.height for value in values}) > 1:
            raise UserError(f"{name}: its replicates do not have as many rows as it has")
        # Counts, too: of what is alike in all (a step, a layer) the type stays.
        numbers = [
            key
            for key, kind in first.schema.items()
            if kind.is_numeric() and not all(value[key].equals(first[key]) for value in values)
        ]
        return first.with_columns(
            sum(value[key] for value in values) / len(values) for key in numbers
        )
    if isinstance(first, Mapping):
        return {key: _averaged([value[key] for value in values], name) for key in first}
    if isinstance(first, list) and all(len(value) == len(first) for value in values):
        return [_averaged(parts, name) for parts in zip(*values, strict=True)]
    return _mean(values) if isinstance(first, float | int) or first is None else first
