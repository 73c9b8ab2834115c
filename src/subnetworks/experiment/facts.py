"""What an experiment says of a thing that a table or figure shows, so that their rows need not."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from subnetworks.core.files import canonical_json
from subnetworks.experiment import Experiment
from subnetworks.measuring import mask_sources
from subnetworks.training.algorithms import ALGORITHMS

PLACEBO = "Placebo"
"""What a run on random rewards is called."""
_TRAINED = ("learning_rate", "batch_size", "steps", "updates_per_step", "schedule", "lora_rank")


def facts_of(experiment: Experiment, section: str, name: str) -> Mapping[str, Any]:
    """Of a run how it was trained, of an agreement what it is read from; else nothing.

    Args:
        experiment: whose things they are.
        section: where the experiment has it: `agreements`, `updates`, or a run's or checkpoint's.
        name: of the thing.
    """
    if section == "agreements":
        return _agreement(experiment, name)
    run = run_of(experiment, name) if section == "updates" else name
    return _run(experiment, experiment.runs[run]) if run in experiment.runs else {}


def has_null_model(run: Mapping[str, Any]) -> bool:
    """Whether the null model is one of a run: of weights, not adapters, with float32 masters."""
    return not run.get("lora_rank") and run.get("master_weights", "float32") == "float32"


def run_of(experiment: Experiment, update: str) -> str | None:
    """The run whose update it is, from its init to its end, however it is measured."""
    entry = experiment.updates[update]
    run = experiment.runs.get(entry["after"])
    return str(entry["after"]) if run and run["init"] == entry["before"] else None


def _run(experiment: Experiment, run: Mapping[str, Any]) -> dict[str, Any]:
    kind = ALGORITHMS[run["algorithm"]]
    online = kind.kind == "online"
    return {
        "algorithm": _called(experiment, run),
        "online": online,
        "on_policy": online,
        "kl": kind.needs_reference or run.get("kl", "none") != "none",
        **{key: run[key] for key in _TRAINED if key in run},
    }


def _called(experiment: Experiment, run: Mapping[str, Any]) -> str:
    """The algorithm as tables call it; SFT on answers sampled here is rejection sampling."""
    if run.get("reward") == "random":
        return PLACEBO
    if run["algorithm"] == "sft":
        return "RFT" if "sample" in experiment.datasets[run["data"]] else "SFT"
    return ALGORITHMS[run["algorithm"]].title or str(run["algorithm"]).upper()


def _agreement(experiment: Experiment, name: str) -> dict[str, Any]:
    """The updates and the overlap that an agreement implies, and its algorithm."""
    agreement = experiment.agreements[name]
    full = experiment.runs.get(agreement["full"])
    return {
        "update": f"{name}_agreement",
        "within": f"{name}_within",
        "baselines": {
            label: f"{name}_agreement_{label}" for label in agreement.get("baselines", {})
        },
        **({"algorithm": _called(experiment, full)} if full else {}),
    }


def seeds_of(experiment: Experiment, things: Iterable[tuple[str, str]]) -> tuple[int | None, bool]:
    """On how many seeds things rest, and whether any of them compares seeds with each other.

    Runs that are the same but for their seed count as one training, however the experiment came by
    them.

    Args:
        experiment: whose things they are.
        things: section and name of each.

    Returns:
        The seeds of the training that has fewest, None where nothing was trained.
    """
    seeds: dict[str, set[int]] = {}
    turned = experiment.replicates.turned.get("updates", {})
    in_pairs = False
    for section, name in things:
        runs = set(_trainings(experiment, section, name))
        in_pairs |= any(runs & {*turned.get(run, ())} - {run} for run in runs)
        for run in runs:
            alike = seeds.setdefault(_alike(experiment, run), set())
            alike |= {experiment.runs[one].get("seed", 0) for one in turned.get(run, (run,))}
    return min(map(len, seeds.values()), default=None), in_pairs


def _alike(experiment: Experiment, run: str) -> str:
    """What a run and its replicates have in common."""
    first = min(experiment.replicates.turned.get("updates", {}).get(run, (run,)))
    return canonical_json({k: v for k, v in experiment.runs[first].items() if k != "seed"})


def _trainings(experiment: Experiment, section: str, name: str) -> Iterator[str]:
    """The runs that a thing tells of; what they start from is not among them."""
    if section == "agreements":
        return  # it is about the updates and the overlap that it implies
    if section == "overlaps":
        for mask in experiment.overlaps.get(name, {}).get("masks", ()):
            yield from _trainings(experiment, "masks", mask)
    elif section == "masks" and name in experiment.masks:
        made = mask_sources.parse(experiment.masks[name])
        yield from [made.run] if made.run else []
        for source in made.masks:
            yield from _trainings(experiment, "masks", source)
    elif section in ("updates", "masks") and name in experiment.updates:
        before, after = (experiment.updates[name][side] for side in ("before", "after"))
        start = experiment.runs.get(after, {}).get("init")
        yield from (end for end in (before, after) if end in experiment.runs and end != start)
    elif name in experiment.runs and not _is_start(experiment, name):
        yield name


def _is_start(experiment: Experiment, run: str) -> bool:
    return any(other["init"] == run for other in experiment.runs.values())
