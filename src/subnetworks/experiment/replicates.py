"""Runs that one entry stands for: its replicates, which differ in their seed, and its sweeps.

What is made of a run with replicates has replicates, too: *turn* k of an experiment is the same
experiment with every replicate in the place of another, k seeds on (the first again after the
last). A comparison of two seeds is that of two others then, and a run within its own mask is within
its own still. What others start from, or is sampled for their data, is turned as an update only: as
a checkpoint it is the same start for all.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from subnetworks.core.errors import UserError
from subnetworks.core.results import by_hand
from subnetworks.core.validation import Count, Origin, SettingsModel, checked, parse, shown, wrong

Error = Callable[..., UserError]
Sections = Mapping[str, dict[str, dict[str, Any]]]
# What the names under a key are of, where it is not what those of its entry are of.
_KINDS = {"checkpoint": "checkpoints", "run": "updates", "like": "masks"}
_PLAIN = ("cast", "absolute", "relative")
_NOT_SWEPT = ("like", "seed", "seeds", "sweep")


def _different(values: list[Any]) -> list[Any]:
    if len(values) != len({repr(value) for value in values}):
        raise wrong(f"has a value twice: {shown(values)}")
    return values


Seeds = Annotated[list[Count], Field(min_length=1), AfterValidator(_different)]
_Grid = Annotated[
    dict[str, Annotated[list[Any], Field(min_length=1), AfterValidator(_different)]],
    Field(min_length=1),
]
_GRID = {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
Grids = Annotated[
    list[_Grid],
    BeforeValidator(lambda given: [given] if isinstance(given, Mapping) else given),
    WithJsonSchema({"anyOf": [_GRID, {"type": "array", "items": _GRID}]}),
]


class Expanded(SettingsModel):
    """What a run may say of other runs, besides its own settings."""

    like: str | None = Field(
        None, description="Another run: its settings, but for those here. Its sweep is not taken."
    )
    seeds: Seeds | None = Field(
        None,
        description="Train it with each of these seeds instead of one `seed`: the first under the "
        "run's own name, the others as NAME_seed1 and so on. All runs with seeds have the same.",
    )
    sweep: Grids = Field(
        [],
        description="Further runs, for every combination of these values of its keys (a list of "
        "such grids: for each of them). The run's own values are the run itself.",
    )


@dataclass(frozen=True)
class Replicates:
    """Which runs are replicates of which, and by what name every turn knows a thing.

    Attributes:
        seeds: of every run with replicates, in their order; empty where no run has any.
        turned: by section (`updates`, `masks`, `overlaps`, `agreements`, `checkpoints`): the names
            at turn 0, 1, … of what is not the same at each.
    """

    seeds: tuple[int, ...] = ()
    turned: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def at(self, section: str, name: str, turn: int) -> str:
        """What stands in the place of a thing at a turn."""
        names = self.turned.get(section, {}).get(name)
        return names[turn] if names else name


@dataclass(frozen=True)
class Turned:
    """What `turned` finds.

    Attributes:
        made: by section and name, the entry that it is made of, and what it is.
        names: see `Replicates.turned`.
    """

    made: Mapping[str, Mapping[str, tuple[str, dict[str, Any]]]]
    names: Mapping[str, Mapping[str, tuple[str, ...]]]


def named(run: str, seed: int) -> str:
    """The name of a run's replicate."""
    return f"{run}_seed{seed}"


def expand(
    runs: Mapping[str, Any], every: object, error: Error, origin: Origin
) -> tuple[dict[str, tuple[str, Any]], dict[str, tuple[str, ...]]]:
    """All runs that a file's runs stand for.

    Args:
        runs: by name, with every `like` followed.
        every: the seeds of all runs whose `seed` is the first of them, as the file gives it.
        error: of the file; takes a place, a text and a key.
        origin: the file.

    Returns:
        By name the run of the file that gives it, and its entry; and the names of each run with
        replicates, in the order of the seeds.

    Raises:
        UserError: seeds or a sweep are not well-formed, contradict each other, or give a name that
            another run has.
    """
    common = None if every is None else checked(Seeds, every, origin, ("seeds",))
    found: dict[str, tuple[str, Any]] = {}
    replicates: dict[str, tuple[str, ...]] = {}
    first: list[int] = []

    def add(name: str, entry: Any, of: str) -> None:
        known = [found[name][1]] if name in found else []
        known += [_alone(runs[name])] if name in runs and name != of else []
        if any(entry != other for other in known):
            raise error(("runs", of), f"gives the run {name!r}, but there is another of that name")
        found[name] = (name if name in runs else of), entry

    for name, entry in runs.items():
        if not isinstance(entry, dict):
            found[name] = name, entry  # the models say what is wrong
            continue
        further = {key: entry[key] for key in ("seeds", "sweep") if key in entry}
        asked, own = parse(Expanded, further, origin, ("runs", name)), _alone(entry)
        if {"seed", "seeds"} <= entry.keys():
            raise error(("runs", name), "seed and seeds exclude each other", "seeds")
        seeds = asked.seeds
        if seeds is None and common and own.get("seed", 0) == common[0]:
            seeds = common
        first = first or seeds or []
        if seeds not in (None, first):
            text = f"all runs with seeds have the same, in the same order: {first} and {seeds}"
            raise error(("runs", name), text, "seeds")
        for point, values in _points(name, own, asked, error):
            swept = {**own, **values}
            names = [point, *(named(point, seed) for seed in seeds[1:])] if seeds else [point]
            for one, seed in zip(names, seeds or [own.get("seed")], strict=True):
                add(one, swept if seed is None else {**swept, "seed": seed}, name)
            if len(names) > 1:
                replicates[point] = tuple(names)
    return found, replicates


def _alone(entry: Any) -> Any:
    """A run without what it says of others."""
    if not isinstance(entry, dict):
        return entry
    return {key: value for key, value in entry.items() if key not in Expanded.model_fields}


def _points(
    name: str, own: Mapping[str, Any], asked: Expanded, error: Error
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The runs of a sweep, each with the values that it has instead; the run itself comes first."""
    yield name, {}
    met = []
    for grid in asked.sweep:
        for key in grid:
            place = ("runs", name, "sweep")
            if key in _NOT_SWEPT:
                remedy = "; use seeds" if key == "seed" else ""
                raise error(place, f"{key!r} cannot be swept{remedy}", key)
            if key not in own:
                raise error(
                    place,
                    f"{key!r} is swept, but the run has no value of its own: give it one",
                    key,
                )
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            changed = {key: value for key, value in point.items() if value != own[key]}
            if changed and changed not in met:
                met.append(changed)
                yield "_".join([name, *(_word(*pair) for pair in changed.items())]), changed


def _word(key: str, value: object) -> str:
    """A key and its value as part of a name: `learning_rate_1_5e_7`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = by_hand(value) if number else str(value)  # type: ignore[arg-type]
    text = "".join(c if c.isascii() and c.isalnum() else "_" for c in text.lower())
    return f"{key}_{'_'.join(filter(None, text.split('_')))}"


def turned(sections: Sections, groups: Mapping[str, tuple[str, ...]], error: Error) -> Turned:
    """What an experiment's entries are at every turn.

    Args:
        sections: all entries, checked in their form, with the runs that `expand` gives.
        groups: the names of each run with replicates.
        error: of the file; takes a place and a text.

    Raises:
        UserError: an entry has a name that another's turn needs.
    """
    turns = _Turns(sections, groups)
    for name in groups:
        turns.within_own_mask(name)
    for section in ("updates", "masks", "overlaps", "agreements"):
        for name in (*sections[section], *turns.implied.get(section, ())):
            turns.of(section, name)
    for name in sections["evaluation"]:
        turns.evaluated(name)
    for section, entries in turns.made.items():
        for name, (of, entry) in entries.items():
            if sections[section].get(name, entry) != entry and section not in (
                "runs",
                "evaluation",
            ):
                raise error((section, of), f"gives {name!r}, but there is another of that name")
    masks = {**turns.names["updates"], **turns.names["masks"]}
    return Turned(turns.made, {**turns.names, "masks": masks})


class _Turns:
    """Works out every name's counterparts, each once."""

    def __init__(self, sections: Sections, groups: Mapping[str, tuple[str, ...]]) -> None:
        self.sections = sections
        self.made: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {s: {} for s in sections}
        self.groups = groups
        runs = {}
        for names in groups.values():
            for i, name in enumerate(names):
                runs[name] = (*names[i:], *names[:i])
        self.runs: Mapping[str, tuple[str, ...]] = runs
        self.seeds = [sections["runs"][name]["seed"] for name in next(iter(groups.values()))]
        entries = (*sections["runs"].values(), *sections["datasets"].values())
        starts = {entry[key] for entry in entries for key in ("init", "policy") if key in entry}
        self.names: dict[str, dict[str, tuple[str, ...]]] = {
            "checkpoints": {name: names for name, names in runs.items() if name not in starts},
            "updates": dict(runs),
            "masks": {},
            "overlaps": {},
            "agreements": {},
        }
        # What agreements imply: by name the agreement, and what follows its name.
        self.implied: dict[str, dict[str, tuple[str, str]]] = {"updates": {}, "overlaps": {}}
        for name, entry in sections["agreements"].items():
            endings = ["_agreement", *(f"_agreement_{one}" for one in entry.get("baselines", {}))]
            for section, ending in (
                *(("updates", one) for one in endings),
                ("overlaps", "_within"),
            ):
                if name + ending not in sections[section]:
                    self.implied[section][name + ending] = name, ending
        self.open: set[tuple[str, str]] = set()

    def of(self, section: str, name: str) -> Sequence[str]:
        """The names of a thing at turn 0, 1, …; what is not turned has its own at each."""
        found = self.names[section].get(name)
        if found or (section, name) in self.open:  # a cycle: it is refused elsewhere
            return found or [name] * len(self.seeds)
        self.open.add((section, name))
        if name in self.implied.get(section, {}):
            agreement, ending = self.implied[section][name]
            found = tuple(one + ending for one in self.of("agreements", agreement))
        elif section == "masks" and name not in self.sections["masks"]:
            found = tuple(self.of("updates", name))
        elif section != "checkpoints" and name in self.sections[section]:
            found = self._entries(section, name)
        self.open.discard((section, name))
        if found is None or set(found) == {name}:
            return [name] * len(self.seeds)
        for i, one in enumerate(found):
            self.names[section].setdefault(one, (*found[i:], *found[:i]))
        return found

    def _entries(self, section: str, name: str) -> tuple[str, ...]:
        """An entry's names; what it is at the turns is made with them."""
        entry = self.sections[section][name]
        turns = range(len(self.seeds))
        entries = [self._entry(section, entry, turn) for turn in turns]
        if all(one == entry for one in entries):
            return (name,) * len(entries)
        names = [name, *(named(name, seed) for seed in self.seeds[1:])]
        for turn in turns[1:]:
            if section == "masks" and "seed" in entry:
                entries[turn]["seed"] = entry["seed"] + turn
            self.made[section][names[turn]] = name, entries[turn]
        return tuple(names)

    def _entry(self, section: str, entry: Mapping[str, Any], turn: int) -> dict[str, Any]:
        """What an entry is at a turn; its keys say what its names are of."""

        def at(kind: str, value: Any) -> Any:
            match value:
                case str():
                    return self.of(kind, value)[turn]
                case list():
                    return [at(kind, one) for one in value]
                case dict():
                    inner = _KINDS if section == "masks" else {}
                    return {key: at(inner.get(key, kind), one) for key, one in value.items()}
            return value

        kind = "masks" if section in ("masks", "overlaps") else "checkpoints"
        return {
            key: value if key in _PLAIN else at(_KINDS.get(key, kind), value)
            for key, value in entry.items()
        }

    def within_own_mask(self, run: str) -> None:
        """Replicates of a run within a mask train within its counterparts."""
        names = self.groups[run]
        entry = self.sections["runs"][run]
        if "mask" in entry:
            masks = self.of("masks", entry["mask"])
            for name, mask in zip(names, masks, strict=True):
                self.made["runs"][name] = run, {**self.sections["runs"][name], "mask": mask}

    def evaluated(self, checkpoint: str) -> None:
        """Counterparts of a checkpoint are scored on what it is scored on."""
        asked = self.sections["evaluation"][checkpoint]["benchmarks"]
        for name in self.of("checkpoints", checkpoint):
            _, own = self.made["evaluation"].get(
                name, (name, self.sections["evaluation"].get(name, {}))
            )
            further = [one for one in asked if one not in own.get("benchmarks", [])]
            if further:
                both = [*own.get("benchmarks", []), *further]
                self.made["evaluation"][name] = checkpoint, {**own, "benchmarks": both}
