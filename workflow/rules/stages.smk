"""Stages: what a rule depends on and calls so that it runs in its stage's environment."""

import os
import shlex

from snakemake_interface_executor_plugins.settings import DeploymentMethod

CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
if CONDA:
    # pip, which conda calls, would leave out of an environment what lies in ~/.local.
    os.environ.update(PYTHONNOUSERSITE="1")
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
    "export SUBNETWORKS_DEPLOYMENT=conda; "
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
