"""What each job reads: results of others, relative to the folder of the experiment's results."""

import glob
from pathlib import Path

from subnetworks.experiment import Experiment
from subnetworks.experiment.facts import has_null_model
from subnetworks.measuring import mask_sources

Files = dict[str, str | list[str]]
"""By what a job calls them; what it does not need is an empty list."""


def checkpoint(name: str) -> str:
    """The file that says a checkpoint is complete."""
    return f"checkpoints/{name}/manifest.json"


def base(experiment: Experiment, name: str) -> Files:
    """The checkpoint that an adapter is merged into."""
    entry = experiment.checkpoints[name]
    return {"base": checkpoint(entry["base"]) if "base" in entry else []}


def files_behind(path: str) -> list[str]:
    """The user's files behind a `path` or `data` (a file, a folder, a pattern), hidden ones left
    out: unlike their folder, they show that one was overwritten in place. What is not there is
    given as it is."""
    root = Path(path)
    found = [
        str(file)
        for file in root.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)
    ]
    return sorted(found or ([] if root.exists() else glob.glob(path))) or [path]


def own_rows(experiment: Experiment, checkpoint: str) -> list[str]:
    """The user's files of rows that a checkpoint is evaluated on."""
    asked = (experiment.benchmarks[one] for one in experiment.evaluation[checkpoint]["benchmarks"])
    return [file for one in asked if "data" in one for file in files_behind(one["data"])]


def dataset(name: str) -> str:
    """The file that says a data set is complete."""
    return f"data/{name}/manifest.json"


def trajectory(run: str) -> str:
    """The file that says which steps of a run were kept."""
    return f"runs/{run}/trajectory/manifest.json"


def gradients(run: str, batches: int) -> str:
    """The gradients of a run's first batches at its init."""
    return f"gradients/{run}/{batches}.safetensors"


def mask(name: str) -> str:
    """A mask."""
    return f"masks/{name}.safetensors"


def of_dataset(experiment: Experiment, name: str) -> Files:
    """The problems that are sampled, and the checkpoint that is."""
    entry = experiment.datasets[name]
    return {
        "policy": checkpoint(entry["policy"]) if "policy" in entry else [],
        "problems": dataset(entry["sample"]) if "sample" in entry else [],
    }


def of_mixture(experiment: Experiment, name: str) -> Files:
    """The data sets that are mixed."""
    return {"parts": [dataset(part) for part in sorted(experiment.datasets[name]["mix"])]}


def of_run(experiment: Experiment, name: str) -> Files:
    """What a run starts from, its data, and the mask it trains within, if it has one."""
    run = experiment.runs[name]
    return {
        "init": checkpoint(run["init"]),
        "data": dataset(run["data"]),
        "mask": mask(run["mask"]) if "mask" in run else [],
    }


def of_prediction(experiment: Experiment, name: str) -> Files:
    """What is known before a run is made: its init, its mask, its data if it counts in epochs."""
    read = of_run(experiment, name)
    return {**read, "data": read["data"] if "epochs" in experiment.runs[name] else []}


def of_gradients(experiment: Experiment, run: str) -> Files:
    """What a run starts from, and its data."""
    return {**of_run(experiment, run), "mask": []}


def of_trajectory(experiment: Experiment, run: str) -> Files:
    """A run's kept steps, and what they are compared with."""
    return {"init": checkpoint(experiment.runs[run]["init"]), "trajectory": trajectory(run)}


def of_synchronisation(experiment: Experiment, run: str) -> Files:
    """A run's kept steps and its init, and its data if it counts in epochs."""
    return {"data": of_prediction(experiment, run)["data"], **of_trajectory(experiment, run)}


def of_update(experiment: Experiment, name: str) -> Files:
    """Both ends of an update."""
    update = experiment.updates[name]
    return {side: checkpoint(update[side]) for side in ("before", "after")}


def of_mask(experiment: Experiment, name: str) -> Files:
    """What a derived mask is made of: masks, a checkpoint, or a run's trajectory."""
    made = mask_sources.parse(experiment.masks[name])
    init = experiment.runs[made.run]["init"] if made.run and "init" in made.reads else None
    return {
        "sources": [mask(source) for source in made.masks],
        "checkpoint": checkpoint(made.checkpoint) if made.checkpoint else [],
        "trajectory": trajectory(made.run) if made.run and "trajectory" in made.reads else [],
        "gradients": gradients(made.run, made.batches) if made.run and made.batches else [],
        "init": checkpoint(init) if init else [],
    }


def of_overlap(experiment: Experiment, name: str) -> Files:
    """Two masks, and the weights they are drawn on (for chance matched by magnitude)."""
    first, second = experiment.overlaps[name]["masks"]
    weights = checkpoint(experiment.before_of_mask(first))
    return {"first": mask(first), "second": mask(second), "weights": weights}


def of_ranking(experiment: Experiment, overlap: str) -> Files:
    """The mask that is to be foreseen, and what the other one's scores are made of."""
    first, second = experiment.overlaps[overlap]["masks"]
    made = of_mask(experiment, second) if second in experiment.masks else {}
    return {**made, "sources": [], "mask": mask(first)}


def of_evaluation(experiment: Experiment, name: str) -> Files:
    """A checkpoint, and the rows of its benchmarks as far as they are made here."""
    benchmarks = experiment.evaluation[name]["benchmarks"]
    made = [one for one in benchmarks if "make" in experiment.benchmarks[one]]
    rows = [f"benchmarks/{one}/manifest.json" for one in made]
    return {"checkpoint": checkpoint(name), "rows": rows}


def measured(experiment: Experiment, *, controls: bool = False) -> list[str]:
    """All measurements and scores that the experiment asks for, or its controls alone do."""
    patterns = {
        "updates": "updates/{}.json",
        "overlaps": "overlaps/{}.json",
        "evaluation": "evaluation/{}/scores.json",
    }
    predicted = [
        f"predictions/{name}.json"
        for name in experiment.named("runs", controls=controls)
        if has_null_model(experiment.runs[name])
    ]
    return predicted + [
        pattern.format(name)
        for section, pattern in patterns.items()
        for name in experiment.named(section, controls=controls)
    ]
