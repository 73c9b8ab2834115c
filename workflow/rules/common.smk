"""The configuration, the experiment, and the resources that the stages share."""

import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))

from subnetworks import experiment as experiments
from subnetworks.artefacts import code
from subnetworks.artefacts.asking import asked
from subnetworks.artefacts.published import Published
from subnetworks.core.errors import UserError
from subnetworks.experiment import checks, inputs, options
from subnetworks.core.files import canonical_json, sha256, write_changed
from subnetworks.checkpoints.hub import locks
from subnetworks.measuring import mask_sources

# Snakemake itself hands this path to a shell, unquoted, when it starts a job in a process of its own.
if unsafe := re.search(r"[^\w/.,:@%+=~ -]", str(ROOT)):
    raise WorkflowError(
        f"{str(ROOT)!r}: a shell would read {unsafe.group()!r} in the path of this checkout; move it"
    )

RESULTS = f"results/{config['experiment']}"
try:
    CONFIGURATION = experiments.configuration(
        {key: value for key, value in config.items() if key != "pathvars"}, ROOT / "config.yaml"
    )
    EXPERIMENT = experiments.load(
        ROOT / "experiments" / f"{CONFIGURATION.experiment}.yaml", CONFIGURATION.local
    )
    ASKED = asked(EXPERIMENT)
    # What the Hub gave when it was first asked; fetching adds what is new.
    LOCK = EXPERIMENT.source.with_suffix(".lock")
    LOCKED = locks.read(LOCK)
    # What is wrong should not be found out after a week of training.
    _TRAINING = f"train-{CONFIGURATION.machine.kind}"
    checks.check(
        EXPERIMENT,
        CONFIGURATION.machine,
        checks.Modules.of(
            ROOT,
            Path(config["environments"]) / _TRAINING,
            ROOT / "envs" / "locks" / f"{_TRAINING}.txt",
        ),
    )
except UserError as error:
    raise WorkflowError(str(error)) from None

ACCELERATOR = config["accelerators"][config["accelerator"]]


def growing(amount):
    """A resource of which each further attempt gets half as much again.

    For jobs that a cluster killed for want of memory or time (profiles/slurm has the retries).
    `amount` is a number or a function of the wildcards.
    """

    def resource(wildcards, attempt):
        first = amount(wildcards) if callable(amount) else amount
        return int(first * (attempt + 1) / 2)

    return resource


# What a job takes, behind its message: a dry run of a large experiment says what to expect.
_NEEDS = " [{threads} cores, {resources.mem_mb} MB, {resources.runtime} min"
NEEDS = f"{_NEEDS}]"
NEEDS_GPUS = f"{_NEEDS}, {ACCELERATOR['devices']} GPUs]" if ACCELERATOR["kind"] == "cuda" else NEEDS


def gpus_and_nodes():
    """Resources of a training: GPUs, and if it spans several nodes what makes one job of them.

    `mpi` lets the SLURM executor know that the job starts its own tasks on the nodes.
    """
    gpus = ACCELERATOR["devices"] if ACCELERATOR["kind"] == "cuda" else 0
    nodes = ACCELERATOR.get("nodes", 1)
    if nodes == 1:
        return {"gpu": gpus}
    each = {"gres": f"gpu:{gpus}"} if gpus else {}
    return {"nodes": nodes, "tasks": nodes, "mpi": "srun", **each}


# What training reads of the machine, and what evaluation reads: neither reruns the other.
ACCELERATOR_JSON = options.settings(ACCELERATOR, "evaluation", "hours", "speed")
EVALUATION_JSON = canonical_json(
    {
        key: ACCELERATOR[key]
        for key in ("kind", "devices", "threads", "bfloat16")
        if key in ACCELERATOR
    }
    | ACCELERATOR.get("evaluation", {})
)


def names(*sections):
    """A wildcard constraint that matches exactly the given names."""
    return "|".join(sorted({name for section in sections for name in section})) or "(?!)"


def within_results(files):
    """Results, given by their paths within the experiment's folder."""
    match files:
        case str():
            return f"<results>/{files}"
        case dict():
            return {key: within_results(value) for key, value in files.items()}
    return [within_results(file) for file in files]


def reads(of, wildcard):
    """Input function: what `of` (see `inputs`) says that a job for this wildcard reads."""
    return lambda wildcards: within_results(of(EXPERIMENT, getattr(wildcards, wildcard)))


def noted(section, name):
    """What the lock says of a source of the Hub, as a file: another entry reruns its fetching."""
    note = Path(".snakemake", "locked", EXPERIMENT.name, f"{section}.{name}")
    locks.note(note, LOCKED.get(EXPERIMENT.hub_source(section, name).key))
    return str(note)


def wanted(controls=False):
    """All results that the experiment asks for, or its controls alone do."""
    shown = [
        path
        for wish in ASKED.values()
        if wish.spec
        and wish.artefact.name in EXPERIMENT.named(wish.artefact.kind, controls=controls)
        for path in wish.files.values()
    ]
    return within_results([*inputs.measured(EXPERIMENT, controls=controls), *shown])


wildcard_constraints:
    run=names(EXPERIMENT.runs),
    batches="[0-9]+",
    change=names(EXPERIMENT.updates),  # `update` itself is reserved by Snakemake
    mask=names(EXPERIMENT.masks),
    overlap=names(EXPERIMENT.overlaps),
    dataset=names(EXPERIMENT.datasets),
    benchmark=names(EXPERIMENT.benchmarks),
    checkpoint=names(EXPERIMENT.checkpoints, EXPERIMENT.runs),
