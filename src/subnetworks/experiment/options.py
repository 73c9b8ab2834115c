"""What each job is given: the options and settings that the experiment gives its command."""

import shlex
from collections.abc import Mapping
from typing import Any

from subnetworks.core.files import canonical_json
from subnetworks.experiment import Experiment
from subnetworks.experiment.facts import has_null_model
from subnetworks.measuring import mask_sources

# Keys of a benchmark that say how its rows are made; the others say how they are asked.
_MADE_KEYS = ("rows", "seed")


def settings(entry: Mapping[str, Any], *without: str) -> str:
    """An entry's settings as canonical JSON, so that the order of keys reruns nothing."""
    return canonical_json({key: value for key, value in entry.items() if key not in without})


def trust(entry: Mapping[str, Any]) -> str:
    """The option that lets a checkpoint's own code run, if the experiment says so."""
    return "--trust-remote-code" if entry.get("trust_remote_code") else ""


def of_checkpoint(experiment: Experiment, name: str, folder: str) -> str:
    """How it is fetched: whether its own code may run, whether it is loaded, and its base.

    `folder` is that of the experiment's results.
    """
    entry = experiment.checkpoints[name]
    found = [trust(entry)] if trust(entry) else []
    found += ["--loadable"] if experiment.is_loaded(name) else []
    found += [f"--base {folder}/checkpoints/{entry['base']}"] if "base" in entry else []
    return " ".join(found)


def of_run(experiment: Experiment, name: str) -> str:
    """A run's settings, without what its job reads as files."""
    return settings(experiment.runs[name], "init", "data", "mask")


_ANCHOR_EVERY = 10
"""Steps between whole copies, as TRL has it by default."""


def of_synchronisation(experiment: Experiment, run: str) -> str:
    """How often a whole copy is sent; the run's settings where the null model is one of it."""
    found = f"--anchor-every {_ANCHOR_EVERY}"
    entry = experiment.runs[run]
    if "mask" in entry or not has_null_model(entry):
        return found
    return f"{found} --settings {shlex.quote(of_run(experiment, run))}"


def of_update(update: Mapping[str, Any], *keys: str) -> str:
    """How much of an update is measured, and in what and at which tolerances, for those `keys`."""
    options = [
        f"--{key.replace('_', '-')}" for key in ("common_rows", "allow_partial") if update.get(key)
    ]
    options += [
        f"--{key} {update[key] if key == 'cast' else ','.join(update[key])}"
        for key in keys
        if key in update
    ]
    return " ".join(options)


def of_mask(experiment: Experiment, name: str, files: Mapping[str, Any]) -> str:
    """The source of a mask, and what it is made of, as the command line takes them.

    Args:
        files: where what `inputs.of_mask` names lies.
    """
    made = mask_sources.parse(experiment.masks[name])
    return made.command(files, experiment.runs[made.run] if made.run else {})


def of_ranking(experiment: Experiment, overlap: str, files: Mapping[str, Any]) -> str:
    """The source whose scores are judged, with what it reads, as the command line takes them.

    Args:
        files: where what `inputs.of_ranking` names lies.

    Raises:
        UserError: the second mask of the overlap is made of no scores.
    """
    name = experiment.overlaps[overlap]["masks"][1]
    if name in experiment.masks:
        made = mask_sources.parse(experiment.masks[name])
        if hasattr(mask_sources.load(made.source), "scores"):
            return made.judged(files, experiment.runs[made.run] if made.run else {})
    raise experiment.error(("overlaps", overlap), f"the mask {name!r} is made of no scores")


def of_mixture(entry: Mapping[str, Any]) -> str:
    """The settings of a mixture."""
    rest = {key: value for key, value in entry.items() if key != "mix"}
    return canonical_json({"weights": entry["mix"], **rest})


def of_made_rows(entry: Mapping[str, Any]) -> str:
    """How the rows of a benchmark are made."""
    return canonical_json({key: value for key, value in entry.items() if key in _MADE_KEYS})


def of_benchmark(experiment: Experiment, name: str, results: str) -> dict[str, Any]:
    """How a benchmark is asked, with the folder of its rows within `results` if they are made."""
    entry = dict(experiment.benchmarks[name])
    if "make" in entry:
        entry = {key: value for key, value in entry.items() if key not in ("make", *_MADE_KEYS)}
        entry["data"] = f"{results}/benchmarks/{name}"
    return entry


def of_evaluation(experiment: Experiment, checkpoint: str, results: str) -> str:
    """Settings by benchmark of a checkpoint's evaluation."""
    benchmarks = experiment.evaluation[checkpoint]["benchmarks"]
    return canonical_json({name: of_benchmark(experiment, name, results) for name in benchmarks})
