"""The experiment, the machine, and every function that the stages share."""

import ast
import functools
import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import DeploymentMethod

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))

from subnetworks import experiment as experiments
from subnetworks.errors import UserError
from subnetworks.evaluation.settings import parse as parse_benchmark
from subnetworks.files import canonical_json, sha256
from subnetworks.hub import locks
from subnetworks.training import trajectory

# Snakemake itself hands this path to a shell, unquoted, when it starts a job in a process of its own.
if unsafe := re.search(r"[^\w/.,:@%+=~ -]", str(ROOT)):
    raise WorkflowError(
        f"{str(ROOT)!r}: a shell would read {unsafe.group()!r} in the path of this checkout; move it"
    )

SCHEMAS = ROOT / "workflow" / "schemas"
try:
    experiments.validate(
        {key: value for key, value in config.items() if key != "pathvars"},
        experiments.read_yaml(SCHEMAS / "config.schema.yaml"),
        "config.yaml",
    )
    if config["accelerator"] not in config["accelerators"]:
        raise UserError(
            f"config.yaml: accelerator: no entry {config['accelerator']!r} in accelerators; "
            f"there are: {', '.join(config['accelerators'])}"
        )
    EXPERIMENT = experiments.load(
        ROOT / "experiments" / f"{config['experiment']}.yaml",
        SCHEMAS / "experiment.schema.yaml",
    )
    # What the Hub gave when it was first asked; fetching adds what is new.
    LOCK = EXPERIMENT.source.with_suffix(".lock")
    LOCKED = locks.read(LOCK)
except UserError as error:
    raise WorkflowError(str(error)) from None

ACCELERATOR = config["accelerators"][config["accelerator"]]
CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
# Stages whose packages differ between accelerators.
ACCELERATED = ("train", "evaluate")


def environment_name(stage):
    """The name of a stage's environment, as in envs/: `train` on a CPU is `train-cpu`."""
    return f"{stage}-{ACCELERATOR['kind']}" if stage in ACCELERATED else stage


def environment(stage):
    """The extra inputs of a rule that runs in `stage`'s environment; none under conda.

    Changed pins rerun the rule; building the same environment again does not. The marker carries the
    pins' digest instead of depending on them: Snakemake leaves out jobs behind an `ancient` input
    that is itself to be made again.
    """
    name = environment_name(stage)
    if CONDA:
        return []
    lock = f"envs/locks/{name}.txt"
    return [lock, ancient(f"<environments>/{name}/.complete-{sha256(ROOT / lock)[:12]}")]


def conda(stage):
    """The conda file of a stage, relative to this folder."""
    return f"../../envs/{environment_name(stage)}.yaml"


def quoted(path):
    """A path as a word of the shell, in text that Snakemake formats."""
    return shlex.quote(str(path)).replace("{", "{{").replace("}", "}}")


# `in_stage NAME COMMAND …` runs a command in a stage's environment: conda has activated it already,
# otherwise the virtual environment goes first on the path. The command line itself refuses to run
# under an interpreter that is not the stage's (SUBNETWORKS_STAGE).
_ACTIVATE = (
    ""
    if CONDA
    else f"local folder={quoted(Path(config['environments']).resolve())}/$name; "
    'export VIRTUAL_ENV="$folder" PATH="$folder/bin:$PATH"; '
)
shell.prefix(
    "set -euo pipefail; in_stage() {{ local name; "
    f'case "$1" in {"|".join(ACCELERATED)}) name="$1-{ACCELERATOR["kind"]}";; *) name="$1";; esac; '
    f'{_ACTIVATE}export SUBNETWORKS_STAGE="$name" SUBNETWORKS_EXPERIMENT={quoted(EXPERIMENT.source.resolve())} PYTHONPATH={quoted(ROOT / "src")} PYTHONNOUSERSITE=1; '
    # Without cached bytecode the trainers and servers take twice as long to start.
    'unset PYTHONDONTWRITEBYTECODE; shift; "$@"; }}; '
)


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

    `mpi` tells the SLURM executor that the job starts its own tasks on the nodes.
    """
    gpus = ACCELERATOR["devices"] if ACCELERATOR["kind"] == "cuda" else 0
    nodes = ACCELERATOR.get("nodes", 1)
    if nodes == 1:
        return {"gpu": gpus}
    each = {"gres": f"gpu:{gpus}"} if gpus else {}
    return {"nodes": nodes, "tasks": nodes, "mpi": "srun", **each}


def names(*sections):
    """A wildcard constraint that matches exactly the given names."""
    return "|".join(sorted({name for section in sections for name in section})) or "(?!)"


def asked_for(pattern, section, controls=False):
    """A file for each name in a section: of the experiment proper, or of its controls alone."""
    return expand(f"<results>/{pattern}", name=EXPERIMENT.named(section, controls=controls))


def artefacts(section, suffix, controls=False):
    """The files of all tables or figures that the experiment asks for, or its controls do."""
    return asked_for(f"{section}/{{name}}.{suffix}", section, controls)


def wanted(controls=False):
    """All results that the experiment asks for, or its controls do."""
    return [
        *asked_for("updates/{name}.json", "updates", controls),
        *asked_for("overlaps/{name}.json", "overlaps", controls),
        *asked_for("evaluation/{name}/scores.json", "evaluation", controls),
        *artefacts("tables", "csv", controls),
        *artefacts("figures", "png", controls),
    ]


def captions():
    """The captions of those tables and figures that the experiment asks for."""
    folder = Path("workflow/report")
    files = (folder / f"{name}.rst" for name in [*EXPERIMENT.tables, *EXPERIMENT.figures])
    return [file for file in files if (ROOT / file).exists()]


def checkpoint(name):
    """The file that says a checkpoint is complete."""
    return f"<results>/checkpoints/{name}/manifest.json"


def values_of(spec, *keys):
    """All strings under the given keys anywhere in an artefact's specification, each once."""
    found = {}
    for key, value in experiments.leaves(spec):
        if key in keys and isinstance(value, str):
            found[value] = None
    return list(found)


def settings_of(entry, *without):
    """An entry's settings as canonical JSON, so that the order of keys reruns nothing."""
    return canonical_json({key: value for key, value in entry.items() if key not in without})


# What training reads of the machine, and what evaluation reads: neither reruns the other.
ACCELERATOR_JSON = settings_of(ACCELERATOR, "evaluation", "hours")
EVALUATION_JSON = canonical_json(
    {
        key: ACCELERATOR[key]
        for key in ("kind", "devices", "threads", "bfloat16")
        if key in ACCELERATOR
    }
    | ACCELERATOR.get("evaluation", {})
)


def trust(entry):
    """The option that lets a checkpoint's own code run, if the experiment says so."""
    return "--trust-remote-code" if entry.get("trust_remote_code") else ""


def locked(section, name, manifest, *within):
    """Digest of what the lock holds a source to, as far as it decides whether to fetch it again.

    What was fetched before it was locked, or as the lock has it, stays as it is: the digest it was
    planned with then stands in its manifest.
    """
    entry = LOCKED.get(EXPERIMENT.hub_source(section, name).key)
    path = Path(f"results/{config['experiment']}") / manifest
    try:
        fetched = json.loads(path.read_text(encoding="utf-8"))
        for key in within:
            fetched = fetched[key]
        if entry is None or fetched["locked"] == entry.digest:
            return fetched["planned"]
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return entry.digest if entry else locks.NEW


def mask_inputs(wildcards):
    """What a derived mask is made of: masks, and a checkpoint or a run's trajectory."""
    entry = EXPERIMENT.masks[wildcards.mask]
    inputs = {
        "sources": [
            f"<results>/masks/{name}.safetensors" for name in experiments.mask_sources(entry)
        ]
    }
    if weights := experiments.mask_checkpoint(entry):
        inputs["checkpoint"] = checkpoint(weights)
    if "early" in entry:
        inputs["trajectory"] = f"<results>/runs/{entry['early']['run']}/trajectory/manifest.json"
    return inputs


def mask_arguments(wildcards, input):
    """The operation that derives a mask, and what it is made of, as the command line takes them."""
    entry = EXPERIMENT.masks[wildcards.mask]
    operation = next(key for key in entry if key != "seed")
    match operation:
        case "magnitude" | "principal":
            given = entry[operation]
            options = [
                f"--like {input.sources}" if "like" in given else f"--density {given['density']}"
            ]
            if "rank" in given:
                options.append(f"--rank {given['rank']}")
            return " ".join([operation, str(Path(input.checkpoint).parent), *options])
        case "early":
            return f"early {trajectory.file_of(Path(input.trajectory).parent, entry['early']['steps'])}"
    return f"{operation} {input.sources}"


def run_facts(name):
    """How a run was trained, as far as a table shows it; nothing for any other update."""
    run = EXPERIMENT.runs.get(name, {})
    facts = {key: run[key] for key in ("learning_rate", "batch_size", "steps") if key in run}
    if "updates_per_step" in run and "steps" in run:
        facts["updates_per_step"] = run["updates_per_step"]
    return facts


def expanded(spec):
    """An artefact's specification with what the experiment says of the things that it names.

    Each agreement is replaced by what it is read from; where data are told apart by whose they are,
    a run's learning rate and steps stand beside it.
    """
    if "start" in spec or any("in_distribution" in row for row in spec.get("updates", [])):
        return {
            **spec,
            "updates": [{**run_facts(row["update"]), **row} for row in spec["updates"]],
        }
    if "ablations" in spec:
        return {
            "ablations": [
                {
                    **row,
                    "of": [
                        {**run_facts(one.get("update") or one["run"]), **one} for one in row["of"]
                    ],
                }
                for row in spec["ablations"]
            ]
        }
    if "agreements" not in spec:
        return spec
    rows = []
    for row in spec["agreements"]:
        name = row["agreement"]
        agreement = EXPERIMENT.agreements[name]
        rows.append(
            {
                **row,
                "full": agreement["full"],
                "subnetwork": agreement["subnetwork"],
                "update": f"{name}_agreement",
                "within": f"{name}_within",
                "baselines": {
                    label: f"{name}_agreement_{label}" for label in agreement.get("baselines", {})
                },
            }
        )
    return {**spec, "agreements": rows}


def artefact_spec(section, name):
    """What a table or figure shows, as canonical JSON; empty if the experiment does not ask for it."""
    text = canonical_json(expanded(section.get(name, {})))
    # A function: Snakemake takes braces in a string for wildcards.
    return lambda wildcards: text


LIBRARY = Path("src/subnetworks")
SHOWN = ("tables", "figures")


def artefact_module(kind, name):
    """The module that makes a table or a figure."""
    return LIBRARY / kind / f"{name}.py"


@functools.cache
def shown_imports(source):
    """What a module may import of tables/, figures/ and results.py; parsed once, all share them."""
    places = []
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            places += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [
        LIBRARY / f"{'/'.join(parts)}.py"
        for _, *parts in (place.split(".") for place in places)
        if parts and (parts[0] in SHOWN or parts == ["results"])
    ]


def artefact_code(kind, name):
    """The modules that make an artefact, so that touching one makes it again and nothing else.

    Its own, how it is written, and of tables/, figures/ and results.py what these import.
    """
    found, waiting = [], [artefact_module(kind, name), LIBRARY / kind / "style.py"]
    while waiting:
        source = waiting.pop()
        if source in found or not (ROOT / source).exists():
            continue
        found.append(source)
        waiting += shown_imports(source)
    return sorted(found)


def report_code():
    """What the report is made with, so that touching it writes the report anew and nothing else."""
    pages = sorted(path.name for path in (ROOT / LIBRARY / "report").iterdir() if path.is_file())
    return [
        LIBRARY / "findings.py",
        LIBRARY / "controlled.py",
        *(LIBRARY / "report" / page for page in pages),
    ]


def first_line(source):
    """What a module is for."""
    text = (ROOT / source).read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)).splitlines()[0]


def control_kind(name):
    """Whether a control is a table or a figure: where its module lies."""
    return next(kind for kind in SHOWN if (ROOT / artefact_module(kind, name)).exists())


def control_entry(name):
    """What the experiment asks a control to show; nothing if it does not ask for it."""
    return getattr(EXPERIMENT, control_kind(name)).get(name, {})


def control_files(name, reads):
    """The results that a control reads, of each thing that it names under a key of `reads`."""
    spec = expanded(control_entry(name))
    return [
        f"<results>/{pattern.format(thing)}"
        for key, patterns in reads.items()
        for thing in values_of(spec, key)
        for pattern in patterns
    ]


def control_outputs(name):
    """A control's files; the one that Snakemake's report shows among them."""
    kind = control_kind(name)
    suffixes = {"tables": ("csv", "md", "tex"), "figures": ("png", "pdf", "svg", "csv")}[kind]
    files = {suffix: f"<results>/{kind}/{name}.{suffix}" for suffix in suffixes}
    words = name.removeprefix("control_").replace("_", " ")
    files[suffixes[0]] = report(
        files[suffixes[0]],
        caption=f"../report/{name}.rst",
        category="What readers ask next",
        labels={"control": words},
    )
    return files


def controls_made():
    """Digests of the controls there are: the page shows them, but does not ask for them."""
    folder = Path("results", config["experiment"])
    files = [
        folder / "tables" / f"{name}.csv" for name in EXPERIMENT.named("tables", controls=True)
    ]
    files += [
        folder / "figures" / f"{name}.png" for name in EXPERIMENT.named("figures", controls=True)
    ]
    return " ".join(sha256(file)[:12] for file in files if file.exists())


def update_files(section, name, suffix):
    """Results of the updates that an artefact names."""
    spec = expanded(section.get(name, {}))
    updates = values_of(spec, "update", "sft", "rl")
    for row in spec.get("agreements", []):
        updates += row["baselines"].values()
    return [f"<results>/updates/{update}{suffix}" for update in updates]


def overlap_files(section, name):
    """Results of the overlaps that an artefact names."""
    overlaps = values_of(expanded(section.get(name, {})), "overlap", "within")
    return [f"<results>/overlaps/{overlap}.json" for overlap in overlaps]


def score_files(section, name):
    """Scores of the checkpoints that an artefact names."""
    checkpoints = values_of(section.get(name, {}), "full", "subnetwork", "init")
    return [f"<results>/evaluation/{checkpoint}/scores.json" for checkpoint in checkpoints]


def log_files(section, name, *keys):
    """Logs of the runs that an artefact names, under further keys too if need be."""
    runs = values_of(section.get(name, {}), "full", "subnetwork", "run", *keys)
    return [f"<results>/runs/{run}/log.csv" for run in runs]


def trajectory_files(section, name):
    """What became of the weights of the runs that an artefact names."""
    return [f"<results>/trajectories/{run}.json" for run in values_of(section.get(name, {}), "run")]


def policy_of(wildcards):
    """The checkpoint whose samples a data set is made of, if it needs one."""
    policy = EXPERIMENT.datasets[wildcards.dataset].get("policy")
    return checkpoint(policy) if policy else []


def mask_of(wildcards):
    """The mask a run trains within, if it has one."""
    mask = EXPERIMENT.runs[wildcards.run].get("mask")
    return f"<results>/masks/{mask}.safetensors" if mask else []


def both_ends(wildcards):
    update = EXPERIMENT.updates[wildcards.change]
    return {side: checkpoint(update[side]) for side in ("before", "after")}


def measuring_options(wildcards, *keys):
    """In what, how much and at which tolerances an update is measured, where the experiment says so."""
    update = EXPERIMENT.updates[wildcards.change]
    options = [
        f"--{key.replace('_', '-')}" for key in ("common_rows", "allow_partial") if update.get(key)
    ]
    options += [
        f"--{key} {update[key] if key == 'cast' else ','.join(update[key])}"
        for key in keys
        if key in update
    ]
    return " ".join(options)


def both_masks(wildcards):
    """Two masks, and the weights they are drawn on (for chance matched by magnitude)."""
    first, second = EXPERIMENT.overlaps[wildcards.overlap]["masks"]
    return {
        "first": f"<results>/masks/{first}.safetensors",
        "second": f"<results>/masks/{second}.safetensors",
        "weights": checkpoint(EXPERIMENT.before_of_mask(first)),
    }


# Keys of a benchmark that say how its rows are made; the others say how they are asked.
MADE_KEYS = ("make", "rows", "seed")


def rows_of(wildcards):
    """The files with the made rows of the benchmarks that a checkpoint is scored on."""
    wanted = EXPERIMENT.evaluation[wildcards.checkpoint]["benchmarks"]
    return [
        f"<results>/benchmarks/{name}/manifest.json"
        for name in wanted
        if "make" in EXPERIMENT.benchmarks[name]
    ]


def asked(name):
    """How a benchmark is asked, with the folder of its rows where they are made here."""
    entry = dict(EXPERIMENT.benchmarks[name])
    if "make" in entry:
        entry = {key: value for key, value in entry.items() if key not in MADE_KEYS}
        entry["data"] = f"results/{config['experiment']}/benchmarks/{name}"
    return entry


def benchmark_settings(wildcards):
    """Settings by benchmark of a checkpoint's evaluation."""
    wanted = EXPERIMENT.evaluation[wildcards.checkpoint]["benchmarks"]
    return canonical_json({name: asked(name) for name in wanted})


try:
    # A task that is not known should not be found out after a week of training.
    for name in EXPERIMENT.benchmarks:
        parse_benchmark(name, asked(name))
except UserError as error:
    raise WorkflowError(f"experiments/{config['experiment']}.yaml: {error}") from None


wildcard_constraints:
    run=names(EXPERIMENT.runs),
    change=names(EXPERIMENT.updates),  # `update` itself is reserved by Snakemake
    mask=names(EXPERIMENT.masks),
    overlap=names(EXPERIMENT.overlaps),
    dataset=names(EXPERIMENT.datasets),
    benchmark=names(EXPERIMENT.benchmarks),
    checkpoint=names(EXPERIMENT.checkpoints, EXPERIMENT.runs),
