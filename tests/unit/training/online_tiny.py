"""On-policy runs of the tiny model in one folder, and what they leave there; not a test."""

import csv
import json
import shutil

from tiny import make_init, make_problems, saved_weights

from subnetworks.training.runtime.run import train


def make(folder):
    """The folder's `init` and `data`."""
    make_init(folder / "init", hidden_size=64)  # vLLM wants heads of 32
    make_problems(folder / "data")
    return folder


def run(folder, name, settings, mask=None, **accelerator):
    """Train in the folder `name`; the end is in `{name}_end`."""
    train(
        settings,
        init=folder / "init",
        data=folder / "data",
        output=folder / f"{name}_end",
        run_folder=folder / name,
        mask=mask,
        accelerator=accelerator,
        keep_state=True,
    )


def run_again(folder, name, settings, mask=None, **accelerator):
    """Train `name` once more as `resumed`, from its last save but one; the step that it is of."""
    shutil.copytree(folder / name, folder / "resumed")
    shutil.rmtree(_saved(folder, "resumed", settings["steps"]))
    run(folder, "resumed", settings, mask, **accelerator)
    return json.loads((folder / "resumed/log.csv.meta.json").read_text())["resumed_from_step"]


def log(folder, name):
    """A run's table, but for the seconds."""
    with (folder / name / "log.csv").open(newline="") as handle:
        return [
            {key: value for key, value in row.items() if "seconds" not in key}
            for row in csv.DictReader(handle)
        ]


def weights(folder, name, step, model="actor"):
    """The fp32 weights of a model after a saved step."""
    return saved_weights(_saved(folder, name, step) / model)


def _saved(folder, name, step):
    return folder / name / "state" / f"global_step_{step}"
