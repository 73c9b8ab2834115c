"""What training and evaluation would refuse later, refused before anything is planned."""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Self

from subnetworks.core.errors import UserError
from subnetworks.evaluation import rows
from subnetworks.experiment import Experiment, sizes
from subnetworks.experiment.models import Benchmark, LocalData, Machine, Mixture
from subnetworks.measuring import mask_sources
from subnetworks.training.data import files
from subnetworks.training.data.sources import RejectionSettings
from subnetworks.training.settings import (
    REWARDS,
    OfflineSettings,
    OnlineSettings,
    PreferenceSettings,
    Settings,
    check_devices,
)

# What an algorithm of each kind trains on.
NEEDS = {"sft": "conversations", "online": "problems", "preference": "preferences"}
_MADE = {
    "demonstrations": "conversations",
    "foreign_demonstrations": "conversations",
    "problems": "problems",
    "preferences": "preferences",
    "foreign_preferences": "preferences",
}


@dataclass(frozen=True)
class Modules:
    """Where a training finds Python modules: folders, first to last, and packages by name that an
    environment will have which is not built yet (or is conda's)."""

    folders: Sequence[Path]
    packages: Sequence[str] = ()

    @classmethod
    def of(cls, root: Path, environment: Path, lock: Path) -> Self:
        """Those of a checkout whose training environment is that folder, made of that lock."""
        own, installed = [Path.cwd(), root / "src"], sorted(environment.glob("lib/*/site-packages"))
        if installed:
            return cls([*own, *installed])
        lines = lock.read_text(encoding="utf-8").splitlines() if lock.exists() else []
        return cls(own, [line.partition("==")[0] for line in lines if "==" in line])


def check(experiment: Experiment, machine: Machine, modules: Modules) -> None:
    """Check all that can be known before anything is made.

    Args:
        experiment: with its controls.
        machine: the one that trains and serves.
        modules: where the module of a reward may be.

    Raises:
        UserError: values that contradict each other, data of the wrong kind, devices that do not
            divide a batch, a mask of another init, a reward or rows that are not there; one line
            that names file, line and key.
    """
    for name, data in experiment.models["datasets"].items():
        if isinstance(data, RejectionSettings):
            source = experiment.datasets[name]["sample"]
            _check_kind(experiment, ("datasets", name, "sample"), source, "problems", "sampling")
            _check_reward(experiment, ("datasets", name, "reward"), data.reward, modules)
        if isinstance(data, LocalData):
            try:
                files.located(data.path)
            except UserError as error:
                raise experiment.error(("datasets", name, "path"), str(error)) from None
        if isinstance(data, Mixture):
            needed = _gives(experiment, name)
            for part in data.mix:
                place = ("datasets", name, "mix", part)
                _check_kind(experiment, place, part, needed, "a mixture that begins with them")
    for name, run in experiment.models["runs"].items():
        _check_run(experiment, name, run, machine, modules)
    for name in experiment.masks:
        _check_mask(experiment, name)
    for name, benchmark in experiment.models["benchmarks"].items():
        _check_benchmark(experiment, name, benchmark)


def _check_mask(experiment: Experiment, name: str) -> None:
    """The run whose gradients a mask is made of has as many, and of its weights."""
    made = mask_sources.parse(experiment.masks[name])
    if not made.run or made.batches is None:
        return
    place, run = ("masks", name, made.source), experiment.runs[made.run]
    if run.get("lora_rank"):
        raise experiment.error(
            (*place, "run"),
            f"{made.run!r} trains adapters (lora_rank {run['lora_rank']}): gradients are measured "
            "of the weights; use a run without",
        )
    most = run.get("steps", made.batches) * run.get("updates_per_step", 1)
    if made.batches > most:
        raise experiment.error(
            (*place, "batches"),
            f"must be at most the updates of {made.run!r} ({most}), got {made.batches}",
        )


def _check_run(
    experiment: Experiment,
    name: str,
    run: Settings,
    machine: Machine,
    modules: Modules,
) -> None:
    place, entry = ("runs", name), experiment.runs[name]
    _check_kind(experiment, (*place, "data"), entry["data"], NEEDS[run.kind], run.algorithm)
    at_most = sizes.rows(experiment, entry["data"])
    if isinstance(run, PreferenceSettings) and run.answers == 1 and at_most is not None:
        at_most *= 2  # each pair is two answers
    if at_most is not None and run.batch_size > at_most:
        raise experiment.error(
            place,
            f"batch_size ({run.batch_size}) exceeds what the data set {entry['data']!r} has "
            f"({at_most}); make more rows or lower it",
            "batch_size",
        )
    if run.validate_every and not _holds_out(experiment, entry["data"]):
        raise experiment.error(
            (*place, "validate_every"),
            f"the data set {entry['data']!r} holds no rows out: give it validation, or leave "
            "validate_every out",
        )
    try:
        check_devices(run, machine)
    except UserError as error:
        text = str(error).removeprefix("settings: ")
        raise experiment.error(place, text, "batch_size") from None
    if "mask" in entry:
        base = _base(experiment, entry["mask"])
        if base is not None and _surely_differ(experiment, base, entry["init"]):
            raise experiment.error(
                (*place, "mask"),
                f"the mask {entry['mask']!r} is drawn on {base!r}, but the run starts from "
                f"{entry['init']!r}: use a mask made for this init",
            )
        if run.lora_rank:
            raise experiment.error((*place, "lora_rank"), "lora_rank and a mask exclude each other")
    if run.verl:
        _check_verl(experiment, place, run, machine)
    longest = 0
    if isinstance(run, OfflineSettings):
        longest, keys = run.max_length, "max_length"
    if isinstance(run, OnlineSettings):
        longest, keys = run.longest_sequence, "max_prompt_length and max_response_length"
        _check_reward(experiment, (*place, "reward"), run.reward, modules)
    context = _context(experiment, entry["init"])
    if context and longest > context:
        raise experiment.error(
            place, f"{keys} ({longest}) exceed the context of the init ({context} tokens); lower it"
        )


def _check_verl(
    experiment: Experiment, place: tuple[str, str], run: Settings, machine: Machine
) -> None:
    """No further option of verl contradicts what the run sets itself."""
    from subnetworks.training.runtime import online, preference, sft, verl_options
    from subnetworks.training.runtime.job import Job

    here = Path()
    settings = run.model_copy(update={"steps": run.steps or 1})
    job = Job(settings, machine, here, here, None, here, here, here, 0, {})
    trainers = {"sft": sft, "online": online, "preference": preference}
    try:
        verl_options.with_further(trainers[run.kind].options(job), run.verl)
    except UserError as error:
        text = str(error).removeprefix("settings: ")
        raise experiment.error(place, text, "verl") from None


def _check_kind(
    experiment: Experiment, place: tuple[str, ...], data: str, needed: str, whose: str
) -> None:
    gives = _gives(experiment, data)
    if gives != needed:
        fit = [name for name in experiment.datasets if _gives(experiment, name) == needed]
        raise experiment.error(
            place,
            f"{data!r} has {gives}, but {whose} needs {needed}; there are: "
            f"{', '.join(fit) or 'none'}",
        )


def _gives(experiment: Experiment, data: str) -> str:
    """What a data set has: conversations, problems or preferences."""
    entry = experiment.datasets[data]
    if "mix" in entry:
        return _gives(experiment, next(iter(entry["mix"])))
    return str(entry.get("gives") or _MADE.get(entry.get("make", ""), "conversations"))


def _holds_out(experiment: Experiment, data: str) -> bool:
    """Whether a data set, or a part of a mixture, has rows that are not trained on."""
    entry = experiment.datasets[data]
    return bool(entry.get("validation")) or any(
        _holds_out(experiment, part) for part in entry.get("mix", ())
    )


def _base(experiment: Experiment, mask: str) -> str | None:
    """The checkpoint that a mask names as its base; None if it names none."""
    if mask in experiment.updates:
        return str(experiment.updates[mask]["before"])
    made = mask_sources.parse(experiment.masks[mask])
    if base := experiment.drawn_on(made):
        return base
    bases = {_base(experiment, source) for source in made.masks}
    return bases.pop() if len(bases) == 1 else None


def _surely_differ(experiment: Experiment, one: str, other: str) -> bool:
    """Whether two checkpoints have different weights; what is fetched may equal anything."""
    if one == other:
        return False
    made = []
    for name in (one, other):
        run, given = experiment.runs.get(name), experiment.checkpoints.get(name, {})
        if run is None and "make" not in given:
            return False
        made.append(run if run is not None else given)
    return bool(made[0] != made[1])


def _context(experiment: Experiment, name: str) -> int | None:
    """Tokens of the longest text that a checkpoint reads, where its configuration is here."""
    path = experiment.checkpoints[experiment.start_of(name)].get("path")
    if path is None:
        return None
    try:
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        found = config.get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def _check_benchmark(experiment: Experiment, name: str, benchmark: Benchmark) -> None:
    """Local rows are there; made rows have the examples that a prompt shows."""
    place, task = ("benchmarks", name), benchmark.definition
    if benchmark.made:
        if benchmark.shots and benchmark.make != "mmlu_pro":
            raise experiment.error(
                place, f"rows of make: {benchmark.make} have no examples; set shots: 0", "shots"
            )
        _check_made_rows(experiment, place, benchmark)
    elif benchmark.data is not None:
        try:
            rows.locate(benchmark.data, task, benchmark.shots, "")
        except UserError as error:
            raise experiment.error(place, str(error).removeprefix(": "), "data") from None


def _check_made_rows(experiment: Experiment, place: tuple[str, str], benchmark: Benchmark) -> None:
    """There are as many held-out sums as are asked for."""
    from subnetworks.mini import arithmetic
    from subnetworks.mini.benchmarks import VALIDATION_ROWS
    from subnetworks.mini.settings import BenchmarkSettings

    there = len(arithmetic.problems("+", held_out=True))
    if benchmark.make == "mmlu_pro":
        there -= VALIDATION_ROWS
        if benchmark.shots > VALIDATION_ROWS:
            raise experiment.error(
                place, f"shots: must be at most {VALIDATION_ROWS}, got {benchmark.shots}", "shots"
            )
    asked = benchmark.rows or BenchmarkSettings.model_fields["rows"].default
    if asked > there:
        raise experiment.error(
            place, f"rows: must be at most {there} (held-out sums), got {asked}", "rows"
        )


def _check_reward(
    experiment: Experiment,
    place: tuple[str, ...],
    reward: str | Mapping[str, float],
    modules: Modules,
) -> None:
    """The functions of a reward are there; their modules are read, and never run."""
    for part in [reward] if isinstance(reward, str) else reward:
        if part not in REWARDS:
            _check_function(experiment, place, part, modules)


def _check_function(
    experiment: Experiment, place: tuple[str, ...], reward: str, modules: Modules
) -> None:
    module, _, function = reward.partition(":")
    folders = [str(folder) for folder in modules.folders]
    package, *inside = module.split(".")
    spec = PathFinder.find_spec(package, folders)
    if spec is None:
        if _normal(package) not in {_normal(name) for name in modules.packages}:
            raise experiment.error(
                place,
                f"there is no module {package!r} for {reward!r}; put its file beside the "
                "Snakefile, or name a function of a module that the training environment has",
            )
        return
    for part in inside:
        found = PathFinder.find_spec(part, list(spec.submodule_search_locations or ()))
        if found is None:
            raise experiment.error(place, f"there is no module {module!r} for {reward!r}")
        spec = found
    if spec.origin and spec.origin.endswith(".py") and not _may_have(Path(spec.origin), function):
        raise experiment.error(place, f"the module {module!r} has no function {function!r}")


def _may_have(file: Path, function: str) -> bool:
    """Whether a module binds a name, as far as reading it tells."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(name in (function, "*", "__getattr__") for name in _bound(tree))


def _bound(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
