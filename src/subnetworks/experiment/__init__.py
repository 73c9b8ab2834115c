"""Read an experiment file: check its form, follow every reference, fill in what it implies."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.hub.sources import Source, data_files
from subnetworks.core.errors import UserError
from subnetworks.core.validation import Origin, Place, SettingsModel, hint, parse, quoted, shown
from subnetworks.experiment import local, models, reading, replicates
from subnetworks.experiment.replicates import Replicates
from subnetworks.measuring import mask_sources
from subnetworks.measuring.mask_making import MaskSettings

Section = dict[str, dict[str, Any]]
SECTIONS = models.SECTIONS
# What the command line takes for a checkpoint and `path` does not.
_NOT_PATHS = {
    "hub": "name the repository as 'hub'",
    "adapter": "name the adapter's folder as 'path' and, as 'base', the checkpoint it belongs to",
    "delta": "write it as a folder (subnetworks apply) and name that",
}


@dataclass(frozen=True)
class Experiment:
    """One experiment with all that its file implies.

    Every section maps a name to its settings. A run implies a checkpoint and an update of its
    name, every update a mask of its name, and every agreement the updates it is read from and the
    overlap of its two masks. What the file's `controls` names is in the same sections;
    `of_controls` lists, by section, the names that nothing else in the file gives. `models` has
    what the file itself says, the controls too, as settings models; `replicates` which runs are
    others with another seed.
    """

    name: str
    checkpoints: Section
    datasets: Section
    runs: Section
    updates: Section
    masks: Section
    overlaps: Section
    agreements: Section
    benchmarks: Section
    evaluation: Section
    tables: Section
    figures: Section
    source: Path = field(repr=False)
    of_controls: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    origin: Origin = field(default=Origin("experiment"), repr=False)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    replicates: Replicates = field(default=Replicates(), repr=False)

    def place(self, place: Place) -> Place:
        """Where an entry (`place`: its section, its name, …) is: among the controls, perhaps."""
        return _place(self.origin, place)

    def error(self, place: Place, text: str, key: object = None) -> UserError:
        """What is wrong with an entry, as one line."""
        return _error(self.origin, place, text, key)

    def named(self, section: str, *, controls: bool = False) -> list[str]:
        """Names in `section` but those of the controls; with `controls`, those alone."""
        apart = self.of_controls.get(section, frozenset())
        return [name for name in getattr(self, section) if (name in apart) == controls]

    def with_source(self, section: str, source: str) -> list[str]:
        """Names in `section` (`checkpoints`, `datasets`, …) that have the key `source`."""
        return [name for name, entry in getattr(self, section).items() if source in entry]

    def hub_source(self, section: str, name: str) -> Source:
        """What a checkpoint or data set (`section`) with the key `hub` asks of the Hub."""
        entry = getattr(self, section)[name]
        revision = entry.get("revision", "main")
        if section == "datasets":
            chosen = data_files(*(entry.get(key) for key in ("files", "configuration", "split")))
            return Source(entry["hub"], revision, "dataset", chosen)
        code, inside = entry.get("trust_remote_code", False), entry.get("folder", "")
        return Source(entry["hub"], revision, code=code, inside=inside)

    def hub_sources(self) -> dict[str, Source]:
        """All that is asked of the Hub, by `section.name`."""
        return {
            f"{section}.{name}": self.hub_source(section, name)
            for section in ("checkpoints", "datasets")
            for name in self.with_source(section, "hub")
        }

    def is_loaded(self, name: str) -> bool:
        """Whether a checkpoint is trained, sampled or evaluated, and not only compared."""
        users = [run["init"] for run in self.runs.values()]
        users += [entry.get("policy") for entry in self.datasets.values()]
        return name in (*users, *self.evaluation)

    def start_of(self, name: str) -> str:
        """The checkpoint, made by no run here, that a run descends from; or `name` itself."""
        while name in self.runs:
            name = self.runs[name]["init"]
        return name

    def before_of_mask(self, mask: str) -> str:
        """The checkpoint that a mask's update starts from (the weights it is drawn on)."""
        if mask in self.updates:
            return str(self.updates[mask]["before"])
        made = mask_sources.parse(self.masks[mask])
        return self.drawn_on(made) or self.before_of_mask(made.masks[0])

    def drawn_on(self, made: MaskSettings) -> str | None:
        """The checkpoint that a mask's source names as the one it is drawn on, if it does."""
        return str(self.runs[made.run]["init"]) if made.run else made.checkpoint


def load(path: Path, folders: Mapping[str, str] | None = None) -> Experiment:
    """Load, check and complete the experiment in `path`.

    Args:
        path: the experiment file (`experiments/<name>.yaml`). What its tables and figures may be
            given, `subnetworks.artefacts` checks.
        folders: where repositories of the Hub lie that are on this machine.

    Raises:
        UserError: an unknown key, a wrong type, a reference to something that is not there, a name
            used twice, or a cycle; one line that names file, line and key, and what is allowed.
    """
    raw, origin = _read(path)
    raw = _followed(raw, origin)
    raw, groups, origin = _expanded(raw, origin)
    file = parse(models.ExperimentFile, raw, origin)
    if folders:
        raw = local.placed(raw, folders)
        file = parse(models.ExperimentFile, raw, origin)
    raw, found, origin = _turned(raw, groups, origin)
    return replace(_with_controls(raw, file, path, origin), replicates=found)


def configuration(given: Mapping[str, Any], file: Path) -> models.Configuration:
    """The machine settings, as config.yaml and the command line give them.

    Args:
        given: all of them by key.
        file: where config.yaml lies; it is read for what Snakemake does not tell of it, keys that
            are there twice and the lines of the others.

    Raises:
        UserError: as `load` does; or an experiment is given for a configuration.
    """
    if sections := [key for key in given if key in (*SECTIONS, "controls")]:
        raise UserError(
            f"--configfile: {quoted(sections[:3])} belong to an experiment, not to the machine's "
            "configuration; put the file into experiments/ and name it: --config experiment=NAME"
        )
    origin = Origin(file.name)
    if file.exists():
        document = reading.read(file)
        if document.value == given:  # and nothing on the command line is set otherwise
            origin = Origin(file.name, document.origin.lines)
    return parse(models.Configuration, given, origin)


def _read(path: Path, *above: str) -> tuple[dict[str, Any], Origin]:
    """What a file holds, with the entries of the one that it is like."""
    document = reading.read(path)
    origin = document.origin
    if not isinstance(document.value, dict):
        raise origin.error((), f"expected sections such as runs, got {shown(document.value)}")
    raw = dict(document.value)
    other = raw.pop("like", None)
    if other is None:
        return _without_empty(raw), origin
    if not isinstance(other, str):
        raise origin.error(("like",), f"expected the name of an experiment, got {shown(other)}")
    if other in (*above, path.stem):
        raise origin.error(("like",), f"cycle {' -> '.join((*above, path.stem, other))}")
    inherited, _ = _read(path.with_name(f"{other}.yaml"), *above, path.stem)
    return _merged(inherited, raw), origin


def _merged(theirs: Any, own: Any, depth: int = 0) -> Any:
    """`theirs` with the entries of `own` added or in their place; nothing takes one out."""
    if not isinstance(theirs, dict) or not isinstance(own, dict) or depth > 1:
        return own
    both = dict(theirs)
    for key, value in own.items():
        inner = depth if key == "controls" and depth == 0 else depth + 1
        both[key] = _merged(both[key], value, inner) if key in both else value
    return {key: value for key, value in both.items() if value is not None}


def _expanded(
    raw: dict[str, Any], origin: Origin
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]], Origin]:
    """`raw` with all runs that its runs stand for, and the names of those with replicates."""
    raw = dict(raw)
    every = raw.pop("seeds", None)
    controls = raw.get("controls", {})
    sections = [raw, controls] if isinstance(controls, dict) else [raw]
    parts = [one for one in sections if isinstance(one.get("runs"), dict)]
    runs = {name: entry for part in parts for name, entry in part["runs"].items()}
    found, groups = replicates.expand(runs, every, partial(_error, origin), origin)
    for part in parts:
        own = part["runs"]
        part["runs"] = {name: entry for name, (of, entry) in found.items() if of in own}
    of: dict[Place, Place] = {
        ("runs", name): ("runs", of) for name, (of, _) in found.items() if name != of
    }
    return raw, groups, _with_lines(origin, of)


def _turned(
    raw: dict[str, Any], groups: Mapping[str, tuple[str, ...]], origin: Origin
) -> tuple[dict[str, Any], Replicates, Origin]:
    """`raw` with what is made of runs with replicates at every turn."""
    if not groups:
        return raw, Replicates(), origin
    controls = raw.get("controls", {})
    both = {name: {**raw.get(name, {}), **controls.get(name, {})} for name in SECTIONS}
    found = replicates.turned(both, groups, partial(_error, origin))
    raw = {**raw, "controls": dict(controls)}
    lines: dict[Place, Place] = {}
    for section, entries in found.made.items():
        for name, (of, entry) in entries.items():
            part = raw if of in raw.get(section, {}) else raw["controls"]
            part[section] = {**part.get(section, {}), name: entry}
            lines[section, name] = (section, of)
    seeds = tuple(both["runs"][name]["seed"] for name in next(iter(groups.values())))
    return raw, Replicates(seeds, found.names), _with_lines(origin, lines)


def _with_lines(origin: Origin, of: Mapping[Place, Place]) -> Origin:
    """The origin, where what is made of another entry is in that one's lines."""
    lines = dict(origin.lines)
    for place, source in of.items():
        for top in ((), ("controls",)):
            old: Place = (*top, *source)
            for known, line in origin.lines.items():
                if known[: len(old)] == old:
                    lines.setdefault((*top, *place, *known[len(old) :]), line)
    return Origin(origin.name, lines)


def _place(origin: Origin, place: Place) -> Place:
    controls: Place = ("controls", *place)
    among = place[:2] not in origin.lines and controls[:3] in origin.lines
    return controls if among else place


def _error(origin: Origin, place: Place, text: str, key: object = None) -> UserError:
    return origin.error(_place(origin, place), text, key)


def _without_empty(raw: Any) -> Any:
    """Sections without those that are empty, and entries without keys whose value is nothing (so
    that a run may leave out what the one it is like has)."""
    if not isinstance(raw, dict):
        return raw
    return {
        section: _without_empty(entries) if section == "controls" else entries
        for section, entries in raw.items()
        if entries is not None
    }


def _followed(raw: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """`raw` with every `like` of its runs, those of the controls too, followed."""
    controls = raw.get("controls", {})
    own, further = raw.get("runs", {}), {}
    if isinstance(controls, dict):
        further = controls.get("runs", {})
    if not isinstance(own, dict) or not isinstance(further, dict):
        return raw  # the models say what is wrong
    runs = _follow_like({**own, **further}, origin)
    followed = {**raw, "runs": {name: runs[name] for name in own}}
    if further:
        followed["controls"] = {**controls, "runs": {name: runs[name] for name in further}}
    return followed


def _follow_like(runs: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """Resolve `like: OTHER`: the other run's settings, overridden by this run's own."""

    def resolve(name: str, trail: tuple[str, ...]) -> Any:
        entry = runs[name]
        if not isinstance(entry, dict):
            return entry
        if "like" not in entry:
            return {key: value for key, value in entry.items() if value is not None}
        other, place = entry["like"], ("runs", name, "like")
        if not isinstance(other, str):
            raise _error(origin, place, f"expected the name of a run, got {shown(other)}")
        if name in trail:
            cycle = " -> ".join((*trail, name))
            raise _error(origin, place, f"cycle {cycle} through 'like'")
        if other not in runs:
            raise _error(
                origin, place, f"no run {other!r}{hint(other, runs)}; there are: {', '.join(runs)}"
            )
        inherited = resolve(other, (*trail, name))
        if not isinstance(inherited, dict):
            return inherited
        own = {key: value for key, value in entry.items() if key != "like"}
        # A seed of one's own is instead of the other's several; its sweep is of its own names.
        apart = {"sweep", *({"seed", "seeds"} if {"seed", "seeds"} & own.keys() else ())}
        inherited = {key: value for key, value in inherited.items() if key not in apart}
        whole = {**inherited, **own}
        return {key: value for key, value in whole.items() if value is not None}

    return {name: resolve(name, ()) for name in runs}


def _with_controls(
    raw: Mapping[str, Any], file: models.ExperimentFile, path: Path, origin: Origin
) -> Experiment:
    """The experiment with its controls in it. Without them it is complete by itself."""
    controls = raw.get("controls", {})
    main = {section: raw.get(section, {}) for section in SECTIONS}
    alone = _complete(main, path, origin)
    _check_references(alone, origin)
    both = {}
    for section, entries in main.items():
        further = controls.get(section, {})
        if twice := [name for name in further if name in entries]:
            raise origin.error(
                ("controls", section), f"{quoted(twice)} is in {section} already", twice[0]
            )
        both[section] = {**entries, **further}
    whole = alone
    if controls:
        whole = _complete(both, path, origin)
        _check_references(whole, origin)
    apart = {
        section: frozenset(getattr(whole, section)) - frozenset(getattr(alone, section))
        for section in SECTIONS
    }
    entries_as_models: dict[str, dict[str, SettingsModel]] = {
        section: {**getattr(file, section), **getattr(file.controls, section)}
        for section in SECTIONS
    }
    return replace(whole, of_controls=apart, models=entries_as_models)


def _complete(raw: dict[str, Any], path: Path, origin: Origin) -> Experiment:
    """Add the updates, masks and benchmark names that the sections imply."""

    def section(name: str) -> Section:
        return {
            key: {k: v for k, v in value.items() if v is not None}
            for key, value in raw.get(name, {}).items()
        }

    runs, checkpoints = section("runs"), section("checkpoints")
    updates = {name: {"before": run["init"], "after": name} for name, run in runs.items()}
    for name, update in section("updates").items():
        if name in updates:
            raise _error(origin, ("updates", name), "the run of that name implies it already")
        updates[name] = update
    agreements = section("agreements")
    for name, agreement in agreements.items():
        pairs = {f"{name}_agreement": agreement["subnetwork"]}
        for label, checkpoint in agreement.get("baselines", {}).items():
            pairs[f"{name}_agreement_{label}"] = checkpoint
        for implied, after in pairs.items():
            if implied in updates:
                raise _error(
                    origin, ("updates", implied), f"the agreement {name!r} implies it already"
                )
            updates[implied] = {"before": agreement["full"], "after": after}
    overlaps = section("overlaps")
    for name, agreement in agreements.items():
        if agreement["full"] in runs and agreement["subnetwork"] in runs:
            # Whether training within the mask stayed within it: o2 must be exactly 1.
            within = {"masks": [agreement["full"], agreement["subnetwork"]]}
            overlaps.setdefault(f"{name}_within", within)
    for name in section("masks"):
        if name in updates:
            raise _error(origin, ("masks", name), "the update of that name implies it already")
    for name in checkpoints:
        if name in runs:
            raise _error(origin, ("checkpoints", name), "the run of that name gives it already")
    return Experiment(
        name=path.stem,
        checkpoints=checkpoints,
        datasets=section("datasets"),
        runs=runs,
        updates=updates,
        masks=section("masks"),
        overlaps=overlaps,
        agreements=agreements,
        benchmarks=section("benchmarks"),
        evaluation=section("evaluation"),
        tables=section("tables"),
        figures=section("figures"),
        source=path,
        origin=origin,
    )


def _check_references(experiment: Experiment, origin: Origin) -> None:
    """Every name refers to something that exists, and nothing depends on itself."""
    ends = {**experiment.checkpoints, **experiment.runs}
    masks = {**experiment.updates, **experiment.masks}

    def check(where: str, name: str, known: Mapping[str, Any], kind: str) -> None:
        if name not in known:
            raise experiment.error(
                tuple(where.split(".")),
                f"no {kind} {name!r}{hint(name, known)}; "
                f"there are: {', '.join(sorted(known)) or 'none'}",
            )

    for name, entry in experiment.checkpoints.items():
        if "base" in entry:
            check(f"checkpoints.{name}.base", entry["base"], ends, "checkpoint")
        kind = str(entry.get("path", "")).partition(":")[0]
        if remedy := _NOT_PATHS.get(kind):
            raise experiment.error(
                ("checkpoints", name, "path"), f"{entry['path']!r} is no path: {remedy}"
            )
    for name, entry in experiment.datasets.items():
        if "policy" in entry:
            check(f"datasets.{name}.policy", entry["policy"], ends, "checkpoint")
        if "sample" in entry:
            check(f"datasets.{name}.sample", entry["sample"], experiment.datasets, "dataset")
        for part in entry.get("mix", {}):
            check(f"datasets.{name}.mix", part, experiment.datasets, "dataset")
    for name, run in experiment.runs.items():
        check(f"runs.{name}.init", run["init"], ends, "checkpoint")
        check(f"runs.{name}.data", run["data"], experiment.datasets, "dataset")
        if "mask" in run:
            check(f"runs.{name}.mask", run["mask"], masks, "mask")
    for name, update in experiment.updates.items():
        for side in ("before", "after"):
            check(f"updates.{name}.{side}", update[side], ends, "checkpoint")
    for name, entry in experiment.masks.items():
        made = mask_sources.parse(entry)
        for source in made.masks:
            check(f"masks.{name}", source, masks, "mask")
        if made.checkpoint:
            check(f"masks.{name}", made.checkpoint, ends, "checkpoint")
        if made.run:
            check(f"masks.{name}.{made.source}.run", made.run, experiment.runs, "run")
            for place, text in made.refused(experiment.runs[made.run]):
                raise experiment.error(("masks", name, *place), text)
    for name, entry in experiment.overlaps.items():
        for mask in entry["masks"]:
            check(f"overlaps.{name}.masks", mask, masks, "mask")
    for name, entry in experiment.evaluation.items():
        check(f"evaluation.{name}", name, ends, "checkpoint")
        for benchmark in entry["benchmarks"]:
            check(f"evaluation.{name}.benchmarks", benchmark, experiment.benchmarks, "benchmark")
    _check_cycles(experiment)


def _check_cycles(experiment: Experiment) -> None:
    needs: dict[str, list[str]] = {}
    for name, entry in experiment.datasets.items():
        needs[f"datasets.{name}"] = [
            f"{kind}.{entry[key]}"
            for key, kind in (("policy", "checkpoints"), ("sample", "datasets"))
            if key in entry
        ]
        needs[f"datasets.{name}"] += [f"datasets.{part}" for part in entry.get("mix", {})]
    for name, entry in experiment.checkpoints.items():
        needs[f"checkpoints.{name}"] = [f"checkpoints.{entry['base']}"] if "base" in entry else []
    for name, run in experiment.runs.items():
        mask = [f"masks.{run['mask']}"] if "mask" in run else []
        needs[f"checkpoints.{name}"] = [
            f"checkpoints.{run['init']}",
            f"datasets.{run['data']}",
            *mask,
        ]
    for name, update in experiment.updates.items():
        needs[f"masks.{name}"] = [
            f"checkpoints.{update['before']}",
            f"checkpoints.{update['after']}",
        ]
    for name, entry in experiment.masks.items():
        made = mask_sources.parse(entry)
        needs[f"masks.{name}"] = [f"masks.{source}" for source in made.masks]
        ends = [made.checkpoint] if made.checkpoint else []
        if made.run and "trajectory" in made.reads:
            ends.append(made.run)
        elif made.run:
            ends.append(experiment.runs[made.run]["init"])
            needs[f"masks.{name}"].append(f"datasets.{experiment.runs[made.run]['data']}")
        needs[f"masks.{name}"] += [f"checkpoints.{end}" for end in ends]

    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        if node in trail:
            cycle = " -> ".join((*trail[trail.index(node) :], node))
            raise experiment.error(
                (), f"cycle {cycle}; break it by naming another init, policy, base or mask"
            )
        if node not in done:
            for other in needs.get(node, []):
                visit(other, (*trail, node))
            done.add(node)

    for node in needs:
        visit(node, ())
