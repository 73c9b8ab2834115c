"""How large checkpoints are and how long runs: what is known of both before anything is made."""

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from subnetworks.checkpoints import reading
from subnetworks.core.errors import UserError
from subnetworks.experiment import Experiment
from subnetworks.experiment.models import Size
from subnetworks.mini import settings as mini
from subnetworks.training.data.sources import RejectionSettings
from subnetworks.training.settings import PreferenceSettings, in_steps


def of_checkpoint(experiment: Experiment, name: str) -> Size | None:
    """A checkpoint's size: as its entry says, or by its files where they are here; else None.

    A run's end has that of its init, an adapter that of its base.
    """
    entry = experiment.checkpoints[experiment.start_of(name)]
    if "size" in entry:
        return Size.model_validate(entry["size"])
    if "base" in entry:
        return of_checkpoint(experiment, entry["base"])
    if "make" in entry:
        made: Any = experiment.models["checkpoints"][experiment.start_of(name)]
        return Size(
            weights=made.weights,
            layers=made.layers,
            width=made.width,
            vocabulary=mini.VOCABULARY,
        )
    return _of_folder(Path(entry["path"])) if "path" in entry else None


def _of_folder(folder: Path) -> Size | None:
    """What a checkpoint's files say, None where they do not say all of it."""
    try:
        with reading.open(folder) as found:
            return Size(
                weights=sum(math.prod(tensor.shape) for tensor in found.tensors.values()),
                layers=found.config["num_hidden_layers"],
                width=found.config["hidden_size"],
                vocabulary=found.config["vocab_size"],
            )
    except (OSError, UserError, KeyError, ValueError):
        return None


def rows(experiment: Experiment, data: str) -> int | None:
    """The rows of a data set at most, None where nothing bounds them."""
    settings: Any = experiment.models["datasets"][data]
    if isinstance(settings, RejectionSettings):
        asked = settings.problems or rows(experiment, experiment.datasets[data]["sample"])
        each = min(settings.samples, settings.answers_per_problem or settings.samples)
        return asked and asked * each
    if settings.rows is None and "mix" in experiment.datasets[data]:
        return _mixed(experiment, settings.mix)
    held = getattr(settings, "validation", None) or 0
    return settings.rows - held if isinstance(settings.rows, int) else None


def _mixed(experiment: Experiment, weights: Mapping[str, float]) -> int | None:
    """As many rows as a mixture of these proportions can have."""
    exact = {part: Fraction(str(weight)) for part, weight in weights.items()}
    bounds = []
    for part, weight in exact.items():
        there = rows(experiment, part)
        if there is None:
            return None
        bounds.append(int(there * sum(exact.values()) / weight))
    return min(bounds)


def steps(experiment: Experiment, name: str) -> int | None:
    """The steps of a run at most, None where the rows that its epochs are of are not known."""
    run: Any = experiment.models["runs"][name]
    if run.steps is not None:
        return int(run.steps)
    there = rows(experiment, experiment.runs[name]["data"])
    if there is None:
        return None
    if isinstance(run, PreferenceSettings):
        there *= 2 // run.answers  # a pair may be two single answers
    return int(in_steps({"epochs": run.epochs, "batch_size": run.batch_size}, there)["steps"])
