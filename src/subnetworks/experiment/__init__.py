"""Read an experiment file: check its form, follow every reference, fill in what it implies."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema

from subnetworks.errors import UserError
from subnetworks.experiment import reading
from subnetworks.hub.sources import DATA_FILES, Source
from subnetworks.validation import hint, quoted

Section = dict[str, dict[str, Any]]
SECTIONS = (
    "checkpoints",
    "datasets",
    "runs",
    "updates",
    "masks",
    "overlaps",
    "agreements",
    "benchmarks",
    "evaluation",
    "tables",
    "figures",
)
# What the command line takes for a checkpoint and `path` does not.
_NOT_PATHS = {
    "hub": "name the repository as 'hub'",
    "adapter": "name the adapter's folder as 'path' and, as 'base', the checkpoint it belongs to",
    "delta": "write it as a folder (subnetworks apply) and name that",
}
# Masks that a checkpoint's own weights choose.
BY_WEIGHTS = ("magnitude", "principal")


@dataclass(frozen=True)
class Experiment:
    """One experiment with all that its file implies.

    Every section maps a name to its settings. A run implies a checkpoint and an update of its
    name, every update a mask of its name, and every agreement the updates it is read from and the
    overlap of its two masks. What the file's `controls` names is in the same sections;
    `of_controls` lists, by section, the names that nothing else in the file gives.
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
            return Source(entry["hub"], revision, "dataset", entry.get("files", DATA_FILES))
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

    def before_of_mask(self, mask: str) -> str:
        """The checkpoint that a mask's update starts from (the weights it is drawn on)."""
        if mask in self.updates:
            return str(self.updates[mask]["before"])
        entry = self.masks[mask]
        if "early" in entry:
            return str(self.runs[entry["early"]["run"]]["init"])
        if weights := mask_checkpoint(entry):
            return weights
        return self.before_of_mask(mask_sources(entry)[0])


def mask_checkpoint(entry: Mapping[str, Any]) -> str | None:
    """The checkpoint by whose weights a mask is chosen, if it is."""
    for key in BY_WEIGHTS:
        if key in entry:
            return str(entry[key]["checkpoint"])
    return None


def mask_sources(entry: Mapping[str, Any]) -> list[str]:
    """The masks that a derived mask is made from, in order."""
    for key in BY_WEIGHTS:
        if key in entry:
            return [str(entry[key]["like"])] if "like" in entry[key] else []
    if "early" in entry:
        return []
    for key in ("complement", "random"):
        if key in entry:
            return [str(entry[key])]
    for key in ("union", "intersection", "difference"):
        if key in entry:
            return [str(name) for name in entry[key]]
    raise AssertionError(entry)


def validate(value: Any, schema: Mapping[str, Any], source: str) -> None:
    """Check `value` against a JSON schema.

    Raises `UserError` for the first violation (in document order): it names the key and lists what
    is allowed there.
    """
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(
        validator.iter_errors(value), key=lambda error: [str(p) for p in error.absolute_path]
    )
    if errors:
        raise UserError(f"{source}: {_explain(errors[0])}")


def _explain(error: jsonschema.ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    where = f"{path}: " if path else ""
    rule = error.schema
    match error.validator:
        case "additionalProperties" | "propertyNames":
            allowed = sorted(rule.get("properties", {}))
            unknown = [key for key in error.instance if key not in allowed]
            if error.validator == "propertyNames" or not allowed:
                return f"{where}{error.message}"
            close = hint(unknown[0], allowed)
            return f"{where}unknown key {quoted(unknown)}{close}; allowed: {', '.join(allowed)}"
        case "required":
            missing = [key for key in error.validator_value if key not in error.instance]
            return f"{where}missing key {quoted(missing)}"
        case "enum":
            allowed = [str(choice) for choice in error.validator_value]
            close = hint(str(error.instance), allowed)
            return f"{where}{error.instance!r} is not allowed{close}; allowed: {', '.join(allowed)}"
        case "type":
            return f"{where}expected {error.validator_value}, got {error.instance!r}"
        case "oneOf" | "anyOf":
            choices = [", ".join(choice.get("required", [])) for choice in error.validator_value]
            return f"{where}needs exactly one of: {' | '.join(filter(None, choices))}"
        case _:
            return f"{where}{error.message}"


def read_yaml(path: Path) -> Any:
    """What a YAML file holds (`subnetworks.experiment.reading`)."""
    return reading.read(path).value


def load(path: Path, schema: Path) -> Experiment:
    """Load, check and complete the experiment in `path`.

    Args:
        path: the experiment file (`experiments/<name>.yaml`).
        schema: the JSON schema (`workflow/schemas/experiment.schema.yaml`).

    Raises:
        UserError: an unknown key, a wrong type, a reference to something that is not there, a name
            used twice, or a cycle; one line that names the key and what is allowed.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of sections")
    raw = _resolve_likes(raw, path)
    validate(raw, read_yaml(schema), str(path))
    return _with_controls(raw, path)


def _resolve_likes(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """`raw` with every `like` of its runs, those of the controls too, followed."""
    controls = raw.get("controls") or {}
    further = controls.get("runs") if isinstance(controls, dict) else None
    own, further = raw.get("runs") or {}, further or {}
    if not isinstance(own, dict) or not isinstance(further, dict):
        return raw  # the schema says what is wrong
    runs = _follow_like({**own, **further}, path)
    raw = {**raw, "runs": {name: runs[name] for name in own}}
    if further:
        raw["controls"] = {**controls, "runs": {name: runs[name] for name in further}}
    return raw


def _with_controls(raw: Mapping[str, Any], path: Path) -> Experiment:
    """The experiment with its controls in it. Without them it stands by itself."""
    controls = raw.get("controls") or {}
    main = {section: raw.get(section) or {} for section in SECTIONS}
    alone = _complete(main, path)
    _check_references(alone, path)
    if not controls:
        return alone
    both = {}
    for section, entries in main.items():
        further = controls.get(section) or {}
        if twice := [name for name in further if name in entries]:
            raise UserError(
                f"{path}: controls.{section}: {quoted(twice)} stands in {section} already"
            )
        both[section] = {**entries, **further}
    whole = _complete(both, path)
    _check_references(whole, path)
    apart = {
        section: frozenset(getattr(whole, section)) - frozenset(getattr(alone, section))
        for section in SECTIONS
    }
    return replace(whole, of_controls=apart)


def _follow_like(runs: dict[str, Any], path: Path) -> dict[str, Any]:
    """Resolve `like: OTHER`: the other run's settings, overridden by this run's own."""

    def resolve(name: str, trail: tuple[str, ...]) -> Any:
        entry = runs[name]
        if not isinstance(entry, dict) or "like" not in entry:
            return entry
        other = entry["like"]
        if not isinstance(other, str):
            raise UserError(f"{path}: runs.{name}.like: expected the name of a run, got {other!r}")
        if name in trail:
            raise UserError(f"{path}: runs: cycle {' -> '.join((*trail, name))} through 'like'")
        if other not in runs:
            raise UserError(
                f"{path}: runs.{name}.like: no run {other!r}{hint(str(other), runs)}; "
                f"there are: {', '.join(runs)}"
            )
        own = {key: value for key, value in entry.items() if key != "like"}
        return {**resolve(other, (*trail, name)), **own}

    return {name: resolve(name, ()) for name in runs}


def _complete(raw: dict[str, Any], path: Path) -> Experiment:
    """Add the updates, masks and benchmark names that the sections imply."""

    def section(name: str) -> Section:
        return {key: dict(value) for key, value in (raw.get(name) or {}).items()}

    runs, checkpoints = section("runs"), section("checkpoints")
    updates = {name: {"before": run["init"], "after": name} for name, run in runs.items()}
    for name, update in section("updates").items():
        if name in updates:
            raise UserError(f"{path}: updates.{name}: the run of that name implies it already")
        updates[name] = update
    agreements = section("agreements")
    for name, agreement in agreements.items():
        pairs = {f"{name}_agreement": agreement["subnetwork"]}
        for label, checkpoint in agreement.get("baselines", {}).items():
            pairs[f"{name}_agreement_{label}"] = checkpoint
        for implied, after in pairs.items():
            if implied in updates:
                raise UserError(
                    f"{path}: updates.{implied}: the agreement {name!r} implies it already"
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
            raise UserError(f"{path}: masks.{name}: the update of that name implies it already")
    for name in checkpoints:
        if name in runs:
            raise UserError(f"{path}: checkpoints.{name}: the run of that name gives it already")
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
    )


def _check_references(experiment: Experiment, path: Path) -> None:
    """Every name refers to something that exists, and nothing depends on itself."""
    ends = {**experiment.checkpoints, **experiment.runs}
    masks = {**experiment.updates, **experiment.masks}

    def check(where: str, name: str, known: Mapping[str, Any], kind: str) -> None:
        if name not in known:
            raise UserError(
                f"{path}: {where}: no {kind} {name!r}{hint(name, known)}; "
                f"there are: {', '.join(sorted(known)) or 'none'}"
            )

    for name, entry in experiment.checkpoints.items():
        if "base" in entry:
            check(f"checkpoints.{name}.base", entry["base"], ends, "checkpoint")
        kind = str(entry.get("path", "")).partition(":")[0]
        if remedy := _NOT_PATHS.get(kind):
            raise UserError(
                f"{path}: checkpoints.{name}.path: {entry['path']!r} is no path: {remedy}"
            )
    for name, entry in experiment.datasets.items():
        if "policy" in entry:
            check(f"datasets.{name}.policy", entry["policy"], ends, "checkpoint")
        if "sample" in entry:
            check(f"datasets.{name}.sample", entry["sample"], experiment.datasets, "dataset")
    for name, run in experiment.runs.items():
        check(f"runs.{name}.init", run["init"], ends, "checkpoint")
        check(f"runs.{name}.data", run["data"], experiment.datasets, "dataset")
        if "mask" in run:
            check(f"runs.{name}.mask", run["mask"], masks, "mask")
    for name, update in experiment.updates.items():
        for side in ("before", "after"):
            check(f"updates.{name}.{side}", update[side], ends, "checkpoint")
    for name, entry in experiment.masks.items():
        for source in mask_sources(entry):
            check(f"masks.{name}", source, masks, "mask")
        if weights := mask_checkpoint(entry):
            check(f"masks.{name}", weights, ends, "checkpoint")
        if "early" in entry:
            check(f"masks.{name}.early.run", entry["early"]["run"], experiment.runs, "run")
            _check_early(f"{path}: masks.{name}.early", entry["early"], experiment.runs)
    for name, entry in experiment.overlaps.items():
        for mask in entry["masks"]:
            check(f"overlaps.{name}.masks", mask, masks, "mask")
    for name, entry in experiment.evaluation.items():
        check(f"evaluation.{name}", name, ends, "checkpoint")
        for benchmark in entry["benchmarks"]:
            check(f"evaluation.{name}.benchmarks", benchmark, experiment.benchmarks, "benchmark")
    _check_cycles(experiment, path)


def _check_early(where: str, early: Mapping[str, Any], runs: Section) -> None:
    """The run keeps its weights at that step."""
    run, step = runs[early["run"]], early["steps"]
    every = run.get("trajectory_every", 0)
    kept = list(range(every, run["steps"] + 1, every)) if every else []
    if step not in kept:
        raise UserError(
            f"{where}.steps: the run {early['run']!r} keeps no step {step}; there are: "
            f"{', '.join(map(str, kept)) or 'none (trajectory_every)'}"
        )


def _check_cycles(experiment: Experiment, path: Path) -> None:
    needs: dict[str, list[str]] = {}
    for name, entry in experiment.datasets.items():
        needs[f"datasets.{name}"] = [
            f"{kind}.{entry[key]}"
            for key, kind in (("policy", "checkpoints"), ("sample", "datasets"))
            if key in entry
        ]
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
        needs[f"masks.{name}"] = [f"masks.{source}" for source in mask_sources(entry)]
        if "early" in entry:
            needs[f"masks.{name}"].append(f"checkpoints.{entry['early']['run']}")
        if weights := mask_checkpoint(entry):
            needs[f"masks.{name}"].append(f"checkpoints.{weights}")

    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        if node in trail:
            cycle = " -> ".join((*trail[trail.index(node) :], node))
            raise UserError(
                f"{path}: cycle {cycle}; break it by naming another init, policy, base or mask"
            )
        if node not in done:
            for other in needs.get(node, []):
                visit(other, (*trail, node))
            done.add(node)

    for node in needs:
        visit(node, ())
