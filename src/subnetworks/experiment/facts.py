"""What an experiment says of a thing that a table or figure shows, so that their rows need not."""

from collections.abc import Mapping
from typing import Any

from subnetworks.experiment import Experiment
from subnetworks.training.algorithms import ALGORITHMS

PLACEBO = "Placebo"
"""What a run on random rewards is called."""
_TRAINED = ("learning_rate", "batch_size", "steps", "updates_per_step")


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
